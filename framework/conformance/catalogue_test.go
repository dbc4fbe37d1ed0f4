package conformance

import (
	"strings"
	"testing"
)

const good = `requirements:
  - id: POLICY-EXEC-001
    level: MUST
    profile: policy
    text: The agent MUST refuse it.
    source: the article
    tees: [tpm]
`

func TestLoad(t *testing.T) {
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Find("POLICY-EXEC-001"); !ok {
		t.Error("POLICY-EXEC-001 is not there")
	}
	if n := len(c.Requirements); n < 120 {
		t.Errorf("%d requirements, want 120 at least", n)
	}
}

func TestParseRefuses(t *testing.T) {
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"id":            {"POLICY-EXEC-001", "Policy1", "requirement \"Policy1\": id"},
		"level":         {"level: MUST", "level: MAY", "requirement POLICY-EXEC-001: level"},
		"profile":       {"profile: policy", "profile: polices", "profile: \"polices\" is none of"},
		"text":          {"MUST refuse", "refuses", "does not say MUST"},
		"sentence":      {"refuse it.", "refuse it. And more.", "one sentence"},
		"source":        {"source: the article", "source: ''", "source: is missing"},
		"tee":           {"[tpm]", "[sgx]", "\"sgx\" is none of"},
		"unknown field": {"source:", "origin:", "origin"},
		"twice":         {"requirements:\n", "requirements:\n" + strings.TrimPrefix(good, "requirements:\n"), "given twice"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(strings.Replace(good, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
