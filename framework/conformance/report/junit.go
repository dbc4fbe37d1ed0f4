package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// JUnit by the conventions of Prow and TestGrid: one suite, a case for each
// spec under a name that stays the same from run to run, no nesting.
type (
	junitSuites struct {
		XMLName xml.Name   `xml:"testsuites"`
		Suite   junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name       string          `xml:"name,attr"`
		Tests      int             `xml:"tests,attr"`
		Failures   int             `xml:"failures,attr"`
		Skipped    int             `xml:"skipped,attr"`
		Time       string          `xml:"time,attr"`
		Timestamp  string          `xml:"timestamp,attr"`
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitMessage `xml:"failure,omitempty"`
		Skipped *junitMessage `xml:"skipped,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes the report for CI systems. An inconclusive spec is a failure.
func (r *Report) JUnit(w io.Writer) error {
	s := junitSuite{
		Name: "coco-e2e", Time: fmt.Sprintf("%.2f", r.Run.Seconds), Timestamp: r.Run.Started.UTC().Format(time.RFC3339),
		Properties: []junitProperty{
			{"claim", string(r.Claim)},
			{"commit", r.Suite.Commit},
			{"catalogue", r.Suite.Catalogue},
			{"kubernetes", r.Environment.Kubernetes},
			{"seed", fmt.Sprint(r.Run.Seed)},
		},
	}
	for _, p := range r.Profiles {
		s.Properties = append(s.Properties, junitProperty{"profile " + string(p.Name), p.Verdict(r.Claim)})
	}
	for _, spec := range r.UniqueSpecs() {
		c := junitCase{Name: spec.text(), Class: "coco-e2e." + spec.Suite, Time: fmt.Sprintf("%.2f", spec.Seconds)}
		switch spec.Result {
		case Passed:
		case Failed, Inconclusive:
			c.Failure = &junitMessage{Message: xmlText(brief(spec.Reason)), Type: string(spec.Result), Text: xmlText(spec.Reason)}
			s.Failures++
		default:
			c.Skipped = &junitMessage{Message: xmlText(brief(spec.Reason))}
			s.Skipped++
		}
		s.Cases = append(s.Cases, c)
	}
	s.Tests = len(s.Cases)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(junitSuites{Suite: s}); err != nil {
		return fmt.Errorf("junit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// NamedSpec is a spec with the requirements that it proves.
type NamedSpec struct {
	Spec
	IDs []string
}

// Brief is the spec's reason on one line.
func (s NamedSpec) Brief() string { return brief(s.Reason) }

// text is the spec's, with its requirements.
func (s NamedSpec) text() string {
	if len(s.IDs) == 0 {
		return xmlText("[set-up] " + s.Text)
	}
	return xmlText(s.Text + " [" + strings.Join(s.IDs, " ") + "]")
}

// UniqueSpecs are all specs, each once, ordered by suite and text,
// and what failed in set-up.
func (r *Report) UniqueSpecs() []NamedSpec {
	var out []NamedSpec
	at := map[string]int{}
	for _, q := range r.Requirements {
		for _, s := range q.Specs {
			key := s.Suite + "\x00" + s.Text + "\x00" + s.Location
			if i, ok := at[key]; ok {
				out[i].IDs = append(out[i].IDs, q.ID)
				continue
			}
			at[key] = len(out)
			out = append(out, NamedSpec{s, []string{q.ID}})
		}
	}
	slices.SortStableFunc(out, func(a, b NamedSpec) int {
		if c := strings.Compare(a.Suite, b.Suite); c != 0 {
			return c
		}
		return strings.Compare(a.Text, b.Text)
	})
	for _, s := range r.SetUp {
		out = append(out, NamedSpec{Spec: s})
	}
	return out
}

// xmlText leaves out what XML has no characters for.
func xmlText(s string) string {
	var b bytes.Buffer
	for _, r := range s {
		if r == '\t' || r == '\n' || r == '\r' || (r >= 0x20 && r != 0xfffe && r != 0xffff) {
			b.WriteRune(r)
		}
	}
	return b.String()
}
