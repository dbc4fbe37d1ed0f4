package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

// Diff is what changed from one report to another, by requirement and, in each
// requirement, by spec. A spec is known by its suite and text.
type Diff struct {
	// NewlyFailing are requirements that failed or were inconclusive now and not
	// before, and those that failed before of which another spec does so now.
	NewlyFailing []Change `json:"newlyFailing"`
	// NewlyPassing passed now and not before, or some specs of it did.
	NewlyPassing []Change `json:"newlyPassing"`
	StillFailing []Change `json:"stillFailing"`
	// NoLonger were asked and are now skipped, not run or not applicable, or have
	// lost a spec that passed: what is not asked any more fails nothing, and proves
	// nothing.
	NoLonger []Change `json:"noLonger"`
	// Added and Gone are in one report only.
	Added []Change `json:"added"`
	Gone  []Change `json:"gone"`
}

// Change is a requirement's.
type Change struct {
	ID     string            `json:"id"`
	Level  conformance.Level `json:"level,omitempty"`
	Text   string            `json:"text"`
	Old    Result            `json:"old,omitempty"`
	New    Result            `json:"new,omitempty"`
	Reason string            `json:"reason,omitempty"`
	// Specs are those of its specs that the change is about.
	Specs []SpecChange `json:"specs,omitempty"`
}

// SpecChange is a spec's; Old or New is "" where the report does not have it.
type SpecChange struct {
	Suite  string `json:"suite"`
	Text   string `json:"text"`
	Old    Result `json:"old,omitempty"`
	New    Result `json:"new,omitempty"`
	Reason string `json:"reason,omitempty"`
}

func bad(r Result) bool { return r == Failed || r == Inconclusive }

// asked says that a result says something of the platform.
func asked(r Result) bool { return r == Passed || bad(r) }

// Lost are the MUSTs that passed before and are not asked now, so that a profile
// is not proven any more though nothing fails.
func (d Diff) Lost() []Change {
	var lost []Change
	for _, c := range d.NoLonger {
		if c.Level == conformance.Must && c.Old == Passed && c.New != Passed {
			lost = append(lost, c)
		}
	}
	return lost
}

// specChanges are those of a requirement's specs.
type specChanges struct{ worse, better, still, lost []SpecChange }

func compareSpecs(old, now []Spec) (d specChanges) {
	type key struct{ suite, text string }
	before := map[key]Spec{}
	for _, s := range old {
		before[key{s.Suite, s.Text}] = s
	}
	for _, s := range now {
		was := before[key{s.Suite, s.Text}]
		delete(before, key{s.Suite, s.Text})
		c := SpecChange{Suite: s.Suite, Text: s.Text, Old: was.Result, New: s.Result, Reason: brief(s.Reason)}
		switch {
		case bad(s.Result) && bad(was.Result):
			d.still = append(d.still, c)
		case bad(s.Result):
			d.worse = append(d.worse, c)
		case s.Result == Passed && was.Result != Passed:
			d.better = append(d.better, c)
		case s.Result != Passed && asked(was.Result):
			d.lost = append(d.lost, c)
		}
	}
	for _, s := range old {
		if _, gone := before[key{s.Suite, s.Text}]; gone && s.Result == Passed {
			d.lost = append(d.lost, SpecChange{Suite: s.Suite, Text: s.Text, Old: s.Result})
		}
	}
	return d
}

// Compare compares two reports.
func Compare(old, now *Report) Diff {
	var d Diff
	before := map[string]RequirementResult{}
	for _, q := range old.Requirements {
		before[q.ID] = q
	}
	for _, q := range now.Requirements {
		was, there := before[q.ID]
		delete(before, q.ID)
		d.requirement(was, q, there)
	}
	for _, q := range old.Requirements {
		if gone, ok := before[q.ID]; ok {
			d.Gone = append(d.Gone, Change{ID: gone.ID, Level: gone.Level, Text: gone.Text, Old: gone.Result})
		}
	}
	for _, s := range now.SetUp {
		c := Change{ID: "set-up", Text: s.Text, New: s.Result, Reason: brief(s.Reason)}
		if slices.ContainsFunc(old.SetUp, func(o Spec) bool { return o.Text == s.Text && o.Suite == s.Suite }) {
			c.Old = Failed
			d.StillFailing = append(d.StillFailing, c)
		} else {
			d.NewlyFailing = append(d.NewlyFailing, c)
		}
	}
	return d
}

