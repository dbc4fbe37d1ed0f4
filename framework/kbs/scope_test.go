package kbs

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// decide evaluates data.policy.allow as a KBS does for a resource; nil is undefined.
func decide(t *testing.T, policy, repository string, claims map[string]any) any {
	t.Helper()
	results, err := rego.New(
		rego.Query("data.policy.allow"), rego.Module("policy.rego", policy), rego.SetRegoVersion(ast.RegoV0CompatV1), rego.Input(claims),
		rego.Store(inmem.NewFromObject(map[string]any{"plugin": "resource", "resource-path": []any{repository, "secret", "tag"}})),
	).Eval(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, policy)
	}
	if len(results) == 0 {
		return nil
	}
	return results[0].Expressions[0].Value
}

const affirmed = `package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	every s in input.submods { ok(s) }
}

ok(s) if s["ear.status"] == "affirming"
`

func TestScopePolicy(t *testing.T) {
	yes := map[string]any{"submods": map[string]any{"cpu0": map[string]any{"ear.status": "affirming"}}}
	no := map[string]any{"submods": map[string]any{"cpu0": map[string]any{"ear.status": "contraindicated"}}}
	const all, nobody = "package policy\nimport rego.v1\nallow := true\n", "package policy\ndefault allow := false\n"
	for name, c := range map[string]struct {
		policy, base string
		claims       map[string]any
		mine, other  any
	}{
		"all of mine, others affirmed":    {all, affirmed, no, true, false},
		"mine affirmed, all others":       {affirmed, all, no, false, true},
		"both affirmed":                   {affirmed, affirmed, yes, true, true},
		"the same rules on both sides":    {affirmed, affirmed, no, false, false},
		"nobody's are mine":               {nobody, all, yes, false, true},
		"no rule allow":                   {"package policy\n", all, yes, nil, true},
		"another package":                 {"package other\ndefault allow := true\n", all, yes, nil, true},
		"a base without allow":            {all, "package policy\n", yes, true, nil},
		"no boolean":                      {"package policy\nallow := \"yes\"\n", nobody, yes, "yes", false},
		"older Rego":                      {all, "package policy\ndefault allow = false\nallow { input.submods.cpu0[\"ear.status\"] == \"affirming\" }\n", yes, true, true},
		"future.keywords":                 {all, "package policy\nimport future.keywords.if\nimport future.keywords.in\nallow if \"a\" in [\"a\"]\n", yes, true, true},
		"imports":                         {all, "package policy\nimport rego.v1\nimport input.submods as s\nallow if s.cpu0[\"ear.status\"] == \"affirming\"\n", yes, true, true},
		"rules by their full names":       {all, "package policy\nimport rego.v1\nallow if data.policy.helper == 1\nhelper := 1\n", yes, true, true},
		"else":                            {all, "package policy\nimport rego.v1\nallow := false if input.absent else := helper\nhelper := true\n", yes, true, true},
		"a local that hides a rule":       {all, "package policy\nimport rego.v1\nx := 1\nallow if { some x in [2]; x == 2 }\n", yes, true, true},
		"sets, objects and comprehension": {all, "package policy\nimport rego.v1\nnames contains \"a\"\nmap[k] := 1 if some k in names\nallow if count([n | some n in names; map[n] == 1]) == 1\n", yes, true, true},
		"strings that are rules' names":   {all, "package policy\nimport rego.v1\nallow if {\"allow\": 1}[\"allow\"] == 1\n", yes, true, true},
	} {
		joined, err := ScopePolicy("mine", c.policy, c.base)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := decide(t, joined, "mine", c.claims); got != c.mine {
			t.Errorf("%s: of the repository: %v, want %v\n%s", name, got, c.mine, joined)
		}
		for _, repository := range []string{"theirs", "mine2", ""} {
			if got := decide(t, joined, repository, c.claims); got != c.other {
				t.Errorf("%s: of the repository %q: %v, want %v\n%s", name, repository, got, c.other, joined)
			}
		}
	}
}

func TestScopePolicyThatCannotBeRead(t *testing.T) {
	const fine = "package policy\nimport rego.v1\nimport data.x as y\nallow := y\n"
	for name, c := range map[string]struct{ policy, base, want string }{
		"policy":  {"package policy\nallow if {", fine, "the policy for mine: "},
		"base":    {fine, "allow", "the policy for other resources: "},
		"imports": {fine, strings.ReplaceAll(fine, "data.x", "data.z"), "import data.z as y: the other policy has that name for data.x"},
	} {
		if _, err := ScopePolicy("mine", c.policy, c.base); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
