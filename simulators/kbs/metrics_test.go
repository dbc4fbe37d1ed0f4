package kbs_test

import (
	"strings"
	"testing"

	client "github.com/coco-e2e/coco-e2e/framework/kbs"
)

// Every metric of Trustee's (kbs/docs/metrics.md) counts what its description says, and nothing else.
func TestMetrics(t *testing.T) {
	ctx := t.Context()
	k, a := start(t, ""), newTPM(t)
	a.measure(document)
	counted := map[string]string{}
	check := func(step string, want map[string]string) {
		t.Helper()
		now := map[string]string{}
		for line := range strings.Lines(k.send(t, "GET", "/metrics", "").body) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if strings.HasPrefix(name, "kbs_") && !strings.Contains(name, "_bucket") && !strings.HasSuffix(name, "_sum") && !strings.HasPrefix(name, "kbs_build_info") {
				now[name] = value
			}
		}
		for name, value := range want {
			if now[name] != value {
				t.Errorf("%s: %s is %q, want %s", step, name, now[name], value)
			}
		}
		for name, value := range now {
			if _, named := want[name]; !named && counted[name] != value && !strings.HasPrefix(name, "kbs_http_") {
				t.Errorf("%s: %s went from %q to %s", step, name, counted[name], value)
			}
		}
		counted = now
	}
	check("at the start", map[string]string{
		"kbs_http_requests_total": "0", "kbs_http_request_duration_seconds_count": "0", "kbs_http_request_size_bytes_count": "0",
		"kbs_http_response_size_bytes_count": "0", "kbs_http_active_connections": "0", "kbs_policy_evaluations_total": "0",
		"kbs_policy_approvals_total": "0", "kbs_policy_violations_total": "0", "kbs_policy_errors_total": "0",
		"kbs_attestation_requests_total": "0", "kbs_attestation_errors_total": "0", "kbs_auth_requests_total": "0",
		"kbs_auth_successes_total": "0", "kbs_auth_errors_total": "0",
	})

	mustSucceed(t, k.SetResource(ctx, path, []byte(secret)), k.SetResourcePolicy(ctx, pcr8Resource))
	check("a resource and a policy", map[string]string{
		`kbs_resource_writes_total{resource_path="walkthrough/secret/nginx"}`: "1", "kbs_http_requests_total": "2",
		"kbs_http_request_duration_seconds_count": "2", "kbs_http_request_size_bytes_count": "2", "kbs_http_response_size_bytes_count": "2",
		"kbs_http_active_connections": "0",
	})
	initData := document
	token, key, err := k.Handshake(ctx, a, &initData)
	mustSucceed(t, err)
	check("a handshake", map[string]string{
		"kbs_auth_requests_total": "1", "kbs_auth_successes_total": "1", "kbs_attestation_requests_total": "1",
		`kbs_attestation_successes_total{tee_type="tpm"}`: "1", "kbs_http_requests_total": "4",
	})
	_, err = k.GetResource(ctx, path, token, key)
	mustSucceed(t, err)
	check("a release", map[string]string{
		`kbs_resource_reads_total{resource_path="walkthrough/secret/nginx"}`: "1", "kbs_policy_evaluations_total": "1", "kbs_policy_approvals_total": "1",
	})
	_, err = k.GetResource(ctx, "walkthrough/secret/other", token, key)
	expect(t, "another path", err, client.Refused, "PolicyDeny")
	check("a denial", map[string]string{"kbs_policy_evaluations_total": "2", "kbs_policy_violations_total": "1"})
	_, err = k.GetResource(ctx, path, client.Token("none"), key)
	if err == nil {
		t.Error("no token, and released")
	}
	check("no token", nil)

	if got := k.send(t, "POST", "/kbs/v0/auth", `{"version":"0.3.0","tee":"tpm","extra-params":{}}`); got.kind != "AttestationError" {
		t.Errorf("another version: %+v", got)
	}
	check("another version of the protocol", map[string]string{"kbs_auth_requests_total": "2", "kbs_auth_errors_total": "1"})
	if got := k.send(t, "POST", "/kbs/v0/attest", `{}`); got.status != 401 {
		t.Errorf("no session: %+v", got)
	}
	check("evidence without a session", map[string]string{"kbs_attestation_requests_total": "2", "kbs_attestation_errors_total": "1"})
	changed := document + "#"
	_, _, err = k.Handshake(ctx, a, &changed)
	expect(t, "other init-data", err, client.Refused, "AttestationError")
	check("evidence that was refused", map[string]string{
		"kbs_auth_requests_total": "3", "kbs_auth_successes_total": "2", "kbs_attestation_requests_total": "3",
		`kbs_attestation_failures_total{tee_type="tpm"}`: "1",
	})

	first, second := k.record(t, a), k.record(t, a)
	check("two more challenges", map[string]string{"kbs_auth_requests_total": "5", "kbs_auth_successes_total": "4"})
	attest := func(session, evidence recorded, status int) {
		t.Helper()
		if got := k.send(t, "POST", "/kbs/v0/attest", evidence.body, "Cookie", session.cookie); got.status != status {
			t.Errorf("%+v, want %d", got, status)
		}
	}
	attest(second, first, 401)
	check("another challenge's answer", map[string]string{"kbs_attestation_requests_total": "4"})
	attest(second, second, 200)
	check("control: its own", map[string]string{"kbs_attestation_requests_total": "5", `kbs_attestation_successes_total{tee_type="tpm"}`: "2"})
	attest(second, first, 200)
	check("a session that has its token gets it again", map[string]string{"kbs_attestation_requests_total": "6"})
}
