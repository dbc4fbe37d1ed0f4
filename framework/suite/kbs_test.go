package suite

import (
	"maps"
	"strings"
	"testing"
)

// The text as Trustee gives it, once by its names of 2025 and once by those of kbs/docs/metrics.md.
func TestReadCounters(t *testing.T) {
	const text = `# HELP attestation_errors_total Total count of errors during attestation processing
# TYPE attestation_errors_total counter
attestation_errors_total 1
# HELP attestation_failures_total Total count of attestation failures
# TYPE attestation_failures_total counter
attestation_failures_total{tee_type="sample"} 2
attestation_failures_total{tee_type="snp"} 3
# HELP auth_errors_total Total count of errors during auth processing
# TYPE auth_errors_total counter
auth_errors_total 6
# HELP http_requests_total Total HTTP requests count
# TYPE http_requests_total counter
http_requests_total 9
# HELP kbs_policy_approvals_total Total count of requests approved by KBS policy
# TYPE kbs_policy_approvals_total counter
kbs_policy_approvals_total 4
# HELP kbs_policy_errors_total Total count of errors during KBS evaluation
# TYPE kbs_policy_errors_total counter
kbs_policy_errors_total 0
# HELP kbs_policy_violations_total Total count of requests denied by KBS policy
# TYPE kbs_policy_violations_total counter
kbs_policy_violations_total 5
`
	want := map[string]int{
		"kbs_attestation_errors_total": 1, "kbs_attestation_failures_total": 5, "kbs_policy_approvals_total": 4, "kbs_policy_errors_total": 0,
		"kbs_auth_errors_total": 6, "kbs_policy_violations_total": 5,
	}
	for name, text := range map[string]string{"of 2025": text, "documented": strings.NewReplacer("attestation_", "kbs_attestation_", "auth_", "kbs_auth_").Replace(text)} {
		got, err := readCounters(strings.NewReader(text))
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", name, got, err, want)
		}
	}
	for name, text := range map[string]string{
		"no counters": "", "another service's": "up 1\n", "one is missing": strings.ReplaceAll(text, "kbs_policy_violations_total", "x"),
		"another is": strings.ReplaceAll(text, "auth_errors_total", "x"), "no text": "{",
	} {
		if got, err := readCounters(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
