package tpm

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/simulators/tee"
	"github.com/coco-e2e/coco-e2e/simulators/tee/stream"
)

// The article's numbers, made with openssl.
const (
	articleDigest = "bdc9a7390bb371258fb7fb8be5a8de5ced6a07dd077d1ce04ec26e06eaf68f60"
	articlePCR8   = "7aaf19294adabd752bf095e1f076baed85d4b088fa990cb575ad0f3e0569f292"
)

// powerOn serves a fresh TPM on a socket for the test's time. One test at a time: the TPM's state is global.
func powerOn(t *testing.T) *TPM {
	t.Helper()
	machine, err := tee.PowerOn()
	if err != nil {
		t.Fatal(err)
	}
	directory, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	device := filepath.Join(directory, "tpm0")
	listener, err := stream.Listen(device)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &stream.Server{Execute: machine.Execute, Log: slog.New(slog.DiscardHandler)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ctx, listener) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		_ = machine.Close()
		_ = os.RemoveAll(directory)
	})
	return &TPM{Device: device, AKHandle: DefaultAKHandle}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	value, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestEvidenceVerifiesAndShowsPCR8(t *testing.T) {
	machine := powerOn(t)
	if err := machine.Extend(t.Context(), 8, unhex(t, articleDigest)); err != nil {
		t.Fatal(err)
	}
	reportData := []byte(strings.Repeat("r", 48)) // as SHA-384 gives
	given, err := machine.Attest(t.Context(), reportData)
	if err != nil {
		t.Fatal(err)
	}
	if got := given.Quote.PCRs[8]; got != articlePCR8 {
		t.Errorf("PCR 8 %s, want %s", got, articlePCR8)
	}
	for pcr, value := range given.Quote.PCRs {
		want := strings.Repeat("00", 32)
		switch {
		case pcr == 8:
			continue
		case pcr >= 17 && pcr <= 22: // of dynamic launches: all ones until one happens
			want = strings.Repeat("ff", 32)
		}
		if value != want {
			t.Errorf("PCR %d %s, want %s", pcr, value, want)
		}
	}
	signature, err := base64.StdEncoding.DecodeString(given.Quote.Signature)
	if err != nil {
		t.Fatal(err)
	}
	// TPMT_SIGNATURE: RSASSA, SHA-256, 256 bytes.
	if got := hex.EncodeToString(signature[:6]); got != "0014000b0100" || len(signature) != 6+256 {
		t.Errorf("signature of %d bytes begins %s", len(signature), got)
	}
	raw, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := evidence.ParseTPM(raw)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := parsed.Verify(reportData, evidence.Options{InitDataDigest: unhex(t, articleDigest)})
	if err != nil {
		t.Fatal(err)
	}
	if claims.InitData != articlePCR8 {
		t.Errorf("claim init_data %s, want %s", claims.InitData, articlePCR8)
	}
	// 32 bytes of the report data go into the quote, so that what follows them proves nothing.
	if want := strings.Repeat("72", 32); claims.ReportData != want {
		t.Errorf("report data %s, want %s", claims.ReportData, want)
	}
}

func TestShortReportDataIsPadded(t *testing.T) {
	machine := powerOn(t)
	given, err := machine.Attest(t.Context(), []byte("test"))
	if err != nil {
		t.Fatal(err)
	}
	message, err := base64.StdEncoding.DecodeString(given.Quote.Message)
	if err != nil {
		t.Fatal(err)
	}
	if nonce := "002074657374" + strings.Repeat("00", 28); !strings.Contains(hex.EncodeToString(message), nonce) {
		t.Errorf("message %x, want in it %s", message, nonce)
	}
}

