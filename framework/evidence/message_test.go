package evidence

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The digest: printf '{"additional-evidence":"","nonce":"AAEC…Hh8=","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256",
// "kty":"EC","x":"eA","y":"eQ"}}' | openssl dgst -sha384, on one line.
const (
	attestMessage = `{"init-data":{"format":"toml","body":"version = \"0.1.0\"\n"},
 "runtime-data":{"tee-pubkey":{"kty":"EC","alg":"ECDH-ES+A256KW","y":"eQ","x":"eA","crv":"P-256"},"nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},
 "tee-evidence":{"primary_evidence":{"svn":"1","report_data":"AAAA"},"additional_evidence":""}}`
	runtimeDataDigest = "7129ea0513841a10a2a16bbc7dfee93167ca436ecb03ca534ffcd220211fc881905efed9bf072a81cecb32d3cd075955"
)

func TestParseMessage(t *testing.T) {
	message, err := ParseMessage([]byte(attestMessage))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(message.ReportData); got != runtimeDataDigest {
		t.Errorf("report data %s, want %s", got, runtimeDataDigest)
	}
	if string(message.InitData) != "version = \"0.1.0\"\n" || string(message.Evidence) != `{"svn":"1","report_data":"AAAA"}` {
		t.Errorf("%q, %s", message.InitData, message.Evidence)
	}
	none, err := ParseMessage([]byte(strings.Replace(attestMessage, `"init-data":{`, `"init-data":null,"x":{`, 1)))
	if err != nil || none.InitData != nil {
		t.Errorf("without init-data: %+v, %v", none, err)
	}
	// As above with the other kinds of key, each hashed without the field that is none of its kind's.
	for key, want := range map[string]string{
		`{"kty":"EC","alg":"ECDH-ES+A256KW","crv":"P-256","use":"enc","x":"eA","y":"eQ","kid":{"a":1}}`: runtimeDataDigest,
		`{"kty":"RSA","alg":"RSA-OAEP-256","n":"eA","x":"eA","e":"AQAB"}`:                               "2715c5a4350e77ebcd8d3f4c7abcae49f63002aedd6cf4ceca506a8f19de2f48bfaa78a114ea364713c58bc7be29c744",
		`{"kty":"AKP","crv":"P-256","alg":"ML-KEM-768+A192KW","pub":"eA"}`:                              "e054aafab11f62ad8d0d8cd0a1bf65749f81abc7c1d871df17321771dd25689da039719a997616a46b938b553c7f4a63",
	} {
		before, rest, _ := strings.Cut(attestMessage, `"tee-pubkey":{`)
		_, after, _ := strings.Cut(rest, "}")
		of, err := ParseMessage([]byte(before + `"tee-pubkey":` + key + after))
		if err != nil || hex.EncodeToString(of.ReportData) != want {
			t.Errorf("%s: %+v, %v, want report data %s", key, of, err, want)
		}
	}
	alone, err := ParseMessage(message.Evidence)
	if err != nil || alone.ReportData != nil || string(alone.Evidence) != string(message.Evidence) {
		t.Errorf("alone: %+v, %v", alone, err)
	}
	for name, c := range map[string]struct{ old, replaced, want string }{
		"no nonce":       {`"nonce":"`, `"x":"`, "runtime-data.nonce: missing"},
		"no key":         {`"tee-pubkey":{`, `"x":{`, "runtime-data.tee-pubkey: missing"},
		"no coordinate":  {`"y":`, `"why":`, "runtime-data.tee-pubkey.y: missing"},
		"unknown key":    {`"kty":"EC"`, `"kty":"OKP"`, `runtime-data.tee-pubkey.kty: "OKP", want EC, RSA or AKP`},
		"no evidence":    {`"primary_evidence":{`, `"x":{`, "tee-evidence.primary_evidence: missing"},
		"no devices":     {`"additional_evidence":""`, `"x":1`, "tee-evidence.additional_evidence: missing"},
		"init-data JSON": {`"toml"`, `"json"`, "init-data.format: not toml"},
		"nonce twice":    {`"nonce":"`, `"nonce":"","nonce":"`, `"nonce" occurs twice`},
	} {
		if _, err := ParseMessage([]byte(strings.Replace(attestMessage, c.old, c.replaced, 1))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want …%s…", name, err, c.want)
		}
	}
}

func TestDetect(t *testing.T) {
	all := documents(t)
	all[KindTPM] = fixture(t, "tpm.json")
	for kind, raw := range all {
		if got, err := Detect(raw); err != nil || got != kind {
			t.Errorf("%s is taken for %q, %v", kind, got, err)
		}
	}
	for _, kind := range []string{KindAzSNPVTPM, KindAzTDXVTPM} {
		old := asJSON(t, goodAzure(t, kind, []byte{1}, make([]byte, 32)).document(t, 0))
		if got, err := Detect(old); err != nil || got != kind {
			t.Errorf("%s version 0 is taken for %q, %v", kind, got, err)
		}
	}
	if _, err := Detect([]byte(`{"token":"x"}`)); !errors.Is(err, ErrFormat) {
		t.Errorf("something else: %v", err)
	}
}

func TestUnverifiedSaysWhatVerifiedSays(t *testing.T) {
	report := fromHex(t, reportData)
	all := documents(t)
	all[KindTPM] = fixture(t, "tpm.json")
	delete(all, KindSample)
	for kind, raw := range all {
		verified, err := Verify(kind, raw, report, testOptions(t))
		if err != nil {
			t.Fatal(kind, err)
		}
		unverified, err := Unverified(kind, raw)
		if err != nil || string(asJSON(t, unverified.Map())) != string(asJSON(t, verified.Map())) {
			t.Errorf("%s: %v, %v", kind, unverified, err)
		}
	}
	var unsupported *UnsupportedKindError
	if _, err := Unverified("sgx", nil); !errors.As(err, &unsupported) {
		t.Error(err)
	}
}

func TestLinkNamesTheMoreTelling(t *testing.T) {
	for want, err := range map[string]error{
		"":                 errors.New("no route to host"),
		"TCB microcode":    fmt.Errorf("x: %w", &TCBError{Field: "microcode"}),
		"AK in HCL report": fmt.Errorf("%w: %w", ErrAKBinding, &FormatError{"keys", "missing"}),
		"format":           &FormatError{"keys", "missing"},
		"kind":             &UnsupportedKindError{"x"},
	} {
		if got := Link(err); got != want {
			t.Errorf("Link(%v) = %q, want %q", err, got, want)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(attestMessage))
	f.Fuzz(func(t *testing.T, raw []byte) {
		message, err := ParseMessage(raw)
		if err != nil {
			return
		}
		if kind, err := Detect(message.Evidence); err == nil {
			if claims, err := Unverified(kind, message.Evidence); err == nil && claims.Map() == nil {
				t.Fatal("no claims")
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	report := fromHex(b, reportData)
	all := documents(b)
	all[KindTPM] = fixture(b, "tpm.json")
	delete(all, KindSample) // its report data is another, and there is nothing to verify
	for kind, raw := range all {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				if _, err := Verify(kind, raw, report, testOptions(b)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
