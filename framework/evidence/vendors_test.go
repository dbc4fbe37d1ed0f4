package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/verify/testdata"
	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxpb "github.com/google/go-tdx-guest/proto/tdx"
	tdxverify "github.com/google/go-tdx-guest/verify"
)

// What real hardware made, as Google publishes it in its modules' test data: an SNP report that AMD's key on a Milan
// processor signed, and TDX quotes of Intel's.

func at(year int) Options {
	return Options{AllowDebug: true, Now: func() time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }}
}

func realSNP(t testing.TB) (*snpReport, *x509.Certificate) {
	t.Helper()
	// Its version, 2, is one that only Azure's evidence may have.
	report, err := parseSNPReport("report", testdata.AttestationBytes, snpVersionAzure)
	if err != nil {
		t.Fatal(err)
	}
	vcek, err := x509.ParseCertificate(testdata.VcekBytes)
	if err != nil {
		t.Fatal(err)
	}
	return report, vcek
}

func TestSNPOfAMD(t *testing.T) {
	report, vcek := realSNP(t)
	claims, test, err := report.verify(vcek, at(2025))
	if err != nil || test || claims.Product != "Milan" || claims.Version != 2 || claims.ChipID == [64]byte{} {
		t.Errorf("%+v, %v, %v", claims, test, err)
	}
	if _, _, err := report.verify(vcek, at(2035)); !errors.Is(err, ErrChain) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after the certificate expired: %v", err)
	}
	for _, offset := range []int{0x50, 0x90, 0xc0, 0x180, 0x1a0, snpSigned - 1, snpSigned, snpSigned + snpComponent} {
		changed := append([]byte{}, testdata.AttestationBytes...)
		changed[offset] ^= 1
		report, err := parseSNPReport("report", changed, snpVersionAzure)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := report.verify(vcek, at(2025)); !errors.Is(err, ErrReportSignature) {
			t.Errorf("byte %#x changed: %v", offset, err)
		}
	}
	if _, err := parseSNPReport("report", testdata.AttestationBytes, snpVersionOld); !errors.Is(err, ErrFormat) {
		t.Errorf("version 2 as plain snp: %v", err)
	}
}

func tdxTestdata(t testing.TB, name string) []byte {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tdx-guest").Output()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "testing", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestTDXOfIntel(t *testing.T) {
	for _, name := range []string{"tdx_prod_quote_SPR_E4.dat", "ccel/cos-113-tdx-quote.dat"} {
		t.Run(name, func(t *testing.T) {
			raw := tdxTestdata(t, name)
			// Google put these bytes there by hand.
			if bare, ok := bytes.CutSuffix(raw, []byte("\nextra bytes(only for testing purpose)\n")); ok {
				if _, err := parseTDXQuote("quote", raw); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "39 bytes left over") {
					t.Errorf("with bytes left over: %v", err)
				}
				raw = bare
			}
			quote, err := parseTDXQuote("quote", raw)
			if err != nil {
				t.Fatal(err)
			}
			for text, change := range map[string]func(report []byte){
				"":                         func([]byte) {},
				"the enclave can be debug": func(report []byte) { report[48] |= 2 },
				"MRSIGNER ":                func(report []byte) { report[128] ^= 1 },
				"ISVPRODID 3 ":             func(report []byte) { report[256] ^= 1 },
			} {
				report := bytes.Clone(quote.qeReport)
				change(report)
				if err := checkQE(report, false); text == "" && err != nil || text != "" && (!errors.Is(err, ErrQEReport) || !strings.Contains(err.Error(), text)) {
					t.Errorf("quoting enclave, %q: %v", text, err)
				}
			}
			claims, test, err := quote.verify(at(2025))
			if err != nil || test {
				t.Fatalf("%v, %v", test, err)
			}
			// Google's decoder and verifier say the same.
			other, err := tdxabi.QuoteToProto(raw)
			if err != nil {
				t.Fatal(err)
			}
			body := other.(*tdxpb.QuoteV4).GetTdQuoteBody()
			if string(body.GetMrTd()) != string(claims.MRTD[:]) || string(body.GetReportData()) != string(claims.ReportData[:]) ||
				string(body.GetRtmrs()[3]) != string(claims.RTMRs[3][:]) || string(body.GetXfam()) != string(claims.XFAM[:]) ||
				string(body.GetMrConfigId()) != string(claims.MRConfigID[:]) {
				t.Errorf("%+v", claims)
			}
			options := tdxverify.DefaultOptions()
			now := at(2025).Now()
			options.Now.PckCertChain = now
			if err := tdxverify.TdxQuote(other, options); err != nil {
				t.Error(err)
			}
			if _, _, err := quote.verify(at(2055)); !errors.Is(err, ErrChain) {
				t.Errorf("after the certificates expired: %v", err)
			}
		})
	}
}

// AMD's chains are whole: each root signed itself and its intermediate, and they are of the line that they stand for.
func TestBuiltInRootsOfAMD(t *testing.T) {
	for _, vlek := range []bool{false, true} {
		candidates, err := amdCandidates(vlek, Roots{})
		if err != nil || len(candidates) != 3 {
			t.Fatalf("%v, %v", candidates, err)
		}
		for _, c := range candidates {
			want := "SEV-" + c.line
			if vlek {
				want = "SEV-VLEK-" + c.line
			}
			if c.root.Subject.CommonName != "ARK-"+c.line || c.intermediate.Subject.CommonName != want {
				t.Errorf("%s: %s, %s", c.line, c.root.Subject, c.intermediate.Subject)
			}
			if err := errors.Join(c.root.CheckSignatureFrom(c.root), c.intermediate.CheckSignatureFrom(c.root)); err != nil {
				t.Errorf("%s: %v", c.line, err)
			}
		}
	}
}

// A machine of Google's with Intel's hardware: quote and event log in the form of tdx evidence.
func TestTDXDocumentOfIntel(t *testing.T) {
	document := map[string]any{
		"quote":       base64.StdEncoding.EncodeToString(tdxTestdata(t, "ccel/cos-113-tdx-quote.dat")),
		"cc_eventlog": base64.StdEncoding.EncodeToString(tdxTestdata(t, "ccel/ccel_data.dat")),
	}
	report := tdxTestdata(t, "ccel/nonce.dat")
	options := at(2025)
	options.AllowDebug = false
	claims := expect(t, KindTDX, document, report, options, nil, "")
	if claims.TestRoot || claims.TDX.Debug() || len(claims.Map()["uefi_event_logs"].([]any)) < 20 {
		t.Errorf("%+v", claims)
	}
	expect(t, KindTDX, document, bytesOf(1, 64), options, ErrReportData, "")
	log := tdxTestdata(t, "ccel/ccel_data.dat")
	log[len(bytes.TrimRight(log, "\xff"))-1] ^= 1 // text of the last event, EV_EFI_ACTION
	document["cc_eventlog"] = base64.StdEncoding.EncodeToString(log)
	expect(t, KindTDX, document, report, options, ErrEventLog, "(EV_EFI_ACTION) has data that its digest is not of")
}