func TestExtendTwiceIsNotOnce(t *testing.T) {
	machine := powerOn(t)
	for range 2 {
		if err := machine.Extend(t.Context(), 8, unhex(t, articleDigest)); err != nil {
			t.Fatal(err)
		}
	}
	given, err := machine.Attest(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	twice := sha256.Sum256(append(unhex(t, articlePCR8), unhex(t, articleDigest)...))
	if got := given.Quote.PCRs[8]; got != hex.EncodeToString(twice[:]) {
		t.Errorf("PCR 8 %s, want %x", got, twice)
	}
}

func TestExtendTakesSHA256DigestsOnly(t *testing.T) {
	machine := &TPM{Device: "/nonexistent"}
	for _, length := range []int{0, 20, 31, 33, 48, 64} {
		err := machine.Extend(t.Context(), 8, make([]byte, length))
		if err == nil || err.Error() != "Event digest length is not 32 bytes" {
			t.Errorf("%d bytes: %v", length, err)
		}
	}
}

// TestAttestWhileOthersExtend has another process extend a PCR after the values were read and before they are quoted, once
// and then always.
func TestAttestWhileOthersExtend(t *testing.T) {
	machine := powerOn(t)
	for _, test := range []struct {
		name     string
		extends  int
		attempts int
		want     string
	}{
		{"once", 1, 2, ""},
		{"always", 1000, 5, "TPM2_Quote: PCRs changed during each of 5 attempts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			quotes := 0
			meddled := &TPM{AKHandle: DefaultAKHandle, Device: meddle(t, machine, func() {
				if quotes++; quotes <= test.extends {
					if err := machine.Extend(context.Background(), 16, make([]byte, 32)); err != nil {
						t.Error(err)
					}
				}
			})}
			given, err := meddled.Attest(t.Context(), []byte("x"))
			if quotes != test.attempts {
				t.Errorf("%d quotes, want %d", quotes, test.attempts)
			}
			if test.want != "" {
				if err == nil || err.Error() != test.want {
					t.Errorf("error %v, want %s", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(given)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := evidence.ParseTPM(raw)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parsed.Verify([]byte("x"), evidence.Options{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// meddle serves machine's TPM with a hook before each TPM2_Quote.
func meddle(t *testing.T, machine *TPM, beforeQuote func()) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tpm")
	listener, err := stream.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	behind, err := open(context.Background(), machine.Device)
	if err != nil {
		t.Fatal(err)
	}
	server := &stream.Server{Log: slog.New(slog.DiscardHandler), Execute: func(command []byte) ([]byte, error) {
		if binary.BigEndian.Uint32(command[6:]) == 0x158 {
			beforeQuote()
		}
		return behind.Send(command)
	}}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ctx, listener) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		_ = behind.Close()
	})
	return path
}

func TestUnknownKeyIsAnError(t *testing.T) {
	machine := powerOn(t)
	machine.AKHandle = 0x81010077
	_, err := machine.Attest(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "attestation key 0x81010077: TPM2_ReadPublic") {
		t.Errorf("error %v", err)
	}
}

// TestHostileDevice feeds responses that no TPM gives.
func TestHostileDevice(t *testing.T) {
	for _, test := range []struct{ name, response, want string }{
		{"hangs up", "", "read TPM response: EOF"},
		{"short", "8001", "read TPM response: unexpected EOF"},
		{"size too small", "80010000000900000000", "size field says 9 bytes"},
		{"size too big", "80017fffffff00000000", "size field says 2147483647 bytes"},
		{"TPM failure", "80010000000a00000101", "TPM_RC_FAILURE"},
		{"truncated body", "80010000002000000000ab", "unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			machine := &TPM{Device: canned(t, unhex(t, test.response)), AKHandle: DefaultAKHandle}
			_, err := machine.Attest(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want in it %q", err, test.want)
			}
		})
	}
}

// canned answers each connection's first command with response and hangs up.
func canned(t *testing.T, response []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tpm")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			if _, err := stream.ReadCommand(connection); err == nil {
				_, _ = connection.Write(response)
			}
			_ = connection.Close()
		}
	}()
	return path
}

func TestCancelInterruptsASilentTPM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tpm")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the test")
	go func() {
		connection, err := listener.Accept()
		if err == nil {
			_, _ = stream.ReadCommand(connection)
			cancel(stopped)
			_, _ = io.Copy(io.Discard, connection) // until the client hangs up
			_ = connection.Close()
		}
	}()
	if _, err := (&TPM{Device: path, AKHandle: DefaultAKHandle}).Attest(ctx, nil); !errors.Is(err, stopped) {
		t.Errorf("error %v, want %v", err, stopped)
	}
}

func TestFindDevice(t *testing.T) {
	directory := t.TempDir()
	first, second := filepath.Join(directory, "tpm0"), filepath.Join(directory, "tpm1")
	if err := os.WriteFile(second, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if path, err := findDevice("", []string{first, second}); path != second || err != nil {
		t.Errorf("%q, %v", path, err)
	}
	if path, err := findDevice("", []string{first}); !errors.Is(err, ErrNoDevice) {
		t.Errorf("%q, %v", path, err)
	}
	if path, err := findDevice(first, []string{second}); err == nil || errors.Is(err, ErrNoDevice) {
		t.Errorf("a chosen device that is missing: %q, %v", path, err)
	}
}

func TestParseHandle(t *testing.T) {
	for _, test := range []struct {
		text string
		want uint32
		ok   bool
	}{
		{"", 0x81010002, true},
		{"0x81000003", 0x81000003, true},
		{"2164326403", 0x81010003, true},
		{"0x181010002", 0, false},
		{"ak", 0, false},
	} {
		got, err := ParseHandle(test.text)
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("%q: %#x, %v", test.text, got, err)
		}
	}
}
