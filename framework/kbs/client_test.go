package kbs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestNew(t *testing.T) {
	for url, want := range map[string]string{
		"http://kbs:8080":                 "http://kbs:8080/kbs/v0",
		"https://kbs/":                    "https://kbs/kbs/v0",
		"https://kbs/trustee/":            "https://kbs/trustee/kbs/v0",
		"http://kbs:8080/kbs/v0":          "http://kbs:8080/kbs/v0",
		"kbs:8080":                        "",
		"":                                "",
		"ftp://kbs":                       "",
		"http://kbs?x=1":                  "",
		"http://kbs#x":                    "",
		"http://":                         "",
		"http://[::1]:8080":               "http://[::1]:8080/kbs/v0",
		"http://kbs.coco-tenant.svc:8080": "http://kbs.coco-tenant.svc:8080/kbs/v0",
	} {
		client, err := New(Options{URL: url})
		if (err != nil) != (want == "") || (err == nil && client.base != want) {
			t.Errorf("%q: %v, want %q", url, err, want)
		}
	}
	if _, err := New(Options{URL: "https://kbs", CA: []byte("x")}); err == nil {
		t.Error("CA without certificate was taken")
	}
}

func TestResourcePath(t *testing.T) {
	for path, want := range map[string]string{
		"default/key/1": "resource/default/key/1", "/default/key/1": "resource/default/key/1", "kbs:///default/key/1": "resource/default/key/1",
		"a.b/c-d/e_f": "resource/a.b/c-d/e_f", "-/_/0": "resource/-/_/0",
		"": "", "a/b": "", "a/b/c/d": "", "a//c": "", "a/../c": "", ".a/b/c": "", "a/b/c?x": "", "a/b/ä": "", "kbs://host/a/b/c": "", "a/b/c\n": "",
	} {
		got, err := resourcePath(path)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q %v, want %q", path, got, err, want)
		}
	}
}

func pemFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Keys in testdata, and what is expected of them, are openssl's; none of them protects anything.
const (
	ecX           = "Kx2S32WbdhBIdTxU473vRYTUrU-WN0nY_sC8lBnfAR0"
	ecY           = "GEZL7FsUWt1IY1q2TD9jV9TjeW15klzfEpi3aCGdqmQ"
	ecFingerprint = "fd820af607a05154" // openssl ec -pubout -outform DER | openssl dgst -sha256
	rsaN          = "oC0Ozb-vcst5CCdKfOD0ZnAUMWUs8mUDGxh7RYMN2fiYp-sCmLgIypiRT2H9Gp7zHdIaz_MKyUzqbq9aAjCU5Tc-AG5pLrxqw3M31MkwmyLW4bXBqPRxK7zus8Sob_gvLEVSKvhURTih9WgSpAPRmRlYhytbYjmv8qE5yTVzWBsCSidsOiJjRAGta8l2ZVDASFNsaqxj6f0QICCLYUMXwtPUKbl3B6loINssIKmyLMtz4IuL4ydxdRPgZfZbKqgDybI54EzSdX3SwQcfESTVPmgdkNAU9zc_GR1tA0JSPW34AS29YSrmsnqNGAqdWDBQtkAW5WquTulM0D9pZVMD3w"
)

func TestParseTokenResponse(t *testing.T) {
	for file, want := range map[string]string{
		"ec-sec1.pem":     "map[alg:ECDH-ES+A256KW crv:P-256 kty:EC x:" + ecX + " y:" + ecY + "]",
		"ec-pkcs8.pem":    "map[alg:ECDH-ES+A256KW crv:P-256 kty:EC x:" + ecX + " y:" + ecY + "]",
		"ec521-pkcs8.pem": "map[alg:ECDH-ES+A256KW crv:P-521 kty:EC ",
		"rsa-pkcs1.pem":   "map[alg:RSA-OAEP-256 e:AQAB kty:RSA n:" + rsaN + "]",
	} {
		raw, err := json.Marshal(map[string]string{"token": "a.b.c", "tee_keypair": pemFile(t, file)})
		if err != nil {
			t.Fatal(err)
		}
		token, key, err := ParseTokenResponse(raw)
		if err != nil || string(token) != "a.b.c" {
			t.Fatalf("%s: %v", file, err)
		}
		public, err := key.PublicJWK()
		if got := fmt.Sprint(public); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s %v, want %s", file, got, err, want)
		}
	}
	secretive := `{"token":"SECRET","tee_keypair":"SECRET"}`
	for _, raw := range []string{
		secretive, "SECRET", `{"token":"","tee_keypair":"SECRET"}`, `{"tee_keypair":"SECRET"}`, "", `{"token":1}`, `{"token":"SECRET"}`,
		fmt.Sprintf(`{"token":"SECRET","tee_keypair":%q}`, pemFile(t, "ec384-sec1.pem")),
		fmt.Sprintf(`{"token":"SECRET","tee_keypair":%q}`, strings.Replace(pemFile(t, "ec-sec1.pem"), "EC PRIVATE", "PUBLIC", 2)),
	} {
		if _, _, err := ParseTokenResponse([]byte(raw)); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%.60q: %v", raw, err)
		}
	}
}

