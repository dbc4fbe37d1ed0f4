package message

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

const attestation = `{"init-data":null,"runtime-data":{"nonce":"bm9uY2U=","tee-pubkey":{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"eA","y":"eQ","use":"enc"}},"tee-evidence":{"primary_evidence":{"a":1},"additional_evidence":""}}`

// The vector of Trustee's tests.
func TestCanonicalHash(t *testing.T) {
	got, err := canonicalHash([]byte(`{"b":1,"a":"test","c":{"d":"e"}}`))
	const want = "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
	if err != nil || hex.EncodeToString(got) != want {
		t.Errorf("%x %v, want %s", got, err, want)
	}
}

// printf '{"additional-evidence":"","nonce":"bm9uY2U=","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"eA","y":"eQ"}}' | openssl dgst -sha384
func TestReportData(t *testing.T) {
	parsed, err := ParseAttestation([]byte(attestation))
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsed.Runtime.ReportData()
	const want = "412a2cd46689a873a3606a62cc5dadd837d33a7dfe3706531ba537d4c21eb3dfb6a4639a2302472555aa3430cee0bc4e"
	if err != nil || hex.EncodeToString(got) != want {
		t.Errorf("%x %v, want %s", got, err, want)
	}
}

func TestParseAttestation(t *testing.T) {
	parsed, err := ParseAttestation([]byte(attestation))
	if err != nil || parsed.InitData != nil || string(parsed.Evidence) != `{"a":1}` || parsed.Runtime.Nonce != "bm9uY2U=" ||
		parsed.Runtime.Key != (PublicKey{Type: "EC", Algorithm: "ECDH-ES+A256KW", Curve: "P-256", X: "eA", Y: "eQ"}) {
		t.Errorf("%+v %v", parsed, err)
	}
	for _, c := range []struct{ from, to, want string }{
		{`null`, `{"format":"toml","body":"x"}`, ""},
		{`"init-data":null,`, ``, ""},
		{`null`, `"x"`, "`init-data`: not a JSON object"},
		{`null`, `{"format":"toml"}`, "missing field `body`"},
		{`"nonce"`, `"Nonce"`, "missing field `nonce`"},
		{`"nonce":"bm9uY2U="`, `"nonce":"bm9uY2U=","nonce":"bm9uY2U="`, "duplicate field `nonce`"},
		{`"nonce":"bm9uY2U="`, `"nonce":null`, "`nonce`: not a string"},
		{`"kty":"EC"`, `"kty":"AKP"`, "knows EC and RSA"},
		{`"kty":"EC"`, `"kty":"RSA"`, "missing field"},
		{`"crv":"P-256",`, ``, "missing field `crv`"},
		{`"primary_evidence"`, `"primary-evidence"`, "missing field `primary_evidence`"},
		{`"additional_evidence":""`, `"additional_evidence":{}`, "`additional_evidence`: not a string"},
		{`"additional_evidence":""`, `"x":""`, "missing field `additional_evidence`"},
		{`}}`, `}} {}`, ""},
	} {
		body := strings.Replace(attestation, c.from, c.to, 1)
		if c.from == `}}` {
			body, c.want = attestation+" {}", "more than one JSON value"
		}
		_, err := ParseAttestation([]byte(body))
		if (c.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", body, err, c.want)
		}
	}
}

func TestParseReferenceValues(t *testing.T) {
	got, err := ParseReferenceValues([]byte(`{"version":"0.1.0","type":"sample","payload":"eyJhIjpbIjEiXSwiYiI6Mn0="}`)) // {"a":["1"],"b":2}
	if err != nil || fmt.Sprint(got) != "map[a:[1] b:2]" {
		t.Errorf("%v %v", got, err)
	}
	for body, want := range map[string]string{
		`{"version":"0.2.0","type":"sample","payload":"e30="}`: "version unmatched",
		`{"version":"0.1.0","type":"swid","payload":"e30="}`:   "knows sample only",
		`{"version":"0.1.0","type":"sample","payload":"e30"}`:  "payload",
		`{"version":"0.1.0","type":"sample","payload":"W10="}`: "not a JSON object",
		`{"version":"0.1.0","type":"sample"}`:                  "missing field `payload`",
		`[]`:                                                   "not a JSON object",
	} {
		if _, err := ParseReferenceValues([]byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}

func TestDecodePolicy(t *testing.T) {
	for encoded, ok := range map[string]bool{"eA": true, "": true, "eA==": false, "eB": false, "e+8": false, "_-8": false, "eA\n": false, "77-9": true} {
		if _, err := DecodePolicy(encoded); (err == nil) != ok {
			t.Errorf("%q: %v", encoded, err)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(attestation))
	f.Add([]byte(`{"version":"0.4.0","tee":"tpm","extra-params":{}}`))
	f.Add([]byte(`{"policy_id":"default_cpu","policy":"eA"}`))
	f.Add([]byte(`{"version":"0.1.0","type":"sample","payload":"e30="}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if parsed, err := ParseAttestation(body); err == nil {
			if _, err := parsed.Runtime.ReportData(); err != nil {
				t.Errorf("report data: %v", err)
			}
		}
		_, _ = ParseRequest(body)
		_, _ = ParseAttestationPolicy(body)
		_, _ = ParseResourcePolicy(body)
		_, _ = ParseReferenceValues(body)
	})
}
