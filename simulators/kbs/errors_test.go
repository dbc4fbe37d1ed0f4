package kbs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	client "github.com/coco-e2e/coco-e2e/framework/kbs"
)

// standIn serves answers of a function.
func standIn(t testing.TB, answer func(path, body string) string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, answer(r.URL.Path, string(body)))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func b64url(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// forge signs claims as any client could, with a key in the header.
func forge(t testing.TB, claims map[string]any) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	mustSucceed(t, err)
	point, err := key.PublicKey.Bytes()
	mustSucceed(t, err)
	header, err := json.Marshal(map[string]any{"alg": "ES256", "jwk": map[string]string{
		"kty": "EC", "crv": "P-256", "x": b64url(string(point[1:33])), "y": b64url(string(point[33:])),
	}})
	mustSucceed(t, err)
	payload, err := json.Marshal(claims)
	mustSucceed(t, err)
	signed := b64url(string(header)) + "." + b64url(string(payload))
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	mustSucceed(t, err)
	return signed + "." + b64url(string(r.FillBytes(make([]byte, 32)))+string(s.FillBytes(make([]byte, 32))))
}

// What a KBS answers, by hand from Trustee's sources (kbs/src/error.rs and others).
func TestErrors(t *testing.T) {
	k := start(t, "")
	hour := time.Now().Add(time.Hour).Unix()
	keyless := "Bearer " + forge(t, map[string]any{"exp": hour, "submods": map[string]any{}})
	sampled := "Bearer " + forge(t, map[string]any{"exp": hour, "submods": map[string]any{"cpu0": map[string]any{
		"ear.veraison.annotated-evidence": map[string]any{"sample": map[string]any{"svn": "1"}},
	}}})
	badKey := "Bearer " + forge(t, map[string]any{"exp": hour, "tee-pubkey": map[string]any{
		"kty": "RSA", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB",
	}})
	stale := "Bearer " + forge(t, map[string]any{"exp": time.Now().Add(-2 * time.Minute).Unix()})
	endless := "Bearer " + forge(t, map[string]any{"iss": "x"})
	mustSucceed(t, k.SetResource(t.Context(), "a/b/c", []byte("x")))
	policy := func(rego string) string { return `{"policy":"` + b64url(rego) + `"}` }
	for _, c := range []struct {
		what, method, path, body, bearer string
		status                           int
		kind, detail                     string
	}{
		{"old version", "POST", "auth", `{"version":"0.3.0","tee":"tpm","extra-params":{}}`, "", 401, "AttestationError", "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.3.0"},
		{"newer patch", "POST", "auth", `{"version":"0.4.1","tee":"tpm","extra-params":{}}`, "", 401, "AttestationError", "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.4.1"},
		{"no version", "POST", "auth", `{"version":"four","tee":"tpm","extra-params":{}}`, "", 401, "AttestationError", "Attestation error: RCAR handshake Auth failed: failed to parse KBS version"},
		{"bad JSON", "POST", "auth", `{`, "", 401, "AttestationError", "Attestation error: RCAR handshake Auth failed: deserialize Request"},
		{"missing field", "POST", "auth", `{"version":"0.4.0","tee":"tpm"}`, "", 401, "AttestationError", "Attestation error: RCAR handshake Auth failed: deserialize Request"},
		{"doubled field", "POST", "auth", `{"version":"0.4.0","tee":"tpm","tee":"snp","extra-params":{}}`, "", 401, "AttestationError", "Attestation error: RCAR handshake Auth failed: deserialize Request"},
		{"other case", "POST", "auth", `{"Version":"0.4.0","tee":"tpm","extra-params":{}}`, "", 401, "AttestationError", "Attestation error: RCAR handshake Auth failed: deserialize Request"},
		{"no cookie", "POST", "attest", `{}`, "", 401, "AttestationError", "Attestation error: RCAR handshake Attest failed"},
		{"GET auth", "GET", "auth", "", "", 404, "PluginNotFound", "Plugin auth not found"},
		{"unknown plugin", "GET", "workload-resource/a/b/c", "", "", 404, "PluginNotFound", "Plugin workload-resource not found"},
		{"no plugin", "GET", "", "", "", 404, "PluginNotFound", "Plugin  not found"},
		{"no token", "GET", "resource/a/b/c", "", "", 401, "TokenNotFound", "Attestation Token not found"},
		{"basic auth", "GET", "resource/a/b/c", "", "Basic eDp5", 401, "TokenNotFound", "Attestation Token not found"},
		{"no JWT", "GET", "resource/a/b/c", "", "Bearer x", 401, "TokenVerifierError", "Token Verifier error"},
		{"alg none", "GET", "resource/a/b/c", "", "Bearer " + b64url(`{"alg":"none"}`) + "." + b64url(`{"exp":99999999999}`) + ".", 401, "TokenVerifierError", "Token Verifier error"},
		{"changed token", "GET", "resource/a/b/c", "", changeSignature(keyless), 401, "TokenVerifierError", "Token Verifier error"},
		{"expired token", "GET", "resource/a/b/c", "", stale, 401, "TokenVerifierError", "Token Verifier error"},
		{"token without exp", "GET", "resource/a/b/c", "", endless, 401, "TokenVerifierError", "Token Verifier error"},
		{"token without TEE key", "GET", "resource/a/b/c", "", keyless, 401, "TokenVerifierError", "Token Verifier error"},
		{"TEE key of another algorithm", "GET", "resource/a/b/c", "", badKey, 401, "JweError", "JWE failed"},
		{"sample token", "GET", "resource/a/b/c", "", sampled, 401, "PolicyDeny", "Access denied by policy"},
		{"sample token, missing resource", "GET", "resource/a/b/d", "", sampled, 401, "PolicyDeny", "Access denied by policy"},
		{"missing resource", "GET", "resource/a/b/d", "", keyless, 401, "PluginInternalError", "Plugin internal error"},
		{"illegal path", "GET", "resource/a/b", "", keyless, 401, "PluginInternalError", "Plugin internal error"},
		{"escaping path", "GET", "resource/a/b/..%2fc", "", keyless, 401, "PluginInternalError", "Plugin internal error"},
		{"illegal segment", "POST", "resource/a/b/.c", "x", "", 401, "PluginInternalError", "Plugin internal error"},
		{"PUT", "PUT", "resource/a/b/c", "x", keyless, 401, "PluginInternalError", "Plugin internal error"},
		{"PUT without token", "PUT", "resource/a/b/c", "x", "", 401, "TokenNotFound", "Attestation Token not found"},
		{"policy: no JSON", "POST", "resource-policy", "package policy", "", 401, "ParsePolicyError", "Failed to parse policy: Illegal SetPolicy Request Json"},
		{"policy: no field", "POST", "resource-policy", "{}", "", 401, "ParsePolicyError", "Failed to parse policy: No `policy` field inside SetPolicy Request Json"},
		{"policy: number", "POST", "resource-policy", `{"policy":1}`, "", 401, "ParsePolicyError", "Failed to parse policy: `policy` field is not a string in SetPolicy Request Json"},
		{"policy: padded", "POST", "resource-policy", `{"policy":"eA=="}`, "", 401, "ParsePolicyError", "Failed to parse policy: Failed to decode policy: …"},
		{"policy: not Rego", "POST", "resource-policy", policy("allow"), "", 401, "PolicyEngineError", "Policy engine error: …"},
		{"policy: reaches out", "POST", "resource-policy", policy("package policy\nallow if http.send({}).ok"), "", 401, "PolicyEngineError", "Policy engine error: …"},
		{"attestation policy: not Rego", "POST", "attestation-policy", `{"policy_id":"default_cpu","policy":"` + b64url("x") + `"}`, "", 401, "AttestationError", "Attestation error: Set Attestation Policy failed"},
		{"attestation policy: no id", "POST", "attestation-policy", policy("package policy"), "", 401, "AttestationError", "Attestation error: Set Attestation Policy failed"},
		{"reference value missing", "GET", "reference-value/nothing", "", "", 401, "RvpsError", "RVPS configuration failed: Failed to get reference_values: No reference value found for the given id: nothing"},
		{"reference value: no JSON", "POST", "reference-value", "x", "", 401, "RvpsError", "RVPS configuration failed: Failed to register reference value: …"},
		{"reference value: other type", "POST", "reference-value", `{"version":"0.1.0","type":"swid","payload":"e30="}`, "", 401, "RvpsError", "RVPS configuration failed: Failed to register reference value: …"},
	} {
		got := k.send(t, c.method, "/kbs/v0/"+c.path, c.body, "Authorization", c.bearer)
		detail, open := strings.CutSuffix(c.detail, "…")
		if got.status != c.status || got.kind != c.kind || got.contentType != "" || (got.detail != detail && (!open || !strings.HasPrefix(got.detail, detail))) {
			t.Errorf("%s: %+v, want %d %s %q", c.what, got, c.status, c.kind, c.detail)
		}
	}
	// Control: the path and the policy that the refusals were about.
	if got := k.send(t, "POST", "/kbs/v0/resource-policy", policy("package policy")); got.status != 200 || got.body != "" || got.contentType != "" {
		t.Errorf("control: %+v", got)
	}
}