// requirement takes in what became of one; there says that it was before.
func (d *Diff) requirement(was, q RequirementResult, there bool) {
	specs := compareSpecs(was.Specs, q.Specs)
	add := func(to *[]Change, specs []SpecChange) {
		*to = append(*to, Change{ID: q.ID, Level: q.Level, Text: q.Text, Old: was.Result, New: q.Result, Reason: q.Reason, Specs: specs})
	}
	switch {
	case !there && !bad(q.Result):
		add(&d.Added, nil)
		return
	case bad(q.Result) && (!bad(was.Result) || len(specs.worse) > 0):
		add(&d.NewlyFailing, specs.worse)
	case bad(q.Result):
		add(&d.StillFailing, specs.still)
	}
	if q.Result == Passed && was.Result != Passed || bad(was.Result) && len(specs.better) > 0 {
		add(&d.NewlyPassing, specs.better)
	}
	if asked(was.Result) && !asked(q.Result) || len(specs.lost) > 0 {
		add(&d.NoLonger, specs.lost)
	}
}

func (d Diff) parts() []struct {
	Title   string
	Changes []Change
} {
	return []struct {
		Title   string
		Changes []Change
	}{
		{"Newly failing", d.NewlyFailing},
		{"Newly passing", d.NewlyPassing},
		{"Still failing", d.StillFailing},
		{"Not asked any more", d.NoLonger},
		{"New requirements", d.Added},
		{"Requirements that are gone", d.Gone},
	}
}

// change is what became of the spec, in words.
func (s SpecChange) change() string {
	return fmt.Sprintf("%s → %s", cmp.Or(string(s.Old), "new"), cmp.Or(string(s.New), "gone"))
}

// why is the last cell of a change's row: each spec with its reason.
func (c Change) why() string {
	if len(c.Specs) == 0 {
		return escape(c.Reason)
	}
	var lines []string
	for _, s := range c.Specs {
		line := escape(fmt.Sprintf("%s: %s (%s)", s.Suite, s.Text, s.change()))
		if s.Reason != "" {
			line += ": " + escape(s.Reason)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "<br>")
}

// Text writes the differences for a terminal.
func (d Diff) Text(w io.Writer) error {
	var b bytes.Buffer
	for _, p := range d.parts() {
		if len(p.Changes) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s: %d\n", p.Title, len(p.Changes))
		for _, c := range p.Changes {
			fmt.Fprintf(&b, "  %-26s %s", c.ID, c.Text)
			if c.Old != "" && c.New != "" && c.Old != c.New {
				fmt.Fprintf(&b, " (%s → %s)", c.Old, c.New)
			}
			b.WriteByte('\n')
			for _, s := range c.Specs {
				fmt.Fprintf(&b, "    %s: %s (%s)\n", s.Suite, s.Text, s.change())
				if s.Reason != "" {
					fmt.Fprintf(&b, "      %s\n", s.Reason)
				}
			}
			if len(c.Specs) == 0 && c.Reason != "" && c.New != Passed {
				fmt.Fprintf(&b, "    %s\n", c.Reason)
			}
		}
	}
	if b.Len() == 0 {
		b.WriteString("no difference\n")
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Markdown writes the differences for a summary.
func (d Diff) Markdown(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString("## Compared with the report before\n")
	none := true
	for _, p := range d.parts() {
		if len(p.Changes) == 0 {
			continue
		}
		none = false
		fmt.Fprintf(&b, "\n### %s: %d\n\n| requirement | what | before | now | why |\n|---|---|---|---|---|\n", p.Title, len(p.Changes))
		for _, c := range p.Changes {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", c.ID, escape(c.Text), c.Old, c.New, c.why())
		}
	}
	if none {
		b.WriteString("\nNo difference.\n")
	}
	_, err := w.Write(bounded(b.Bytes(), maxMarkdown))
	return err
}
