package policy

import (
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/manifests"
)

// The walkthrough's attestation policy affirms each kind of TEE by the register
// that it has, and by no other's.
func TestWalkthroughAttestationPolicy(t *testing.T) {
	p, err := CompileAttestation("default_cpu", string(manifests.Read("walkthrough/attestation-policy.rego")))
	if err != nil {
		t.Fatal(err)
	}
	pcr8 := map[string]any{"pcr08": "aa"}
	for name, tc := range map[string]struct {
		claims      map[string]any
		reference   string
		hardware    string
		executables string // with the reference value aa, else 33
	}{
		"tpm":         {map[string]any{"tpm": pcr8, "init_data": "aa"}, "tpm.pcr08", "2", "3"},
		"az-snp-vtpm": {map[string]any{"az-snp-vtpm": map[string]any{"tpm": pcr8}, "init_data": "aa"}, "tpm.pcr08", "2", "3"},
		"az-tdx-vtpm": {map[string]any{"az-tdx-vtpm": map[string]any{"tpm": pcr8}, "init_data": "aa"}, "tpm.pcr08", "2", "3"},
		"snp":         {map[string]any{"snp": map[string]any{"measurement": "00"}, "init_data": "aa"}, "init_data", "2", "3"},
		"tdx":         {map[string]any{"tdx": map[string]any{"tcb_status": "OK"}, "init_data": "aa"}, "init_data", "2", "3"},
		"sample":      {map[string]any{"sample": map[string]any{"svn": "1"}, "init_data": "aa"}, "init_data", "97", "33"},
	} {
		for value, executables := range map[string]string{"aa": tc.executables, "bb": "33"} {
			got, _, err := p.TrustClaims(t.Context(), tc.claims, func(name string) any {
				if name == tc.reference {
					return []any{strings.Repeat("0", 64), value}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if text(got["executables"]) != executables || text(got["hardware"]) != tc.hardware {
				t.Errorf("%s with reference value %s: %v, want executables %s and hardware %s", name, value, got, executables, tc.hardware)
			}
		}
	}
}

func text(number any) string { s, _ := number.(interface{ String() string }); return s.String() }
