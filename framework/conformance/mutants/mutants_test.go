package mutants

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

const root = "../../.."

func load(t *testing.T) []Mutant {
	t.Helper()
	c, err := conformance.Load()
	if err != nil {
		t.Fatal(err)
	}
	all, err := Load(c)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Every mutant fits the sources as they are, and compiles.
func TestOverlay(t *testing.T) {
	abs, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range load(t) {
		t.Run(m.Name, func(t *testing.T) {
			overlay, err := m.Overlay(abs, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "./"+filepath.Dir(m.File))
			cmd.Dir = abs
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestReadme(t *testing.T) {
	text, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Readme(string(text), load(t))
	if err != nil || want != string(text) {
		t.Errorf("README.md is not current (%v): run bin/coco-e2e mutants --readme", err)
	}
	got, err := Readme("a\n<!-- mutants:begin -->\nold\n<!-- mutants:end -->\nb", []Mutant{{Name: "x", Breaks: "It | breaks.", Suites: []string{"pod", "host"}, Focus: "a|b", Fails: []string{"B-B-001", "A-A-001"}}})
	if want := "a\n<!-- mutants:begin -->\n| defect | what it breaks | specs that run | requirements that fail, and no others of these specs |\n|---|---|---|---|\n| `x` | It \\| breaks. | pod, host: those about `a\\|b` | A-A-001, B-B-001 |\n<!-- mutants:end -->\nb"; err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
	if _, err := Readme("no table", nil); err == nil {
		t.Error("a README without a place for the table was taken")
	}
}

const good = `mutants:
  - name: allows-all
    breaks: It allows all.
    file: simulators/agent/agent.go
    old: a
    new: b
    suites: [agent]
    fails: [POLICY-EXEC-001]
`

func TestParseRefuses(t *testing.T) {
	c, err := conformance.Load()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse([]byte(good), c); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]struct{ old, new, want string }{
		"empty":         {good, "mutants: []\n", "mutants: is empty"},
		"name":          {"allows-all", "Allows All", `mutant "Allows All": name`},
		"twice":         {"mutants:\n", good, "name: is given twice"},
		"breaks":        {"It allows all.", "''", "breaks: is missing"},
		"no file":       {"simulators/agent/agent.go", "''", "file: is missing"},
		"outside":       {"simulators/", "../simulators/", "relative to the checkout's root"},
		"not Go":        {"agent.go", "agent.toml", "wants a .go file"},
		"no old text":   {"old: a", "old: ''", "old: is missing"},
		"no difference": {"new: b", "new: a", "new: is the old text"},
		"suites":        {"[agent]", "[]", "suites: is empty"},
		"focus":         {"suites:", "focus: '('\n    suites:", "focus: error parsing regexp"},
		"no fails":      {"[POLICY-EXEC-001]", "[]", "fails: is empty"},
		"unknown":       {"POLICY-EXEC-001", "POLICY-EXEC-999", "no requirement is called POLICY-EXEC-999"},
		"fails twice":   {"[POLICY-EXEC-001]", "[POLICY-EXEC-001, POLICY-EXEC-001]", "POLICY-EXEC-001 is given twice"},
		"unknown field": {"breaks:", "defect:", "defect"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(strings.Replace(good, e.old, e.new, 1)), c)
			if err == nil || !strings.Contains(err.Error(), e.want) {
				t.Errorf("%v, want %q", err, e.want)
			}
		})
	}
}

func TestOverlayRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte("one two two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, old, want string }{
		"none": {"x.go", "three", "is 0 times in x.go"}, "two": {"x.go", "two", "is 2 times in x.go"}, "no file": {"y.go", "one", "no such file"},
	} {
		if _, err := (Mutant{Name: name, File: c.file, Old: c.old, New: "-"}).Overlay(dir, t.TempDir()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	overlay, err := Mutant{Name: "right", File: "x.go", Old: "one", New: "1"}.Overlay(dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(overlay)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct{ Replace map[string]string }
	if err := json.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	if mutated, err := os.ReadFile(parsed.Replace[filepath.Join(dir, "x.go")]); err != nil || string(mutated) != "1 two two\n" {
		t.Errorf("%q, %v, of %s", mutated, err, text)
	}
}

// report has, of each requirement, one spec: A failed, B passed, C was left out
// after a failure, D by the focus; E both passed and timed out.
const report = `[{"SuiteDescription": "pod", "SpecReports": [
  {"LeafNodeType": "BeforeSuite", "State": "passed"},
  {"LeafNodeType": "It", "State": "failed", "LeafNodeLabels": ["requirement:A-A-001"], "Failure": {"Message": "INCONCLUSIVE: no answer"}},
  {"LeafNodeType": "It", "State": "passed", "LeafNodeLabels": ["requirement:B-B-001"]},
  {"LeafNodeType": "It", "State": "skipped", "LeafNodeLabels": ["requirement:C-C-001"],
   "Failure": {"Message": "Spec skipped because an earlier spec in an ordered container failed"}},
  {"LeafNodeType": "It", "State": "skipped", "LeafNodeLabels": ["requirement:D-D-001"]},
  {"LeafNodeType": "It", "State": "passed", "LeafNodeLabels": ["requirement:E-E-001"]},
  {"LeafNodeType": "It", "State": "timedout", "LeafNodeLabels": ["requirement:E-E-001"]}]}]`

// A spec of several requirements fails those of the kind that it was about.
func TestReadTEE(t *testing.T) {
	const spec = `[{"SpecReports": [{"LeafNodeType": "It", "State": "failed", "LeafNodeLabels": ["requirement:ATTEST-BINDING-001", "requirement:ATTEST-BINDING-002"],
  "ReportEntries": [{"Name": "tee", "Value": {"AsJSON": "\"tpm\""}}]}]}]`
	for report, want := range map[string][]string{
		spec: {"ATTEST-BINDING-001"}, strings.Replace(spec, "tpm", "snp", 1): {"ATTEST-BINDING-002"},
		strings.Replace(spec, `"tee"`, `"a note"`, 1): {"ATTEST-BINDING-001", "ATTEST-BINDING-002"},
	} {
		if o, err := Read([]byte(report)); err != nil || !slices.Equal(o.Failed, want) {
			t.Errorf("%v, %v, want %v", o.Failed, err, want)
		}
	}
}

func TestRead(t *testing.T) {
	o, err := Read([]byte(report))
	if err != nil || !slices.Equal(o.Failed, []string{"A-A-001", "E-E-001"}) || !slices.Equal(o.Passed, []string{"B-B-001"}) || !slices.Equal(o.Blocked, []string{"C-C-001"}) {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := Read([]byte(strings.Replace(report, `"State": "passed"}`, `"State": "failed", "Failure": {"Message": "no cluster"}}`, 1))); err == nil || !strings.Contains(err.Error(), "no cluster") {
		t.Errorf("set-up failed: %v", err)
	}
	if _, err := Read([]byte("{")); err == nil {
		t.Error("half a report was read")
	}
}

func TestJudge(t *testing.T) {
	m := Mutant{Fails: []string{"A-A-001", "A-A-002"}}
	for name, c := range map[string]struct {
		o             Outcome
		want, control []string
	}{
		"exactly":  {Outcome{Passed: []string{"B-B-001"}, Failed: []string{"A-A-001", "A-A-002"}}, nil, []string{"without any defect failed: A-A-001, A-A-002"}},
		"none":     {Outcome{Passed: []string{"A-A-001", "A-A-002", "B-B-001"}}, []string{"survived: A-A-001, A-A-002"}, nil},
		"one":      {Outcome{Passed: []string{"A-A-002"}, Failed: []string{"A-A-001"}}, []string{"survived: A-A-002"}, []string{"failed: A-A-001"}},
		"too many": {Outcome{Passed: []string{"B-B-001"}, Failed: []string{"A-A-001", "A-A-002", "C-C-001"}}, []string{"failed too: C-C-001"}, []string{"failed: A-A-001"}},
		"blocked": {
			Outcome{Passed: []string{"B-B-001"}, Failed: []string{"A-A-001", "A-A-002"}, Blocked: []string{"C-C-001"}},
			[]string{"did not run after a failure: C-C-001"},
			[]string{"A-A-002, C-C-001"},
		},
		"nothing passed": {Outcome{Failed: []string{"A-A-001", "A-A-002"}}, []string{"nothing passed"}, []string{"failed: A-A-001"}},
		"not selected":   {Outcome{Passed: []string{"A-A-001"}}, []string{"survived: A-A-001, A-A-002"}, []string{"no spec of A-A-002 ran"}},
	} {
		t.Run(name, func(t *testing.T) {
			expect := func(what string, err error, want []string) {
				if (err == nil) != (want == nil) {
					t.Fatalf("%s: %v, want %q", what, err, want)
				}
				for _, w := range want {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%s: %v, want %q", what, err, w)
					}
				}
			}
			expect("mutant", m.Judge(c.o), c.want)
			expect("control", m.Control(c.o), c.control)
		})
	}
}
