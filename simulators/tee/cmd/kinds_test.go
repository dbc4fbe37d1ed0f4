package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/simulators/guest/aa"
	"github.com/coco-e2e/coco-e2e/simulators/guest/tpm"
	"github.com/coco-e2e/coco-e2e/simulators/tee/authority"
)

// roots are made once: AMD's keys have 4096 bits.
var roots = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "roots")
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "roots"), authority.Make(filepath.Join(dir, "roots"))
})

func testRoots(t testing.TB) (dir string, loaded evidence.Roots) {
	t.Helper()
	dir, err := roots()
	if err != nil {
		t.Fatal(err)
	}
	if loaded, err = evidence.LoadRoots(dir); err != nil {
		t.Fatal(err)
	}
	return dir, loaded
}

// hardware starts a machine in a process of its own and gives its guest's attester.
func hardware(t *testing.T, kind string, args ...string) aa.Attester {
	t.Helper()
	dir, _ := testRoots(t)
	// t.TempDir's names are too long for unix sockets.
	at, err := os.MkdirTemp("", "tee")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(at) })
	socket := filepath.Join(at, "s")
	start(t, os.Args[0], append([]string{"--kind", kind, "--roots", dir, "--socket", socket, "--log", filepath.Join(at, "log")}, args...)...)
	switch kind {
	case "tpm":
		return &aa.TPM{TPM: tpm.TPM{Device: socket, AKHandle: tpm.DefaultAKHandle}}
	case "snp":
		return &aa.SNP{Device: socket}
	case "tdx":
		return &aa.TDX{Device: socket}
	}
	return &aa.Azure{TPM: tpm.TPM{Device: socket, AKHandle: 0x81000003}, SNP: kind == "az-snp-vtpm", Metadata: socket + metadataSuffix}
}

// TestEvidence takes evidence of each kind from its hardware to the verifier: it holds under the test roots, and under no
// vendor's.
func TestEvidence(t *testing.T) {
	_, trusted := testRoots(t)
	sum256, sum384 := sha256.Sum256([]byte("init-data")), sha512.Sum384([]byte("init-data"))
	for _, tc := range []struct {
		kind      string
		digest    []byte
		certified bool
	}{
		{"tpm", sum256[:], false},
		{"az-snp-vtpm", sum256[:], true},
		{"az-tdx-vtpm", sum256[:], true},
		{"snp", sum256[:], true},
		{"snp", sum384[:], true}, // cut
		{"tdx", sum256[:], true}, // padded
		{"tdx", sum384[:], true},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			attester := hardware(t, tc.kind, "--host-data", hex.EncodeToString(tc.digest))
			if attester.Tee() != tc.kind {
				t.Fatalf("it calls itself %s", attester.Tee())
			}
			if err := attester.BindInitData(t.Context(), tc.digest); err != nil {
				t.Fatalf("bind: %v", err)
			}
			reportData := sha512.Sum384([]byte("challenge"))
			raw, err := attester.Evidence(t.Context(), reportData[:])
			if err != nil {
				t.Fatal(err)
			}
			claims, err := evidence.Verify(tc.kind, raw, reportData[:], evidence.Options{Roots: trusted, InitDataDigest: tc.digest})
			if err != nil {
				t.Fatal(err)
			}
			if claims.TestRoot != tc.certified {
				t.Errorf("test root: %t", claims.TestRoot)
			}
			_, err = evidence.Verify(tc.kind, raw, reportData[:], evidence.Options{InitDataDigest: tc.digest})
			if tc.certified != errors.Is(err, evidence.ErrChain) || !tc.certified && err != nil {
				t.Errorf("under the vendors' roots: %v", err)
			}
			// Another challenge needs another report.
			other := sha512.Sum384([]byte("another challenge"))
			if _, err := evidence.Verify(tc.kind, raw, other[:], evidence.Options{Roots: trusted}); err == nil {
				t.Error("it answers another challenge")
			}
			again, err := attester.Evidence(t.Context(), other[:])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := evidence.Verify(tc.kind, again, other[:], evidence.Options{Roots: trusted}); err != nil {
				t.Errorf("the second evidence: %v", err)
			}
		})
	}
}

// TestHostData: what the host measured is not what the guest was given.
func TestHostData(t *testing.T) {
	sum := sha256.Sum256([]byte("init-data"))
	for kind, want := range map[string]string{"snp": "HOSTDATA does not match.", "tdx": "Init data does not match!"} {
		for name, args := range map[string][]string{"other": {"--host-data", "00ff"}, "none": nil} {
			if err := hardware(t, kind, args...).BindInitData(t.Context(), sum[:]); err == nil || err.Error() != want {
				t.Errorf("%s, %s: %v, want %s", kind, name, err, want)
			}
		}
	}
}