func changeSignature(bearer string) string {
	at := strings.LastIndex(bearer, ".") + 10
	replacement := "A"
	if bearer[at] == 'A' {
		replacement = "B"
	}
	return bearer[:at] + replacement + bearer[at+1:]
}

func TestPolicyResults(t *testing.T) {
	k := start(t, "")
	bearer := "Bearer " + forge(t, map[string]any{"exp": time.Now().Add(time.Hour).Unix(), "role": "a"})
	for _, c := range []struct{ name, rego, kind string }{
		{"allows", `package policy
allow := true`, "PluginInternalError"}, // the resource is missing
		{"denies", `package policy
allow := false`, "PolicyDeny"},
		{"undefined", `package policy`, "PolicyDeny"},
		{"string", `package policy
allow := "true"`, "PolicyDeny"},
		{"other package", `package other
allow := true`, "PolicyDeny"},
		{"conflict", `package policy
allow := true if input.role
allow := false if input.role`, "PolicyEngineError"},
		{"builtin fails", `package policy
allow if to_number(input.role) == 1`, "PolicyEngineError"},
		{"path and query", `package policy
allow if { data["resource-path"] == ["a", "b", "c"]; data.query.x == "2"; data.plugin == "resource" }`, "PluginInternalError"},
	} {
		mustSucceed(t, k.SetResourcePolicy(t.Context(), c.rego))
		if got := k.send(t, "GET", "/kbs/v0/resource/a/b/c?x=1&x=2", "", "Authorization", bearer); got.kind != c.kind {
			t.Errorf("%s: %+v, want %s", c.name, got, c.kind)
		}
	}
}

