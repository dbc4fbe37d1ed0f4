package policy

import (
	"strings"
	"testing"
)

func TestResourceWhy(t *testing.T) {
	p, err := CompileResource(`package policy
import rego.v1
default allow := false
allow if {
	data.plugin == "resource"
	data["resource-path"][1] == "secret"
	input.submods.cpu0.init_data == "right"
}
`)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{"submods": map[string]any{"cpu0": map[string]any{"init_data": "wrong"}}}
	for name, c := range map[string]struct {
		path []string
		want []string
	}{
		"the claim": {[]string{"a", "secret", "c"}, []string{"line 7 is not true: input.submods.cpu0.init_data == \"right\"", `input.submods.cpu0.init_data = "wrong"`, "default allow := false"}},
		"the path":  {[]string{"a", "other", "c"}, []string{"line 6 is not true", `data.resource-path[1] = "other"`}},
	} {
		request := Request{Plugin: "resource", Path: c.path}
		if allowed, err := p.Allow(t.Context(), claims, request); allowed || err != nil {
			t.Fatalf("%s: %v %v", name, allowed, err)
		}
		got := p.Why(t.Context(), claims, request)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: without %q:\n%s", name, want, got)
			}
		}
	}
	if p, err = CompileResource("package policy\n"); err != nil {
		t.Fatal(err)
	}
	if got := p.Why(t.Context(), claims, Request{}); got != "the policy has no rule data.policy.allow" {
		t.Error(got)
	}
}

func TestAttestationWhy(t *testing.T) {
	p, err := CompileAttestation("default", `package policy
import rego.v1
default executables := 33
executables := 3 if input.tpm.pcr08 in query_reference_value("tpm.pcr08")
trust_claims := {"executables": executables}
`)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{"tpm": map[string]any{"pcr08": "aa"}}
	reference := func(string) any { return []any{"bb", "cc"} }
	set, consulted, err := p.TrustClaims(t.Context(), claims, reference)
	if err != nil || len(consulted) != 1 || len(set) != 1 {
		t.Fatalf("%v %v %v", set, consulted, err)
	}
	got := p.Why(t.Context(), "executables", claims, reference)
	for _, want := range []string{"line 4 is not true", `input.tpm.pcr08 = "aa"`, "default executables := 33", "reference value tpm.pcr08 is [bb cc]"} {
		if !strings.Contains(got, want) {
			t.Errorf("without %q:\n%s", want, got)
		}
	}
}
