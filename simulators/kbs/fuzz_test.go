package kbs_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/simulators/kbs"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/config"
)

// FuzzRequests sends anything anywhere: the server answers, in one of the ways that it has, and never releases.
func FuzzRequests(f *testing.F) {
	f.Add("POST", "auth", `{"version":"0.4.0","tee":"tpm","extra-params":{}}`, "")
	f.Add("POST", "attest", `{"init-data":null,"runtime-data":{"nonce":"","tee-pubkey":{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"","y":""}},"tee-evidence":{"primary_evidence":{},"additional_evidence":""}}`, "")
	f.Add("GET", "resource/a/b/c?x=1", "", "Bearer a.b.c")
	f.Add("POST", "resource-policy", `{"policy":"cGFja2FnZSBwb2xpY3k"}`, "")
	f.Add("POST", "attestation-policy", `{"policy_id":"x","policy":"cGFja2FnZSBwb2xpY3k"}`, "")
	f.Add("POST", "reference-value", `{"version":"0.1.0","type":"sample","payload":"e30="}`, "")
	f.Add("GET", "reference-value/%2e%2e/x", "", "")
	configuration, err := config.Parse([]byte(baseConfig))
	mustSucceed(f, err)
	server, err := kbs.New(configuration, &logBuffer{}, kbs.Options{})
	mustSucceed(f, err)
	f.Fuzz(func(t *testing.T, method, path, body, bearer string) {
		request, err := http.NewRequest(method, "http://kbs/kbs/v0/"+path, strings.NewReader(body))
		if err != nil {
			return
		}
		request.Header.Set("Authorization", bearer)
		request.AddCookie(&http.Cookie{Name: "kbs-session-id", Value: "00"})
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, request)
		switch recorder.Code {
		case 200, 400, 401, 404, 405, 413:
		default:
			t.Errorf("status %d", recorder.Code)
		}
		if recorder.Code == 200 && method == "GET" && strings.HasPrefix(path, "resource/") {
			t.Errorf("released without a token: %s", path)
		}
	})
}
