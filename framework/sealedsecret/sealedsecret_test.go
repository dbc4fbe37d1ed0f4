package sealedsecret

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSealAndOpen(t *testing.T) {
	key := newKey(t, elliptic.P256())
	sealed, err := Seal(Vault("kbs:///one/2/trois"), key, "kbs:///keys/sealing/one")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(sealed, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[2])
	// The fields of guest-components' own example (hub/src/secret/tests).
	if want := `{"version":"0.1.0","type":"vault","name":"kbs:///one/2/trois","provider":"kbs","provider_settings":{},"annotations":{}}`; len(parts) != 4 || parts[0] != "sealed" || string(payload) != want {
		t.Errorf("%d parts, payload %s, want %s", len(parts), payload, want)
	}
	header, _ := base64.RawURLEncoding.DecodeString(parts[1])
	if want := `{"alg":"ES256","kid":"kbs:///keys/sealing/one"}`; string(header) != want {
		t.Errorf("header %s, want %s", header, want)
	}
	public, err := PublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var asked string
	secret, err := Open(sealed, func(kid string) ([]byte, error) { asked = kid; return public, nil })
	if err != nil || secret.Name != "kbs:///one/2/trois" || asked != "kbs:///keys/sealing/one" {
		t.Errorf("%+v, %v, asked for %s", secret, err, asked)
	}
	if secret, err := Open(sealed, nil); err != nil || secret.Name != "kbs:///one/2/trois" {
		t.Errorf("without verification: %+v, %v", secret, err)
	}
}

func TestRefused(t *testing.T) {
	key, other := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	sealed, err := Seal(Vault("kbs:///one/2/trois"), key, "k")
	if err != nil {
		t.Fatal(err)
	}
	public, _ := PublicKey(key)
	wrong, _ := PublicKey(other)
	big, _ := PublicKey(newKey(t, elliptic.P384()))
	gone := errors.New("gone")
	changed := strings.Split(sealed, ".")
	changed[2] = base64.RawURLEncoding.EncodeToString([]byte(`{"version":"0.1.0","type":"vault","name":"kbs:///other/2/trois","provider":"kbs"}`))
	for _, tc := range []struct {
		name, sealed string
		key          []byte
		fetchErr     error
		want         error
	}{
		{"another key", sealed, wrong, nil, ErrSignature},
		{"another payload", strings.Join(changed, "."), public, nil, ErrSignature},
		{"another curve", sealed, big, nil, ErrKey},
		{"no key", sealed, []byte("x"), nil, ErrKey},
		{"no key to be had", sealed, nil, gone, gone},
		{"no prefix", sealed[7:], public, nil, ErrFormat},
		{"no signature", sealed[:strings.LastIndex(sealed, ".")], public, nil, ErrFormat},
		{"algorithm none", "sealed.eyJhbGciOiJub25lIn0." + changed[2] + ".", public, nil, ErrFormat},
	} {
		if _, err := Open(tc.sealed, func(string) ([]byte, error) { return tc.key, tc.fetchErr }); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	if _, err := Open("sealed.a.b", nil); !errors.Is(err, ErrFormat) {
		t.Errorf("two parts: %v", err)
	}
	if _, err := Seal(Vault("x"), newKey(t, elliptic.P384()), "k"); err == nil {
		t.Error("sealed with P-384")
	}
	if _, err := Seal(Vault("x"), key, ""); err == nil {
		t.Error("sealed without kid")
	}
}

func FuzzOpen(f *testing.F) {
	key := newKey(f, elliptic.P256())
	sealed, _ := Seal(Vault("kbs:///a/b/c"), key, "k")
	public, _ := PublicKey(key)
	f.Add(sealed)
	f.Add("sealed.e30.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = Open(text, nil)
		if secret, err := Open(text, func(string) ([]byte, error) { return public, nil }); err == nil && secret.Name != "kbs:///a/b/c" {
			t.Errorf("forged: %+v", secret)
		}
	})
}
