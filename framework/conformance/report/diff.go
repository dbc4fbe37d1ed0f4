package report

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// Diff is what changed from one report to another, by requirement and by spec.
// A requirement or spec that is neither failed nor inconclusive in both, or in
// none, is left out.
type Diff struct {
	NewlyFailing []Change `json:"newlyFailing"`
	NewlyPassing []Change `json:"newlyPassing"`
	StillFailing []Change `json:"stillFailing"`
	// NoLonger were passed and are now skipped, not run or not applicable: what is
	// not asked any more fails nothing, and proves nothing.
	NoLonger []Change `json:"noLonger"`
	// Added and Gone are in one report only.
	Added []Change `json:"added"`
	Gone  []Change `json:"gone"`
}

// Change is a requirement's.
type Change struct {
	ID     string `json:"id"`
	Text   string `json:"text"`
	Old    Result `json:"old,omitempty"`
	New    Result `json:"new,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Compare compares two reports.
func Compare(old, now *Report) Diff {
	var d Diff
	before := map[string]RequirementResult{}
	for _, q := range old.Requirements {
		before[q.ID] = q
	}
	bad := func(r Result) bool { return r == Failed || r == Inconclusive }
	for _, q := range now.Requirements {
		was, there := before[q.ID]
		delete(before, q.ID)
		c := Change{ID: q.ID, Text: q.Text, Old: was.Result, New: q.Result, Reason: q.Reason}
		switch {
		case !there && bad(q.Result):
			d.NewlyFailing = append(d.NewlyFailing, c)
		case !there:
			d.Added = append(d.Added, c)
		case bad(q.Result) && bad(was.Result):
			d.StillFailing = append(d.StillFailing, c)
		case bad(q.Result):
			d.NewlyFailing = append(d.NewlyFailing, c)
		case q.Result == Passed && was.Result != Passed:
			d.NewlyPassing = append(d.NewlyPassing, c)
		case was.Result == Passed && q.Result != Passed:
			d.NoLonger = append(d.NoLonger, c)
		}
	}
	for _, q := range old.Requirements {
		if gone, ok := before[q.ID]; ok {
			d.Gone = append(d.Gone, Change{ID: gone.ID, Text: gone.Text, Old: gone.Result})
		}
	}
	for _, s := range now.SetUp {
		c := Change{ID: "set-up", Text: s.Text, New: s.Result, Reason: s.Reason}
		if slices.ContainsFunc(old.SetUp, func(o Spec) bool { return o.Text == s.Text && o.Suite == s.Suite }) {
			c.Old = Failed
			d.StillFailing = append(d.StillFailing, c)
		} else {
			d.NewlyFailing = append(d.NewlyFailing, c)
		}
	}
	return d
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
		{"Passed before, not asked now", d.NoLonger},
		{"New requirements", d.Added},
		{"Requirements that are gone", d.Gone},
	}
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
			if c.Reason != "" && c.New != Passed {
				fmt.Fprintf(&b, "    %s\n", brief(c.Reason))
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
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", c.ID, escape(c.Text), c.Old, c.New, escape(brief(c.Reason)))
		}
	}
	if none {
		b.WriteString("\nNo difference.\n")
	}
	_, err := w.Write(bounded(b.Bytes(), maxMarkdown))
	return err
}
