package kbs_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	client "github.com/coco-e2e/coco-e2e/framework/kbs"
)

// newAdminKey makes a key pair: the private half in PEM, the public half's file.
func newAdminKey(t *testing.T) (private []byte, publicPath string) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	mustSucceed(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	mustSucceed(t, err)
	spki, err := x509.MarshalPKIXPublicKey(public)
	mustSucceed(t, err)
	publicPath = filepath.Join(t.TempDir(), "admin.pub")
	mustSucceed(t, os.WriteFile(publicPath, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o600))
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), publicPath
}

func authenticated(publicPath string) string {
	return `
[admin]
authorization_mode = "AuthenticatedAuthorization"
[admin.authentication.bearer_jwt]
identity_providers = [{ issuer = "run", audience = "KBS", public_key_uri = "file://` + publicPath + `" }]
[admin.authorization.regex_acl]
acls = [{ role = "admin", allowed_endpoints = "^/kbs/v0/.*$" }, { role = "clerk", allowed_endpoints = "^/kbs/v0/reference-value$" }]
`
}

func TestAdminModes(t *testing.T) {
	private, public := newAdminKey(t)
	stranger, _ := newAdminKey(t)
	sign := func(key []byte, claims client.AdminClaims) string {
		t.Helper()
		token, err := claims.Sign(key)
		mustSucceed(t, err)
		return token
	}
	soon := time.Now().Add(time.Hour)
	good := sign(private, client.AdminClaims{Role: "admin", Issuer: "run", Audience: "KBS", Expires: soon})
	clerk := sign(private, client.AdminClaims{Role: "clerk", Issuer: "run", Audience: "KBS", Expires: soon})
	const unknown = "Cannot verify token with any of the issuers"
	for _, c := range []struct {
		what, configuration, token string
		reason                     string // empty: let through
		values                     string // reason for reference values, when another; "-" for none
	}{
		{"default lets everyone through", "", "", "", ""},
		{"InsecureAllowAll", "[admin]\nauthorization_mode = \"InsecureAllowAll\"", "junk", "", ""},
		{"DenyAll", "[admin]\nauthorization_mode = \"DenyAll\"", good, "Admin access denied: Admin access denied as DenyAll authorization_mode is enabled", ""},
		{"administrator", authenticated(public), good, "", ""},
		{"no token", authenticated(public), "", "Failed to parse HTTP Auth Bearer header", ""},
		{"no JWT", authenticated(public), "junk", unknown, ""},
		{"another key", authenticated(public), sign(stranger, client.AdminClaims{Role: "admin", Issuer: "run", Audience: "KBS", Expires: soon}), unknown, ""},
		{"another issuer", authenticated(public), sign(private, client.AdminClaims{Role: "admin", Issuer: "walk", Audience: "KBS", Expires: soon}), unknown, ""},
		{"another audience", authenticated(public), sign(private, client.AdminClaims{Role: "admin", Issuer: "run", Audience: "AS", Expires: soon}), unknown, ""},
		{"expired", authenticated(public), sign(private, client.AdminClaims{Role: "admin", Issuer: "run", Audience: "KBS", Expires: time.Now().Add(-2 * time.Minute)}), unknown, ""},
		{"without expiry", authenticated(public), sign(private, client.AdminClaims{Role: "admin", Issuer: "run", Audience: "KBS"}), unknown, ""},
		{"another role", authenticated(public), sign(private, client.AdminClaims{Role: "guest", Issuer: "run", Audience: "KBS", Expires: soon}), "Role guest not allowed for path /kbs/v0/PATH", ""},
		{"role for some paths", authenticated(public), clerk, "Role clerk not allowed for path /kbs/v0/PATH", "-"},
	} {
		k := start(t, c.configuration)
		check := func(method, path, body, kind, prefix, reason string) {
			t.Helper()
			if reason == "" || reason == "-" {
				kind, prefix, reason = "", "", ""
			}
			got := k.send(t, method, "/kbs/v0/"+path, body, "Authorization", "Bearer "+c.token)
			want := prefix + strings.Replace(reason, "PATH", path, 1)
			if got.kind != kind || got.detail != want || (kind == "") != (got.status == 200) {
				t.Errorf("%s: %s %s: %+v, want %s %q", c.what, method, path, got, kind, want)
			}
		}
		rego := `{"policy":"` + b64url("package policy") + `"}`
		check("POST", "resource-policy", rego, "AdminAuthAccess", "admin access denied for endpoint resource-policy: ", c.reason)
		check("GET", "resource-policy", "", "AdminAuthAccess", "admin access denied for endpoint resource-policy: ", c.reason)
		check("POST", "attestation-policy", `{"policy_id":"default_cpu",`+rego[1:], "AdminAuthAccess", "admin access denied for endpoint attestation-policy: ", c.reason)
		values := c.reason
		if c.values != "" {
			values = c.values
		}
		check("POST", "reference-value", `{"version":"0.1.0","type":"sample","payload":"eyJhIjoxfQ=="}`, "AdminAuthAccess", "admin access denied for endpoint reference-value: ", values)
		check("GET", "reference-value/a", "", "AdminAuthAccess", "admin access denied for endpoint reference-value: ", c.reason)
		check("POST", "resource/a/b/c", "x", "AdminAuthInitialization", "failed to initialize [admin] configuration: ", c.reason)
		check("DELETE", "resource/a/b/c", "", "AdminAuthInitialization", "failed to initialize [admin] configuration: ", c.reason)
		if c.token != "" && c.token != "junk" && strings.Contains(k.log.String(), c.token) {
			t.Errorf("%s: the token is in the log", c.what)
		}
	}
}

// The client's own way in, as a run uses it: without issuer and audience.
func TestMintedAdminToken(t *testing.T) {
	private, public := newAdminKey(t)
	k := start(t, strings.Replace(authenticated(public), `issuer = "run", audience = "KBS", `, "", 1))
	err := k.SetResource(t.Context(), path, []byte("x"))
	expect(t, "no token", err, client.Refused, "AdminAuthInitialization")
	err = k.SetReferenceValue(t.Context(), "x", 1)
	expect(t, "no token", err, client.Refused, "AdminAuthAccess")
	token, err := client.MintAdminToken(private, time.Hour)
	mustSucceed(t, err)
	admin, err := client.New(client.Options{URL: k.url, AdminToken: token})
	mustSucceed(t, err)
	mustSucceed(t, admin.SetResource(t.Context(), path, []byte("x")), admin.DeleteResource(t.Context(), path),
		admin.SetReferenceValue(t.Context(), "x", 1))
}
