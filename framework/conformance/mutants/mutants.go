// Package mutants reads manifests/conformance/mutants.yaml: defects of the
// simulators, each with the requirements that have to fail when a simulator
// has it. A run of each shows that the suites see defects, and see no others.
//
// It must not know how simulators are built and suites run.
package mutants

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2/types"
	"sigs.k8s.io/yaml"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/specs"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// Mutant is one defect.
type Mutant struct {
	Name string `json:"name"`
	// Breaks says in words what does not hold with the defect.
	Breaks string `json:"breaks"`
	// File is the source that has the defect, relative to the checkout's root;
	// Old is text that it has exactly once, New what stands there with the defect.
	File string `json:"file"`
	Old  string `json:"old"`
	New  string `json:"new"`
	// Suites are those that run, of suites/; Focus chooses of their specs, as
	// Ginkgo's --focus does, "" all.
	Suites []string `json:"suites"`
	Focus  string   `json:"focus,omitempty"`
	// Fails are the ids of the requirements that fail; all others of the run pass.
	Fails []string `json:"fails"`
}

// mutantsFile is the path of the mutants below manifests/.
const mutantsFile = "conformance/mutants.yaml"

// Load reads and validates the mutants that this program was built with.
func Load(c *conformance.Catalogue) ([]Mutant, error) {
	m, err := Parse(manifests.Read(mutantsFile), c)
	if err != nil {
		return nil, fmt.Errorf("manifests/%s: %w", mutantsFile, err)
	}
	return m, nil
}

var nameForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// Parse reads and validates mutants; the error names every mutant that is
// wrong, and its field.
func Parse(b []byte, c *conformance.Catalogue) ([]Mutant, error) {
	var file struct {
		Mutants []Mutant `json:"mutants"`
	}
	if err := yaml.UnmarshalStrict(b, &file); err != nil {
		return nil, err
	}
	if len(file.Mutants) == 0 {
		return nil, errors.New("mutants: is empty")
	}
	var errs []error
	seen := map[string]bool{}
	for _, m := range file.Mutants {
		wrong := func(field, why string) { errs = append(errs, fmt.Errorf("mutant %q: %s: %s", m.Name, field, why)) }
		if !nameForm.MatchString(m.Name) {
			wrong("name", "wants words of a-z and 0-9 with hyphens between")
		}
		if seen[m.Name] {
			wrong("name", "is given twice")
		}
		seen[m.Name] = true
		for field, value := range map[string]string{"breaks": m.Breaks, "file": m.File, "old": m.Old} {
			if value == "" {
				wrong(field, "is missing")
			}
		}
		if m.File != "" && (!filepath.IsLocal(m.File) || filepath.Ext(m.File) != ".go") {
			wrong("file", "wants a .go file, relative to the checkout's root")
		}
		if m.Old == m.New {
			wrong("new", "is the old text")
		}
		if len(m.Suites) == 0 {
			wrong("suites", "is empty")
		}
		if _, err := regexp.Compile(m.Focus); err != nil {
			wrong("focus", err.Error())
		}
		if len(m.Fails) == 0 {
			wrong("fails", "is empty: a defect that fails nothing shows nothing")
		}
		for i, id := range m.Fails {
			if _, ok := c.Find(id); !ok {
				wrong("fails", fmt.Sprintf("no requirement is called %s: see manifests/conformance/requirements.yaml", id))
			}
			if slices.Contains(m.Fails[:i], id) {
				wrong("fails", id+" is given twice")
			}
		}
	}
	return file.Mutants, errors.Join(errs...)
}

// source returns the text of the mutant's file with the defect.
func (m Mutant) source(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, m.File))
	if err != nil {
		return nil, fmt.Errorf("mutant %s: file: %w", m.Name, err)
	}
	if n := strings.Count(string(text), m.Old); n != 1 {
		return nil, fmt.Errorf("mutant %s: old: is %d times in %s, want once: bring manifests/%s up to the source", m.Name, n, m.File, mutantsFile)
	}
	return []byte(strings.Replace(string(text), m.Old, m.New, 1)), nil
}

// Overlay writes the mutant's source and, for `go build -overlay`, the file
// that puts it in the place of the checkout's at root, both into dir. It
// returns the path of that file. root and dir are absolute.
func (m Mutant) Overlay(root, dir string) (string, error) {
	text, err := m.source(root)
	if err != nil {
		return "", err
	}
	mutated, overlay := filepath.Join(dir, "mutated.go.txt"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.File): mutated}})
	if err != nil {
		return "", err
	}
	return overlay, errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(mutated, text, 0o644), os.WriteFile(overlay, replace, 0o644))
}

// Outcome are the requirements of a run by what came of their specs, each list
// sorted. One is in one list only: failed if a spec of it failed, also if that
// was inconclusive; blocked if none failed but Ginkgo left one out because an
// earlier spec of its container failed; else passed.
type Outcome struct{ Passed, Failed, Blocked []string }

// blockedMark is what Ginkgo says of a spec that it left out after a failure.
const blockedMark = "earlier spec in an ordered container failed"

