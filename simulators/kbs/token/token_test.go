package token

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

var at = time.Unix(1_800_000_000, 0)

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
		_, err := Verify(signed(t, c.claims), at)
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
		"no jwk":          {header("typ", "JWT") + "." + parts[1] + "." + parts[2], "no jwk"},
		"symmetric jwk":   {header("jwk", map[string]string{"kty": "oct", "k": "AA"}) + "." + parts[1] + "." + parts[2], ""},
		"alg none":        {encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", "not a compact JWS"},
		"alg HS256":       {encode([]byte(`{"alg":"HS256"}`)) + "." + parts[1] + "." + parts[2], "not a compact JWS"},
		"two parts":       {parts[0] + "." + parts[1], "not a compact JWS"},
		"empty":           {"", "not a compact JWS"},
	} {
		if _, err := Verify(c.token, at); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), parts[1]) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	token := signed(f, map[string]any{"exp": at.Unix(), "submods": map[string]any{}})
	f.Add(token)
	f.Add(token[:len(token)-1])
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		if claims, err := Verify(text, at); err == nil && claims["exp"] == nil {
			t.Errorf("taken without exp: %v", claims)
		}
	})
}
