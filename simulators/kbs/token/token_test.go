package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

var at = time.Unix(1_800_000_000, 0)

var anyKey = &Verifier{InsecureHeaderJWK: true}

func signed(t testing.TB, claims map[string]any) string {
	t.Helper()
	signer, err := NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	token, err := signer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// go-jose takes what Sign makes, with the key in its header.
func TestSign(t *testing.T) {
	token := signed(t, map[string]any{"exp": at.Unix(), "x": "y"})
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := parsed.Verify(parsed.Signatures[0].Protected.JSONWebKey)
	if err != nil || string(payload) != `{"exp":1800000000,"x":"y"}` {
		t.Errorf("%s %v", payload, err)
	}
}

func TestVerify(t *testing.T) {
	for _, c := range []struct {
		name   string
		claims map[string]any
		want   string
	}{
		{"valid", map[string]any{"exp": at.Unix() + 1}, ""},
		{"within leeway", map[string]any{"exp": at.Unix() - 60}, ""},
		{"expired", map[string]any{"exp": at.Unix() - 61}, "expired"},
		{"no exp", map[string]any{}, "exp is missing"},
		{"exp no number", map[string]any{"exp": "never"}, "exp is no number"},
		{"exp no integer", map[string]any{"exp": 1e300}, "exp is no time"},
		{"not yet", map[string]any{"exp": at.Unix() + 999, "nbf": at.Unix() + 61}, "not valid before"},
		{"now", map[string]any{"exp": at.Unix() + 999, "nbf": at.Unix() + 60}, ""},
	} {
		_, err := anyKey.Verify(signed(t, c.claims), at)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestVerifyJudgesSignature(t *testing.T) {
	token := signed(t, map[string]any{"exp": at.Unix()})
	parts := strings.Split(token, ".")
	other := strings.Split(signed(t, map[string]any{"exp": at.Unix() + 1}), ".")
	header := func(name string, value any) string {
		raw, _ := json.Marshal(map[string]any{"alg": "ES256", name: value})
		return encode(raw)
	}
	for name, c := range map[string]struct{ token, want string }{
		"other claims":    {parts[0] + "." + other[1] + "." + parts[2], "wrong signature"},
		"other key":       {other[0] + "." + parts[1] + "." + parts[2], "wrong signature"},
		"other signature": {parts[0] + "." + parts[1] + "." + other[2], "wrong signature"},
		"no jwk":          {header("typ", "JWT") + "." + parts[1] + "." + parts[2], "trusted JWK Set is empty"},
		"symmetric jwk":   {header("jwk", map[string]string{"kty": "oct", "k": "AA"}) + "." + parts[1] + "." + parts[2], ""},
		"alg none":        {encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", "not a compact JWS"},
		"alg HS256":       {encode([]byte(`{"alg":"HS256"}`)) + "." + parts[1] + "." + parts[2], "not a compact JWS"},
		"two parts":       {parts[0] + "." + parts[1], "not a compact JWS"},
		"empty":           {"", "not a compact JWS"},
	} {
		if _, err := anyKey.Verify(c.token, at); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), parts[1]) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// authority makes a certificate, and the key that it is of; without an issuer it certifies itself.
func authority(t *testing.T, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: at.Add(-time.Hour), NotAfter: at.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	if issuer == nil {
		issuer, issuerKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func files(t *testing.T, key *ecdsa.PrivateKey, chain ...*x509.Certificate) (keyPath, certPath string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPath, certPath = filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "cert")
	var certificates []byte
	for _, c := range chain {
		certificates = append(certificates, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := errors.Join(os.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600), os.WriteFile(certPath, certificates, 0o600)); err != nil {
		t.Fatal(err)
	}
	return keyPath, certPath
}

// TestTrust: whose signatures count.
func TestTrust(t *testing.T) {
	root, rootKey := authority(t, nil, nil)
	leaf, leafKey := authority(t, root, rootKey)
	stranger, strangerKey := authority(t, nil, nil)
	token := func(key *ecdsa.PrivateKey, chain ...*x509.Certificate) string {
		keyPath, certPath := files(t, key, chain...)
		if len(chain) == 0 {
			certPath = ""
		}
		signer, err := LoadSigner(keyPath, certPath, "")
		if err != nil {
			t.Fatal(err)
		}
		text, err := signer.Sign(map[string]any{"exp": at.Unix() + 1})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	certified := &Verifier{Roots: []*x509.Certificate{root}}
	for _, c := range []struct {
		name     string
		verifier *Verifier
		token    string
		want     string
	}{
		{"certified", certified, token(leafKey, leaf), ""},
		{"by itself", certified, token(rootKey, root), ""},
		{"certified by a stranger", certified, token(strangerKey, stranger), "JWK cannot be validated by trust anchor"},
		{"not certified", certified, token(leafKey), "No x5c extension inside JWK"},
		{"nobody is trusted", &Verifier{}, token(leafKey, leaf), "trusted cert is empty"},
		{"any key", anyKey, token(strangerKey), ""},
	} {
		if _, err := c.verifier.Verify(c.token, at); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}

	sign := func(kid string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: leafKey, KeyID: kid}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(fmt.Appendf(nil, `{"exp":%d}`, at.Unix()+1))
		if err != nil {
			t.Fatal(err)
		}
		text, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	known := &Verifier{JWKs: []jose.JSONWebKey{{Key: &leafKey.PublicKey, KeyID: "here"}}}
	if _, err := known.Verify(sign("here"), at); err != nil {
		t.Errorf("a known key: %v", err)
	}
	if _, err := known.Verify(sign("there"), at); err == nil || !strings.Contains(err.Error(), "Failed to find Jwk with kid there") {
		t.Errorf("an unknown key: %v", err)
	}

	keyPath, _ := files(t, leafKey, leaf)
	_, certPath := files(t, leafKey, stranger)
	if _, err := LoadSigner(keyPath, certPath, ""); err == nil || !strings.Contains(err.Error(), "is not that of the key") {
		t.Errorf("another key's certificate: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	token := signed(f, map[string]any{"exp": at.Unix(), "submods": map[string]any{}})
	f.Add(token)
	f.Add(token[:len(token)-1])
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		if claims, err := anyKey.Verify(text, at); err == nil && claims["exp"] == nil {
			t.Errorf("taken without exp: %v", claims)
		}
	})
}