func TestLongDigests(t *testing.T) {
	sum := sha512.Sum384([]byte("init-data"))
	for _, kind := range []string{"az-snp-vtpm", "az-tdx-vtpm"} {
		if err := hardware(t, kind).BindInitData(t.Context(), sum[:]); err == nil || err.Error() != "expected sha256 digest" {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestExtend: what a guest measures at run time is in the evidence, in the register that stands for the PCR.
func TestExtend(t *testing.T) {
	_, trusted := testRoots(t)
	for _, kind := range []string{"tpm", "az-tdx-vtpm", "tdx"} {
		attester := hardware(t, kind)
		registers := attester.(aa.Extender)
		digest := make([]byte, registers.Bank().Size())
		if err := registers.Extend(t.Context(), 15, digest); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if kind == "tdx" {
			// Without a log of it the register does not add up.
			raw, err := attester.Evidence(t.Context(), []byte("nonce"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := evidence.Verify(kind, raw, []byte("nonce"), evidence.Options{Roots: trusted}); !errors.Is(err, evidence.ErrEventLog) {
				t.Errorf("an event that nobody logged: %v", err)
			}
			for pcr, want := range map[uint32]uint32{0: 4, 1: 1, 7: 1, 4: 2, 8: 3, 15: 3, 17: 4, 23: 4} {
				if got := registers.Register(pcr); got != want {
					t.Errorf("PCR %d stands for register %d, want %d", pcr, got, want)
				}
			}
			// Firmware's registers are not the guest's.
			if err := registers.Extend(t.Context(), 1, digest); err == nil || !strings.Contains(err.Error(), "RTMR 0 is not the guest's") {
				t.Errorf("RTMR 0: %v", err)
			}
			continue
		}
		raw, err := attester.Evidence(t.Context(), []byte("nonce"))
		if err != nil {
			t.Fatal(err)
		}
		claims, err := evidence.Verify(kind, raw, []byte("nonce"), evidence.Options{Roots: trusted})
		if err != nil {
			t.Fatal(err)
		}
		// printf '%064d' 0 | xxd -r -p | cat - <same> | openssl dgst -sha256
		if want := "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"; claims.PCR(15) != want {
			t.Errorf("%s: PCR 15 is %s, want %s", kind, claims.PCR(15), want)
		}
	}
}

// TestGuestCannotForge: a guest has the rights of the TPM's owner, and can write report data but no report; and no
// command of its resets PCR 8.
func TestGuestCannotForge(t *testing.T) {
	attester := hardware(t, "az-snp-vtpm").(*aa.Azure)
	if err := attester.TPM.WriteNV(t.Context(), 0x01400001, make([]byte, 64)); !errors.Is(err, tpm2.TPMRCAuthUnavailable) {
		t.Errorf("write of the HCL report: %v", err)
	}
	if err := attester.TPM.WriteNV(t.Context(), 0x01400002, bytes.Repeat([]byte{1}, 64)); err != nil {
		t.Errorf("control: write of report data: %v", err)
	}
	report, err := attester.TPM.ReadNV(t.Context(), 0x01400001)
	if err != nil || !bytes.Contains(report, []byte(strings.Repeat("01", 64))) {
		t.Errorf("the new report has not the report data: %v", err)
	}
	if err := attester.TPM.WriteNV(t.Context(), 0x01400003, nil); !errors.Is(err, tpm.ErrNoIndex) {
		t.Errorf("no such index: %v", err)
	}
}

// TestForeignQuote: the host's quote service signs its own machine's reports alone.
func TestForeignQuote(t *testing.T) {
	one, other := hardware(t, "az-tdx-vtpm").(*aa.Azure), hardware(t, "az-tdx-vtpm").(*aa.Azure)
	one.Metadata = other.Metadata
	if _, err := one.Evidence(t.Context(), []byte("nonce")); err == nil || !strings.Contains(err.Error(), "does not take this TDREPORT") {
		t.Errorf("a foreign report: %v", err)
	}
}

func TestRootsSayWhatTheyAre(t *testing.T) {
	dir, _ := testRoots(t)
	for _, name := range []string{"amd-ark.pem", "amd-ask.pem", "intel-root.pem"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if s := certificate.Subject.String(); !strings.Contains(s, "TEST") || !strings.Contains(s, "simulated hardware") {
			t.Errorf("%s: %s", name, s)
		}
	}
	if err := authority.Make(dir); err == nil {
		t.Error("roots were made over others")
	}
}

func TestBadKinds(t *testing.T) {
	dir, _ := testRoots(t)
	for _, tc := range []struct{ kind, roots, hostData, want string }{
		{"sgx", dir, "", `--kind "sgx": use tpm`},
		{"snp", "", "", "--kind snp needs --roots"},
		{"snp", t.TempDir(), "", "make them with `tee make-roots"},
		{"tdx", dir, "xyz", `--host-data "xyz": want hex`},
	} {
		if _, err := powerOn(options{kind: tc.kind, roots: tc.roots, hostData: tc.hostData}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", tc.kind, err, tc.want)
		}
	}
}
