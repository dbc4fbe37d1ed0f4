// Package mutation is the test of the tests: defects put into the simulators,
// one at a time, and the requirements that must fail then, and no others.
//
// A mutant is data (manifests/conformance/mutants.yaml): no simulator has code
// for it. It reaches the compiler as an overlay, and so no file of the checkout
// changes. This package must not know how suites are run.
package mutation

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// Mutant is one defect.
type Mutant struct {
	Name string `json:"name"`
	// Defect says what is wrong, in a sentence.
	Defect string `json:"defect"`
	// Suites that are run.
	Suites []string `json:"suites"`
	// Edits make the defect.
	Edits []Edit `json:"edits"`
	// Breaks are the requirements that fail, or cannot be decided any more.
	Breaks []string `json:"breaks"`
}

// Edit replaces a text that is in a file exactly once.
type Edit struct {
	// File is below simulators/.
	File string `json:"file"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

const mutantsFile = "conformance/mutants.yaml"

// Load reads and validates the mutants that this program was built with.
func Load(c *conformance.Catalogue) ([]Mutant, error) {
	m, err := Parse(manifests.Read(mutantsFile), c)
	if err != nil {
		return nil, fmt.Errorf("manifests/%s: %w", mutantsFile, err)
	}
	return m, nil
}

// Parse reads and validates mutants; the error names each that is wrong.
func Parse(b []byte, c *conformance.Catalogue) ([]Mutant, error) {
	var file struct {
		Mutants []Mutant `json:"mutants"`
	}
	if err := yaml.UnmarshalStrict(b, &file); err != nil {
		return nil, err
	}
	var errs []error
	seen := map[string]bool{}
	for _, m := range file.Mutants {
		wrong := func(field, why string) { errs = append(errs, fmt.Errorf("mutant %q: %s: %s", m.Name, field, why)) }
		if m.Name == "" || seen[m.Name] {
			wrong("name", "is missing, or another's")
		}
		seen[m.Name] = true
		if m.Defect == "" {
			wrong("defect", "is missing")
		}
		if len(m.Suites) == 0 {
			wrong("suites", "is empty")
		}
		if len(m.Edits) == 0 {
			wrong("edits", "is empty: nothing would be wrong")
		}
		for _, e := range m.Edits {
			if !strings.HasPrefix(e.File, "simulators/") || filepath.Clean(e.File) != e.File {
				wrong("edits", e.File+" is not below simulators/: what judges must stay as it is")
			}
			if e.Old == "" || e.Old == e.New {
				wrong("edits", e.File+": old and new have to differ")
			}
		}
		if len(m.Breaks) == 0 {
			wrong("breaks", "is empty: a mutant that breaks nothing shows nothing")
		}
		for _, id := range m.Breaks {
			if _, ok := c.Find(id); !ok {
				wrong("breaks", "no requirement is called "+id)
			}
		}
	}
	return file.Mutants, errors.Join(errs...)
}

// Overlay writes the mutant's files below dir, and the file for the -overlay flag
// of the go command, whose path it returns. root is the checkout.
func (m *Mutant) Overlay(root, dir string) (string, error) {
	replace := map[string]string{}
	for i, e := range m.Edits {
		path := filepath.Join(root, e.File)
		from := path
		if done := replace[path]; done != "" {
			from = done
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		if n := strings.Count(string(text), e.Old); n != 1 {
			return "", fmt.Errorf("mutant %s: %s has the text to replace %d times, want once: adapt manifests/%s", m.Name, e.File, n, mutantsFile)
		}
		changed := filepath.Join(dir, fmt.Sprintf("%d-%s", i, filepath.Base(e.File)))
		if err := os.WriteFile(changed, []byte(strings.Replace(string(text), e.Old, e.New, 1)), 0o600); err != nil {
			return "", err
		}
		replace[path] = changed
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, b, 0o600)
}

// Verdict is what the suites made of a mutant.
type Verdict struct {
	// Broke are the requirements that failed or were inconclusive.
	Broke []string
	// Survived are those of Breaks that did not.
	Survived []string
	// Overkill broke beside them.
	Overkill []string
	// SetUp failed: nothing is shown.
	SetUp []string
}

// Killed says that exactly what should break broke.
func (v Verdict) Killed() bool { return len(v.Survived)+len(v.Overkill)+len(v.SetUp) == 0 }

// Judge compares a run's report with what the mutant should break.
func (m *Mutant) Judge(r *report.Report) Verdict {
	var v Verdict
	for _, q := range r.Requirements {
		if q.Result == report.Failed || q.Result == report.Inconclusive {
			v.Broke = append(v.Broke, q.ID)
			if !slices.Contains(m.Breaks, q.ID) {
				v.Overkill = append(v.Overkill, q.ID)
			}
		}
	}
	for _, id := range m.Breaks {
		if !slices.Contains(v.Broke, id) {
			v.Survived = append(v.Survived, id)
		}
	}
	for _, s := range r.SetUp {
		v.SetUp = append(v.SetUp, s.Text)
	}
	return v
}

// Table is the mutants in Markdown.
func Table(mutants []Mutant) string {
	var b strings.Builder
	b.WriteString("| defect | suites | requirements that fail, and no others |\n|---|---|---|\n")
	for _, m := range mutants {
		ids := slices.Clone(m.Breaks)
		slices.Sort(ids)
		shown := strings.Join(ids, ", ")
		if len(ids) > 12 {
			shown = fmt.Sprintf("%s and %d more", strings.Join(ids[:12], ", "), len(ids)-12)
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", m.Defect, strings.Join(m.Suites, ", "), shown)
	}
	return b.String()
}
