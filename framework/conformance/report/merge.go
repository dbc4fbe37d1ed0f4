package report

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

// Matrix is several reports side by side: what each platform makes of each
// requirement. Platforms are not mixed: a simulation stays one.
type Matrix struct {
	Platforms    []Platform  `json:"platforms"`
	Requirements []MatrixRow `json:"requirements"`
}

// Platform is a report's, as a column.
type Platform struct {
	Name   string   `json:"name"`
	Claim  Claim    `json:"claim"`
	TEEs   []string `json:"tees"`
	Commit string   `json:"commit"`
	// ResultDigest is the report's.
	ResultDigest string            `json:"resultDigest"`
	Verdicts     map[string]string `json:"verdicts"`
}

// MatrixRow is a requirement with a result for each platform.
type MatrixRow struct {
	ID      string              `json:"id"`
	Level   conformance.Level   `json:"level"`
	Profile conformance.Profile `json:"profile"`
	Text    string              `json:"text"`
	Results []Result            `json:"results"`
}

// Merge joins reports of one catalogue, in the order given.
func Merge(reports ...*Report) (*Matrix, error) {
	if len(reports) == 0 {
		return nil, errors.New("nothing to merge")
	}
	m := &Matrix{}
	for _, r := range reports {
		if r.Suite.Catalogue != reports[0].Suite.Catalogue {
			return nil, fmt.Errorf("the reports are of different catalogues, %s and %s: merge runs of one commit", reports[0].Suite.Catalogue, r.Suite.Catalogue)
		}
		p := Platform{Name: r.platformName(), Claim: r.Claim, TEEs: r.TEEs(), Commit: r.Suite.Commit, ResultDigest: r.ResultDigest, Verdicts: map[string]string{}}
		for _, profile := range r.Profiles {
			p.Verdicts[string(profile.Name)] = profile.Verdict(r.Claim)
		}
		m.Platforms = append(m.Platforms, p)
	}
	m.distinct(reports)
	for i, q := range reports[0].Requirements {
		row := MatrixRow{ID: q.ID, Level: q.Level, Profile: q.Profile, Text: q.Text}
		for _, r := range reports {
			if i >= len(r.Requirements) || r.Requirements[i].ID != q.ID {
				return nil, fmt.Errorf("the reports do not list the same requirements in the same order: %s", q.ID)
			}
			row.Results = append(row.Results, r.Requirements[i].Result)
		}
		m.Requirements = append(m.Requirements, row)
	}
	return m, nil
}

// distinct makes the names of columns differ: by when a run began, and by its place
// among equal ones.
func (m *Matrix) distinct(reports []*Report) {
	count := func(name string) (n int) {
		for _, p := range m.Platforms {
			if p.Name == name {
				n++
			}
		}
		return n
	}
	names := make([]string, len(m.Platforms))
	for i, p := range m.Platforms {
		if names[i] = p.Name; count(p.Name) > 1 {
			names[i] += ", " + reports[i].Run.Started.UTC().Format("2006-01-02 15:04")
		}
	}
	for i, name := range names {
		m.Platforms[i].Name = name
		if n := slices.Index(names, name); n < i || slices.Contains(names[i+1:], name) {
			at := 1
			for _, other := range names[:i] {
				if other == name {
					at++
				}
			}
			m.Platforms[i].Name += fmt.Sprintf(" (%d)", at)
		}
	}
}

// platformName tells platforms apart for people.
func (r *Report) platformName() string {
	kinds := strings.Join(r.TEEs(), ", ")
	if r.Claim == Simulated {
		kinds += " (simulated)"
	}
	return r.Environment.Provider + ": " + kinds
}

// Markdown writes the matrix.
func (m *Matrix) Markdown(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString("# Conformance of several platforms\n\n| profile |")
	head := func() {
		for _, p := range m.Platforms {
			fmt.Fprintf(&b, " %s |", escape(p.Name))
		}
	}
	rule := func(columns int) { b.WriteString("\n|" + strings.Repeat("---|", columns) + "\n") }
	head()
	rule(len(m.Platforms) + 1)
	for _, name := range conformance.Profiles {
		fmt.Fprintf(&b, "| %s |", name)
		for _, p := range m.Platforms {
			fmt.Fprintf(&b, " %s |", p.Verdicts[string(name)])
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n| requirement | level | what |")
	head()
	rule(len(m.Platforms) + 3)
	for _, row := range m.Requirements {
		fmt.Fprintf(&b, "| %s | %s | %s |", row.ID, row.Level, escape(row.Text))
		for _, r := range row.Results {
			fmt.Fprintf(&b, " %s |", r)
		}
		b.WriteByte('\n')
	}
	_, err := w.Write(bounded(b.Bytes(), maxMarkdown))
	return err
}

//go:embed matrix.html.tmpl
var matrixText string

var matrixPage = template.Must(template.New("matrix").Parse(matrixText))

// HTML writes the matrix as one page that needs nothing else.
func (m *Matrix) HTML(w io.Writer) error {
	return matrixPage.Execute(w, struct {
		*Matrix
		Names []conformance.Profile
	}{m, conformance.Profiles})
}