func TestSecretsPrintAsFingerprints(t *testing.T) {
	key, err := ParseTEEKey([]byte(pemFile(t, "ec-sec1.pem")))
	if err != nil {
		t.Fatal(err)
	}
	token := Token("header.SECRET.signature")
	const keyText = "kbs.TEEKey(sha256 of public key " + ecFingerprint + ")"
	for _, format := range []string{"%v", "%s", "%+v", "%#v", "%q", "%d"} {
		if text := fmt.Sprintf(format, token); strings.Contains(text, "SECRET") {
			t.Errorf("%s: %s", format, text)
		}
		if text := fmt.Sprintf(format, key); text != keyText {
			t.Errorf("%s: %s, want %s", format, text, keyText)
		}
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token)
	if strings.Contains(log.String(), "SECRET") || strings.Contains(token.GomegaString(), "SECRET") {
		t.Error(log.String())
	}
	if (TEEKey{}).String() != "kbs.TEEKey(none)" {
		t.Error((TEEKey{}).String())
	}
}

// resource encrypts as go-jose does.
func resource(t *testing.T, key TEEKey, algorithm jose.KeyAlgorithm, encryption jose.ContentEncryption) []byte {
	t.Helper()
	encrypter, err := jose.NewEncrypter(encryption, jose.Recipient{Algorithm: algorithm, Key: key.private.Public()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := encrypter.Encrypt([]byte("resource"))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(encrypted.FullSerialize())
}

func TestDecrypt(t *testing.T) {
	ec, err := ParseTEEKey([]byte(pemFile(t, "ec521-pkcs8.pem")))
	if err != nil {
		t.Fatal(err)
	}
	rsa, err := ParseTEEKey([]byte(pemFile(t, "rsa-pkcs1.pem")))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key  TEEKey
		body []byte
		ok   bool
	}{
		"EC":                 {ec, resource(t, ec, jose.ECDH_ES_A256KW, jose.A256GCM), true},
		"RSA":                {rsa, resource(t, rsa, jose.RSA_OAEP_256, jose.A256GCM), true},
		"other key":          {rsa, resource(t, ec, jose.ECDH_ES_A256KW, jose.A256GCM), false},
		"RSA-OAEP":           {rsa, resource(t, rsa, jose.RSA_OAEP, jose.A256GCM), false},
		"A128GCM":            {ec, resource(t, ec, jose.ECDH_ES_A256KW, jose.A128GCM), false},
		"no key wrap":        {ec, resource(t, ec, jose.ECDH_ES, jose.A256GCM), false},
		"no JWE":             {ec, []byte("resource"), false},
		"no key":             {TEEKey{}, resource(t, ec, jose.ECDH_ES_A256KW, jose.A256GCM), false},
		"ciphertext swapped": {ec, []byte(strings.Replace(string(resource(t, ec, jose.ECDH_ES_A256KW, jose.A256GCM)), `"ciphertext":"`, `"ciphertext":"AA`, 1)), false},
	} {
		got, err := c.key.Decrypt(c.body)
		if (err == nil) != c.ok || (c.ok && string(got) != "resource") || (!c.ok && got != nil) {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

// tokenOf signs claims with a fresh key, in the header unless plain.
func tokenOf(t testing.TB, claims string, plain bool) (Token, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, &jose.SignerOptions{EmbedJWK: !plain})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(claims))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return Token(compact), key
}

// In the form of Trustee's docs/attestation_token.md.
const earClaims = `{"eat_profile":"tag:github.com,2024:confidential-containers/Trustee","iat":1800000000,"exp":1800000300,
"iss":"CoCo-Attestation-Service","ear.verifier-id":{"developer":"https://confidentialcontainers.org","build":"attestation-service 0.1.0"},
"submods":{"cpu0":{"ear.status":"warning","ear.trustworthiness-vector":{"executables":33,"hardware":2},"ear.appraisal-policy-id":"default",
"ear.veraison.annotated-evidence":{"az-snp-vtpm":{"tpm":{"pcr08":"7aaf"}},"init_data":"7aaf","report_data":"00ff","init_data_claims":{"aa.toml":{}}}}}}`

func TestParseToken(t *testing.T) {
	now := time.Unix(1800000299, 0)
	token, key := tokenOf(t, earClaims, false)
	claims, err := ParseToken(token, VerifyOptions{Now: now, TrustedKeys: []crypto.PublicKey{&key.PublicKey}})
	if err != nil {
		t.Fatal(err)
	}
	cpu := claims.CPU()
	vtpm, _ := cpu.TEE("az-snp-vtpm")["tpm"].(map[string]any)
	if claims.Issuer != "CoCo-Attestation-Service" || claims.IssuedAt.Unix() != 1800000000 || claims.ExpiresAt.Unix() != 1800000300 ||
		cpu.Status != "warning" || cpu.TrustVector["executables"] != 33 || cpu.InitData() != "7aaf" || cpu.ReportData() != "00ff" ||
		vtpm["pcr08"] != "7aaf" || cpu.TEE("tpm") != nil || cpu.InitDataClaims() == nil || claims.Raw["iss"] != claims.Issuer {
		t.Errorf("%+v %+v", claims, cpu)
	}

	stranger, _ := tokenOf(t, earClaims, false)
	plain, _ := tokenOf(t, earClaims, true)
	noModules, _ := tokenOf(t, `{"iat":1,"exp":1800000300,"submods":{}}`, false)
	nullModule, _ := tokenOf(t, `{"iat":1,"exp":1800000300,"submods":{"cpu0":null}}`, false)
	noExpiry, _ := tokenOf(t, `{"iat":1,"submods":{"cpu0":{}}}`, false)
	noObject, _ := tokenOf(t, `[]`, false)
	for name, c := range map[string]struct {
		token   Token
		options VerifyOptions
		want    error
	}{
		"any key":       {stranger, VerifyOptions{Now: now}, nil},
		"stranger":      {stranger, VerifyOptions{Now: now, TrustedKeys: []crypto.PublicKey{&key.PublicKey}}, ErrTokenUntrusted},
		"none trusted":  {token, VerifyOptions{Now: now, TrustedKeys: []crypto.PublicKey{}}, ErrTokenUntrusted},
		"expired":       {token, VerifyOptions{Now: now.Add(time.Second)}, ErrTokenExpired},
		"no key":        {plain, VerifyOptions{Now: now}, ErrTokenFormat},
		"no submodules": {noModules, VerifyOptions{Now: now}, ErrTokenFormat},
		"null":          {nullModule, VerifyOptions{Now: now}, ErrTokenFormat},
		"no expiry":     {noExpiry, VerifyOptions{Now: now}, ErrTokenFormat},
		"no object":     {noObject, VerifyOptions{Now: now}, ErrTokenFormat},
		"no JWT":        {"x", VerifyOptions{Now: now}, ErrTokenFormat},
		"other claims":  {spliced(token, stranger, 0, 1, 1), VerifyOptions{Now: now}, ErrTokenSignature},
	} {
		if _, err := ParseToken(c.token, c.options); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// spliced takes each part of a token from the first (0) or the second (1).
func spliced(first, second Token, from ...int) Token {
	parts := [][]string{strings.Split(string(first), "."), strings.Split(string(second), ".")}
	return Token(parts[from[0]][0] + "." + parts[from[1]][1] + "." + parts[from[2]][2])
}

func FuzzParseToken(f *testing.F) {
	token, _ := tokenOf(f, earClaims, false)
	f.Add(string(token))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		claims, err := ParseToken(Token(text), VerifyOptions{Now: time.Unix(1800000000, 0)})
		if err == nil && (claims == nil || len(claims.Submods) == 0) {
			t.Error("taken without submodules")
		}
	})
}

func FuzzParseClaims(f *testing.F) {
	f.Add([]byte(earClaims))
	f.Fuzz(func(t *testing.T, payload []byte) {
		claims, err := parseClaims(payload)
		if err != nil {
			return
		}
		for _, appraisal := range claims.Submods {
			_, _, _ = appraisal.InitData(), appraisal.ReportData(), appraisal.InitDataClaims()
		}
	})
}

func FuzzParseTokenResponse(f *testing.F) {
	f.Add([]byte(`{"token":"a.b.c","tee_keypair":"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"}`))
	f.Add([]byte(fmt.Sprintf(`{"token":"a.b.c","tee_keypair":%q}`, pemFile(f, "ec-sec1.pem"))))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, key, err := ParseTokenResponse(raw); err == nil {
			if _, err := key.PublicJWK(); err != nil {
				t.Errorf("public half: %v", err)
			}
		}
	})
}
