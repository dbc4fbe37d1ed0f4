package kbs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestClassify(t *testing.T) {
	reported := func(status int, name, detail string) error {
		return fmt.Errorf("get resource: %w", &Error{status, name, detail})
	}
	const handshake = "Attestation error: RCAR handshake Attest failed"
	for _, c := range []struct {
		name string
		err  error
		kind Kind
		typ  string
	}{
		{"nothing wrong", nil, Released, ""},
		{"policy", reported(401, "PolicyDeny", "Access denied by policy"), Refused, "PolicyDeny"},
		{"policy, other releases of Trustee", reported(403, "PolicyDeny", "Access denied by policy"), Refused, "PolicyDeny"},
		{"evidence", reported(401, "AttestationError", handshake), Refused, "AttestationError"},
		{"version", reported(401, "AttestationError", "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.3.0"), Refused, "AttestationError"},
		{"token", reported(401, "TokenVerifierError", "Token Verifier error"), Refused, "TokenVerifierError"},
		{"no token", reported(401, "TokenNotFound", "Attestation Token not found"), Refused, "TokenNotFound"},
		{"administrator", reported(401, "AdminAuthAccess", "admin access denied for endpoint resource-policy: x"), Refused, "AdminAuthAccess"},
		{"administrator of resources", reported(401, "AdminAuthInitialization", "failed to initialize [admin] configuration: x"), Refused, "AdminAuthInitialization"},

		{"attestation policy not taken", reported(401, "AttestationError", "Attestation error: Set Attestation Policy failed"), Inconclusive, ""},
		{"missing resource, or a broken store", reported(401, "PluginInternalError", "Plugin internal error"), Inconclusive, ""},
		{"policy broken", reported(401, "PolicyEngineError", "Policy engine error: x"), Inconclusive, ""},
		{"reference values", reported(401, "RvpsError", "RVPS configuration failed: x"), Inconclusive, ""},
		{"encryption", reported(401, "JweError", "JWE failed"), Inconclusive, ""},
		{"no such plugin", reported(404, "PluginNotFound", "Plugin x not found"), Inconclusive, ""},
		{"verdict's type with another status", reported(500, "PolicyDeny", "Access denied by policy"), Inconclusive, ""},
		{"unknown type", reported(401, "Whatever", "x"), Inconclusive, ""},
		{"proxy", &ResponseError{401, "x"}, Inconclusive, ""},
		{"time", context.DeadlineExceeded, Inconclusive, ""},
		{"anything", errors.New("connection refused"), Inconclusive, ""},
	} {
		got := Classify(c.err)
		if got.Kind != c.kind || got.Type != c.typ || (c.err != nil && got.Detail == "") {
			t.Errorf("%s: %+v, want %s %q", c.name, got, c.kind, c.typ)
		}
	}
}

// What answers is not always a KBS.
func TestAnswersThatAreNoVerdict(t *testing.T) {
	const deny = `{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"Access denied by policy"}`
	key, err := GenerateTEEKey(ECP256)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		status int
		body   string
		kind   Kind
	}{
		"control: a refusal":      {401, deny, Refused},
		"refusal in a 500":        {500, deny, Inconclusive},
		"refusal in a 200":        {200, deny, Inconclusive},
		"redirect":                {302, deny, Inconclusive},
		"HTML":                    {401, "<html>login</html>", Inconclusive},
		"empty":                   {401, "", Inconclusive},
		"other JSON":              {401, `{"error":"unauthorized"}`, Inconclusive},
		"type without URL":        {401, `{"type":"PolicyDeny","detail":""}`, Inconclusive},
		"type of another project": {401, strings.Replace(deny, "confidential-containers", "example", 1), Inconclusive},
		"no detail":               {401, `{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny"}`, Inconclusive},
		"detail is a number":      {401, strings.Replace(deny, `"Access denied by policy"`, "1", 1), Inconclusive},
		"bad gateway":             {502, "", Inconclusive},
		"not a JWE":               {200, "{}", Inconclusive},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/elsewhere") {
				t.Error("redirect was followed")
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		client, err := New(Options{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.GetResource(t.Context(), "a/b/c", "token", key)
		if got := Classify(err); got.Kind != c.kind {
			t.Errorf("%s: %+v", name, got)
		}
		server.Close()
		_, err = client.GetResource(t.Context(), "a/b/c", "token", key)
		if got := Classify(err); got.Kind != Inconclusive {
			t.Errorf("%s, server gone: %+v", name, got)
		}
	}
}

func TestTimeoutIsNoVerdict(t *testing.T) {
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	defer server.Close()
	defer close(stop)
	client, err := New(Options{URL: server.URL, HTTPClient: &http.Client{Timeout: 20 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if got := Classify(client.SetResource(t.Context(), "a/b/c", nil)); got.Kind != Inconclusive {
		t.Errorf("%+v", got)
	}
}

func FuzzParseFailure(f *testing.F) {
	f.Add(401, []byte(`{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"x"}`))
	f.Add(500, []byte("x"))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		err := parseFailure(status, body)
		if err == nil {
			t.Fatal("no error")
		}
		if outcome := Classify(err); outcome.Kind == Refused && status != 401 && status != 403 {
			t.Errorf("%+v from status %d", outcome, status)
		}
	})
}
