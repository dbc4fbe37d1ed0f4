package proof

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
)

func TestOf(t *testing.T) {
	if got := Of("A-B-001", "A-B-002"); len(got) != 2 || got[0] != "requirement:A-B-001" || got[1] != "requirement:A-B-002" {
		t.Errorf("%q", got)
	}
}

func TestCheck(t *testing.T) {
	known, unknown, timeout := Of("POLICY-EXEC-001"), Of("POLICY-EXEC-999"), ginkgo.SpecTimeout(time.Second)
	body := func(ginkgo.SpecContext) {}
	for name, c := range map[string]struct {
		kind      types.NodeType
		container ginkgo.Labels
		args      []any
		want      []string
	}{
		"whole":                    {types.NodeTypeIt, nil, []any{known, timeout, body}, nil},
		"inherited":                {types.NodeTypeIt, known, []any{ginkgo.NodeTimeout(time.Second), body}, nil},
		"none":                     {types.NodeTypeIt, nil, []any{timeout, body}, []string{"proves no requirement"}},
		"another label":            {types.NodeTypeIt, nil, []any{ginkgo.Label("pod"), timeout, body}, []string{"proves no requirement"}},
		"unknown":                  {types.NodeTypeIt, nil, []any{unknown, timeout, body}, []string{"no requirement is called POLICY-EXEC-999"}},
		"no timeout":               {types.NodeTypeIt, nil, []any{known, body}, []string{"no timeout"}},
		"nothing":                  {types.NodeTypeIt, nil, []any{body}, []string{"proves no requirement", "no timeout"}},
		"unknown at the container": {types.NodeTypeContainer, nil, []any{unknown, func() {}}, []string{"no requirement is called POLICY-EXEC-999"}},
		"set-up":                   {types.NodeTypeBeforeEach, nil, []any{body}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ch := &checker{find: func(id string) bool { return id == "POLICY-EXEC-001" }}
			var errs []error
			spec := func() { _, _, errs = ch.check(c.kind, 0, "a spec", c.args) }
			if c.container == nil {
				spec()
			} else {
				_, args, _ := ch.check(types.NodeTypeContainer, 0, "a container", []any{c.container, spec})
				args[1].(func())()
			}
			if len(errs) != len(c.want) {
				t.Fatalf("%v, want %q", errs, c.want)
			}
			for i, want := range c.want {
				if !strings.Contains(errs[i].Error(), want) {
					t.Errorf("%v, want %q", errs[i], want)
				}
			}
			if len(ch.inherited) != 0 {
				t.Error("a container is still open")
			}
		})
	}
}

// A suite whose tree has a spec that the catalogue does not take runs none.
func TestTree(t *testing.T) {
	suite := filepath.Join(t.TempDir(), "suite")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", suite, "./testdata/tree").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for spec, want := range map[string]string{
		"whole": "Ran 1 of 1 Specs", "unproven": "it proves no requirement", "unknown": "no requirement is called POLICY-EXEC-999", "endless": "it has no timeout",
	} {
		cmd := exec.CommandContext(t.Context(), suite, "-ginkgo.no-color")
		cmd.Env = append(os.Environ(), "SPEC="+spec)
		out, err := cmd.CombinedOutput()
		if (err == nil) != (spec == "whole") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, want %q\n%s", spec, err, want, out)
		}
		if spec != "whole" && strings.Contains(string(out), "Ran 1 of") {
			t.Errorf("%s: it ran\n%s", spec, out)
		}
	}
}
