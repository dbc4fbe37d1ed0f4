package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recordingKBS answers administrators, and remembers what they asked.
func recordingKBS(t *testing.T) (url string, asked func() string) {
	t.Helper()
	var lines []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		lines = append(lines, fmt.Sprintf("%s %s %s %s", r.Method, r.URL.Path, r.Header.Get("Authorization"), body))
		if r.Method == http.MethodGet {
			fmt.Fprint(w, `["v"]`)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, func() string { return strings.Join(lines, "\n") }
}

func runKBS(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	command := kbsCommand()
	command.SetArgs(args)
	command.SetOut(&out)
	command.SetErr(io.Discard)
	command.SilenceUsage, command.SilenceErrors = true, true
	err := command.ExecuteContext(t.Context())
	return out.String(), err
}

func TestKBSConfig(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token, policy := file("token", "TOKEN\n"), file("policy", "package policy\n")
	encoded := base64.RawURLEncoding.EncodeToString([]byte("package policy\n"))
	for _, tc := range []struct {
		args       string
		want, fail string
	}{
		{"set-resource --path a/b/c --resource-file " + policy, "POST /kbs/v0/resource/a/b/c Bearer TOKEN package policy", ""},
		{"delete-resource --path a/b/c", "DELETE /kbs/v0/resource/a/b/c Bearer TOKEN ", ""},
		{"set-resource-policy --policy-file " + policy, `POST /kbs/v0/resource-policy Bearer TOKEN {"policy":"` + encoded + `"}`, ""},
		{"set-resource-policy --affirming", "POST /kbs/v0/resource-policy Bearer TOKEN", ""},
		{"set-resource-policy", "", "give one of --policy-file"},
		{"set-resource-policy --affirming --deny-all", "", "give one of --policy-file"},
		{"set-attestation-policy --policy-file " + policy, `"policy_id":"default_cpu"`, ""},
		{"set-attestation-policy --policy-file " + policy + " --type opa", "", "want rego"},
		{"set-attestation-policy --policy-file /nonexistent", "", "--policy-file"},
		{"get-reference-value --id svn", "GET /kbs/v0/reference-value/svn Bearer TOKEN", ""},
		{"set-sample-reference-value svn 1", payload(`{"svn":["1"]}`), ""},
		{"set-sample-reference-value svn 1 --as-integer", payload(`{"svn":[1]}`), ""},
		{"set-sample-reference-value svn true --as-bool --as-single-value", payload(`{"svn":true}`), ""},
		{"set-sample-reference-value svn x --as-integer", "", `VALUE "x" is no number`},
		{"set-sample-reference-value svn 1 --as-integer --as-bool", "", "one of --as-integer"},
	} {
		url, asked := recordingKBS(t)
		args := append([]string{"--url", url, "config", "--admin-token-file", token}, strings.Fields(tc.args)...)
		out, err := runKBS(t, args...)
		switch {
		case tc.fail != "":
			if err == nil || !strings.Contains(err.Error(), tc.fail) || asked() != "" {
				t.Errorf("%s: %v, asked %s", tc.args, err, asked())
			}
		case err != nil || !strings.Contains(asked(), tc.want):
			t.Errorf("%s: %v, asked %s, want %s", tc.args, err, asked(), tc.want)
		case strings.HasPrefix(tc.args, "get") && out != "[\"v\"]\n":
			t.Errorf("%s: printed %s", tc.args, out)
		}
	}
	url, asked := recordingKBS(t)
	if _, err := runKBS(t, "--url", url, "config", "delete-resource", "--path", "a/b/c"); err != nil || !strings.Contains(asked(), "DELETE /kbs/v0/resource/a/b/c  ") {
		t.Errorf("without a token: %v, asked %s", err, asked())
	}
}

func payload(text string) string {
	return base64.StdEncoding.EncodeToString([]byte(text))
}

// A guest is asked for its kind and for evidence of the challenge.
func TestKBSAttestAsksTheGuest(t *testing.T) {
	var sent map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/info":
			fmt.Fprint(w, `{"version":"0.1.0","tee":"tdx"}`)
		case "/aa/evidence":
			data, err := base64.RawURLEncoding.DecodeString(r.URL.Query().Get("runtime_data"))
			if err != nil || len(data) != 48 {
				http.Error(w, "want 48 bytes of report data", http.StatusBadRequest)
				return
			}
			fmt.Fprint(w, `{"quote":"AAAA"}`)
		case "/kbs/v0/auth":
			http.SetCookie(w, &http.Cookie{Name: "kbs-session-id", Value: "s"})
			fmt.Fprint(w, `{"nonce":"AAAA","extra-params":""}`)
		case "/kbs/v0/attest":
			_ = json.NewDecoder(r.Body).Decode(&sent)
			fmt.Fprint(w, `{"token":"TOKEN"}`)
		}
	}))
	t.Cleanup(server.Close)
	document := filepath.Join(t.TempDir(), "initdata.toml")
	if err := os.WriteFile(document, []byte("algorithm = 'sha256'"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runKBS(t, "--url", server.URL, "attest", "--guest", server.URL, document)
	if err != nil || out != "TOKEN\n" {
		t.Fatalf("%q, %v", out, err)
	}
	text, _ := json.Marshal(sent)
	for _, want := range []string{`"body":"algorithm = 'sha256'"`, `"primary_evidence":{"quote":"AAAA"}`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("sent %s, want in it %s", text, want)
		}
	}
	if _, err := runKBS(t, "--url", server.URL, "attest", "--tee", "snp"); err == nil || !strings.Contains(err.Error(), "name a guest with --guest") {
		t.Errorf("a TEE of nobody: %v", err)
	}
	if _, err := runKBS(t, "--url", server.URL, "get-resource", "--path", "a/b/c", "--attestation-token", document); err == nil || !strings.Contains(err.Error(), "needs --tee-key-file") {
		t.Errorf("a token without its key: %v", err)
	}
}
