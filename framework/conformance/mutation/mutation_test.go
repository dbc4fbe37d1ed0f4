package mutation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
)

func catalogue(t *testing.T) *conformance.Catalogue {
	t.Helper()
	c, err := conformance.Load()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Every mutant fits the sources as they are.
func TestMutants(t *testing.T) {
	mutants, err := Load(catalogue(t))
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		file, err := m.Overlay(root, t.TempDir())
		if err != nil {
			t.Error(err)
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var overlay struct{ Replace map[string]string }
		if err := json.Unmarshal(b, &overlay); err != nil {
			t.Fatal(err)
		}
		for from, to := range overlay.Replace {
			before, err := os.ReadFile(from)
			if err != nil {
				t.Error(err)
			}
			after, err := os.ReadFile(to)
			if err != nil || string(before) == string(after) {
				t.Errorf("mutant %s: %v: %s is as it was", m.Name, err, from)
			}
		}
	}
}

// The README's table is of the mutants as they are.
func TestReadme(t *testing.T) {
	mutants, err := Load(catalogue(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "<!-- mutants:begin -->\n"+Table(mutants)+"<!-- mutants:end -->") {
		t.Error("README.md is behind manifests/conformance/mutants.yaml: coco-e2e mutants --readme README.md")
	}
}

func TestParseRefuses(t *testing.T) {
	const good = `mutants:
  - name: a
    defect: It is wrong.
    suites: [agent]
    edits: [{file: simulators/agent/agent.go, old: x, new: z}]
    breaks: [POLICY-EXEC-001]
`
	c := catalogue(t)
	if _, err := Parse([]byte(good), c); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][3]string{
		"no name":         {"name: a", "name: ''", "name: is missing"},
		"no defect":       {"defect: It is wrong.", "defect: ''", `mutant "a": defect`},
		"no suite":        {"[agent]", "[]", "suites: is empty"},
		"the judge":       {"simulators/agent/agent.go", "framework/policy/engine.go", "not below simulators/"},
		"out of the tree": {"simulators/agent/agent.go", "simulators/../framework/x.go", "not below simulators/"},
		"no change":       {"new: z", "new: x", "have to differ"},
		"unknown":         {"POLICY-EXEC-001", "POLICY-EXEC-999", "no requirement is called POLICY-EXEC-999"},
		"nothing breaks":  {"[POLICY-EXEC-001]", "[]", "breaks: is empty"},
		"unknown field":   {"defect:", "bug:", "bug"},
	} {
		if _, err := Parse([]byte(strings.Replace(good, change[0], change[1], 1)), c); err == nil || !strings.Contains(err.Error(), change[2]) {
			t.Errorf("%s: %v, want %q", name, err, change[2])
		}
	}
}

func TestOverlayRefuses(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "simulators"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "simulators/a.go"), []byte("one two two"), 0o600); err != nil {
		t.Fatal(err)
	}
	for old, want := range map[string]string{"two": "2 times", "three": "0 times", "one": ""} {
		m := Mutant{Name: "m", Edits: []Edit{{"simulators/a.go", old, "x"}}}
		_, err := m.Overlay(root, t.TempDir())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", old, err, want)
		}
	}
	// Two edits of one file are both made.
	dir := t.TempDir()
	m := Mutant{Name: "m", Edits: []Edit{{"simulators/a.go", "one", "1"}, {"simulators/a.go", "1 two", "3"}}}
	if _, err := m.Overlay(root, dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "1-a.go")); err != nil || string(b) != "3 two" {
		t.Errorf("%v: %s", err, b)
	}
}

func TestJudge(t *testing.T) {
	of := func(results ...report.Result) *report.Report {
		r := &report.Report{}
		for i, result := range results {
			r.Requirements = append(r.Requirements, report.RequirementResult{Requirement: conformance.Requirement{ID: string(rune('A' + i))}, Result: result})
		}
		return r
	}
	m := Mutant{Breaks: []string{"A", "B"}}
	for _, c := range []struct {
		r                  *report.Report
		killed             bool
		survived, overkill []string
	}{
		{of(report.Failed, report.Inconclusive, report.Passed, report.NotRun), true, nil, nil},
		{of(report.Failed, report.Passed, report.Passed), false, []string{"B"}, nil},
		{of(report.Failed, report.Failed, report.Failed), false, nil, []string{"C"}},
		{of(report.Skipped, report.NotRun), false, []string{"A", "B"}, nil},
	} {
		v := m.Judge(c.r)
		if v.Killed() != c.killed || !slices.Equal(v.Survived, c.survived) || !slices.Equal(v.Overkill, c.overkill) {
			t.Errorf("%+v, want %+v", v, c)
		}
	}
	aborted := of(report.Failed, report.Failed)
	aborted.SetUp = []report.Spec{{Text: "no cluster"}}
	if m.Judge(aborted).Killed() {
		t.Error("a run whose set-up failed found the mutant")
	}
}