func TestAdministration(t *testing.T) {
	ctx := t.Context()
	k := start(t, "")
	if names, err := k.ResourcePolicies(ctx); err != nil || len(names) != 1 || names[0] != "resource-policy" {
		t.Errorf("resource policies: %v %v", names, err)
	}
	for name, value := range map[string]any{"svn": []any{"1"}, "major_version": 1, "a/b": map[string]any{"x": true}, "none": nil} {
		mustSucceed(t, k.SetReferenceValue(ctx, name, value))
		got, err := k.GetReferenceValue(ctx, name)
		want, _ := json.Marshal(value)
		if err != nil || string(got) != string(want) {
			t.Errorf("reference value %s: %s %v", name, got, err)
		}
	}
	_, err := k.GetReferenceValue(ctx, "missing")
	expect(t, "missing reference value", err, client.Inconclusive, "")

	bearer := "Bearer " + forge(t, map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
	mustSucceed(t, k.SetResource(ctx, "a/b/c", []byte("x")))
	if got := k.send(t, "GET", "/kbs/v0/resource/a/b/c", "", "Authorization", bearer); got.kind != "TokenVerifierError" {
		t.Errorf("present: %+v", got)
	}
	mustSucceed(t, k.DeleteResource(ctx, "a/b/c"))
	if got := k.send(t, "GET", "/kbs/v0/resource/a/b/c", "", "Authorization", bearer); got.kind != "PluginInternalError" {
		t.Errorf("deleted: %+v", got)
	}
	if got := k.send(t, "POST", "/kbs/v0/resource/a/b/c", "x"); got.status != 200 || got.contentType != "text/xml" || got.body != "" {
		t.Errorf("POST resource: %+v", got)
	}
}

func TestRoutes(t *testing.T) {
	k := start(t, "")
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/healthz", 200},
		{"POST", "/healthz", 405},
		{"GET", "/metrics", 200},
		{"POST", "/metrics", 405},
		{"GET", "/", 404},
		{"GET", "/kbs/v0", 404},
		{"GET", "/kbs/v1/resource/a/b/c", 404},
		{"PATCH", "/kbs/v0/resource/a/b/c", 405},
		{"HEAD", "/kbs/v0/resource/a/b/c", 405},
		{"GET", "//kbs/v0/auth", 404},
	} {
		if got := k.send(t, c.method, c.path, ""); got.status != c.status {
			t.Errorf("%s %s: %+v, want %d", c.method, c.path, got, c.status)
		}
	}
	if got := k.send(t, "POST", "/kbs/v0/auth", strings.Repeat("x", 2<<20+1)); got.status != 413 {
		t.Errorf("too large: %d", got.status)
	}
	if got := k.send(t, "POST", "/kbs/v0/auth", strings.Repeat("x", 2<<20)); got.status != 401 {
		t.Errorf("as large as may be: %d", got.status)
	}
	metrics := k.send(t, "GET", "/metrics", "")
	if !strings.Contains(metrics.body, `coco_e2e_kbs_simulator_requests_total{decision="AttestationError",event="auth"} 1`) {
		t.Errorf("metrics: %s", metrics.body)
	}
}