// Read gathers the outcome from Ginkgo's JSON report. A failure outside specs,
// such as of a suite's set-up, is an error, for it says nothing of requirements.
func Read(report []byte) (Outcome, error) {
	var o Outcome
	var suites []types.Report
	if err := json.Unmarshal(report, &suites); err != nil {
		return o, fmt.Errorf("report of the suites: %w", err)
	}
	catalogue, err := conformance.Load()
	if err != nil {
		return o, err
	}
	failed, blocked, ran := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			bad := s.State.Is(types.SpecStateFailureStates)
			if !s.LeafNodeType.Is(types.NodeTypeIt) {
				if bad {
					return o, fmt.Errorf("suite %s: %s failed, so nothing is said of its specs: %s", suite.SuiteDescription, s.LeafNodeType, s.Failure.Message)
				}
				continue
			}
			for _, id := range specs.Requirements(s) {
				// A spec may turn out to be about a kind that the requirement is not about.
				if q, known := catalogue.Find(id); known && !q.About(about(s)) {
					continue
				}
				switch {
				case bad:
					failed[id] = true
				case s.State.Is(types.SpecStatePassed):
					ran[id] = true
				case strings.Contains(s.Failure.Message, blockedMark):
					blocked[id] = true
				}
			}
		}
	}
	for id := range failed {
		o.Failed = append(o.Failed, id)
		delete(blocked, id)
		delete(ran, id)
	}
	for id := range blocked {
		o.Blocked = append(o.Blocked, id)
		delete(ran, id)
	}
	for id := range ran {
		o.Passed = append(o.Passed, id)
	}
	slices.Sort(o.Passed)
	slices.Sort(o.Failed)
	slices.Sort(o.Blocked)
	return o, nil
}

// about is the kind of evidence that a spec turned out to be about, or "".
func about(s types.SpecReport) (tee string) {
	for _, e := range s.ReportEntries {
		if e.Name == conformance.TEEEntry {
			_ = json.Unmarshal([]byte(e.Value.AsJSON), &tee)
		}
	}
	return tee
}

// Judge compares a run of the mutant with what it has to fail. It returns nil
// when exactly that failed and everything else passed; else the error says
// which requirements survived the defect, and which failed or did not run
// beside those that it breaks.
func (m Mutant) Judge(o Outcome) error {
	var errs []error
	add := func(what string, ids []string) {
		if len(ids) > 0 {
			errs = append(errs, fmt.Errorf("%s: %s", what, strings.Join(ids, ", ")))
		}
	}
	add("survived", slices.DeleteFunc(slices.Sorted(slices.Values(m.Fails)), func(id string) bool { return slices.Contains(o.Failed, id) }))
	add("failed too", slices.DeleteFunc(slices.Clone(o.Failed), func(id string) bool { return slices.Contains(m.Fails, id) }))
	add("did not run after a failure", o.Blocked)
	if len(o.Passed) == 0 {
		errs = append(errs, errors.New("nothing passed: the run says nothing of what the defect leaves whole"))
	}
	return errors.Join(errs...)
}

// Control judges a run of the mutant's specs without any defect: all has to
// pass, and what the defect breaks has to be among it.
func (m Mutant) Control(o Outcome) error {
	var errs []error
	if ids := slices.Concat(o.Failed, o.Blocked); len(ids) > 0 {
		errs = append(errs, fmt.Errorf("without any defect failed: %s", strings.Join(ids, ", ")))
	}
	for _, id := range m.Fails {
		if !slices.Contains(slices.Concat(o.Passed, o.Failed, o.Blocked), id) {
			errs = append(errs, fmt.Errorf("no spec of %s ran: look at suites and focus", id))
		}
	}
	return errors.Join(errs...)
}

// Where the README has the table of mutants.
const (
	readmeBegin = "<!-- mutants:begin -->\n"
	readmeEnd   = "<!-- mutants:end -->"
)

// maxShown is how many requirements of a mutant the table names.
const maxShown = 12

// runs says which specs run with the mutant, in a cell of a table.
func (m Mutant) runs() string {
	text := strings.Join(m.Suites, ", ")
	if m.Focus != "" {
		text += ": those about `" + strings.ReplaceAll(m.Focus, "|", `\|`) + "`"
	}
	return text
}

// Readme returns the README's text with the table of mutants in its place.
func Readme(text string, all []Mutant) (string, error) {
	before, rest, ok := strings.Cut(text, readmeBegin)
	_, after, ok2 := strings.Cut(rest, readmeEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("README.md: wants a line %s and one %s after it", strings.TrimSpace(readmeBegin), readmeEnd)
	}
	var table strings.Builder
	table.WriteString("| defect | what it breaks | specs that run | requirements that fail, and no others of these specs |\n|---|---|---|---|\n")
	for _, m := range all {
		ids := slices.Sorted(slices.Values(m.Fails))
		shown := strings.Join(ids[:min(len(ids), maxShown)], ", ")
		if more := len(ids) - maxShown; more > 0 {
			shown += fmt.Sprintf(" and %d more", more)
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", m.Name, strings.ReplaceAll(m.Breaks, "|", `\|`), m.runs(), shown)
	}
	return before + readmeBegin + table.String() + readmeEnd + after, nil
}
