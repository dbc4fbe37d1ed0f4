package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

// maxMarkdown is what GitHub takes for a step's summary: 1 MiB.
const maxMarkdown = 1 << 20

// Markdown writes the report's summary: verdicts, and what did not pass.
func (r *Report) Markdown(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Conformance report\n\n%s\n\n", r.headline())
	b.WriteString("| profile | verdict | MUST | SHOULD |\n|---|---|---|---|\n")
	for _, p := range r.Profiles {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", p.Name, p.Verdict(r.Claim), counted(p.Statistics[conformance.Must]), counted(p.Statistics[conformance.Should]))
	}
	fmt.Fprintf(&b, "\nSpecs: %s. %s\n", counted(r.Total()), r.platform())
	if r.Run.Selection != "" {
		fmt.Fprintf(&b, "\nOnly a part was asked for: `%s`\n", r.Run.Selection)
	}
	if r.Run.Aborted != "" {
		fmt.Fprintf(&b, "\n**The run was aborted:** %s\n", escape(brief(r.Run.Aborted)))
	}
	if len(r.SetUp) > 0 {
		b.WriteString("\n## Set-up that failed\n\n")
		for _, s := range r.SetUp {
			fmt.Fprintf(&b, "- %s: %s\n", escape(s.Text), escape(brief(s.Reason)))
		}
	}
	for _, result := range []Result{Failed, Inconclusive, Skipped, NotRun} {
		r.section(&b, result)
	}
	b.WriteString("\n## Platform\n\n")
	for _, n := range r.Environment.Nodes {
		fmt.Fprintf(&b, "- Node %s: %s\n", escape(n.Name), escape(n.Facts()))
	}
	for _, c := range r.Implementation.Classes {
		fmt.Fprintf(&b, "- RuntimeClass %s: %s\n", escape(c.Name), escape(c.Facts()))
	}
	for _, c := range r.Environment.OtherClasses {
		fmt.Fprintf(&b, "- RuntimeClass %s, not asked for: %s\n", escape(c.Name), escape(c.Facts()))
	}
	fmt.Fprintf(&b, "\nReproduce: `%s`. Catalogue `%s`, results `%s`.\n", r.Run.Command, r.Suite.Catalogue, r.ResultDigest)
	_, err := w.Write(bounded(b.Bytes(), maxMarkdown))
	return err
}

// headline says what the report is of.
func (r *Report) headline() string {
	commit := "unknown commit"
	if r.Suite.Commit != "" {
		commit = "commit `" + r.Suite.Commit[:12] + "`"
		if r.Suite.Modified {
			commit += " with changes"
		}
	}
	of := "**" + escape(r.Implementation.Name) + "**"
	if r.Implementation.Simulated {
		of += ", simulated TEE: no statement about hardware"
	} else if r.Claim == Simulated {
		of += ", no statement about hardware: " + escape(r.noHardware()[0])
	}
	return fmt.Sprintf("%s. Suite at %s, %s.", of, commit, r.Run.Started.UTC().Format("2006-01-02 15:04 UTC"))
}

func (r *Report) platform() string {
	parts := []string{fmt.Sprintf("Kubernetes %s (%s, %d nodes)", r.Environment.Kubernetes, r.Environment.Provider, len(r.Environment.Nodes))}
	if len(r.Environment.Nodes) == 1 {
		parts[0] = fmt.Sprintf("Kubernetes %s (%s, 1 node)", r.Environment.Kubernetes, r.Environment.Provider)
	}
	var classes []string
	for _, c := range r.Implementation.Classes {
		kind := c.TEE
		if kind == "" {
			kind = "unknown"
		}
		classes = append(classes, c.Name+" ("+kind+")")
	}
	parts = append(parts, "RuntimeClasses "+strings.Join(classes, ", "))
	if t := r.Environment.Trustee; t != nil {
		parts = append(parts, "KBS: "+r.Implementation.KBS+", "+t.String())
	}
	return strings.Join(parts, "; ") + "."
}

// Facts are what is known of a node, in words.
func (n Node) Facts() string {
	parts := []string{n.OS, "Linux " + n.Kernel, n.Runtime}
	parts = append(parts, n.TEEs...)
	if n.Kata {
		parts = append(parts, "labelled as one with Kata")
	}
	for _, label := range slices.Sorted(maps.Keys(n.Labels)) {
		parts = append(parts, label+"="+n.Labels[label])
	}
	for _, name := range slices.Sorted(maps.Keys(n.Resources)) {
		parts = append(parts, n.Resources[name]+" "+name)
	}
	return strings.Join(parts, ", ")
}

// Facts are what is known of a RuntimeClass, in words.
func (c Class) Facts() string {
	parts := []string{"evidence of kind " + cmp.Or(c.TEE, "unknown")}
	if c.Handler != "" {
		parts = append(parts, "handler "+c.Handler)
	}
	if c.Simulated {
		parts = append(parts, "simulated")
	}
	if c.EventLog {
		parts = append(parts, "with a measured event log")
	}
	if c.Kata != "" {
		parts = append(parts, "Kata "+c.Kata)
	}
	return strings.Join(append(parts, fmt.Sprintf("nodes: %d", c.Nodes)), ", ")
}

func (r *Report) section(b *bytes.Buffer, result Result) {
	title := map[Result]string{Failed: "Failed", Inconclusive: "Inconclusive", Skipped: "Skipped", NotRun: "Not run"}[result]
	first := true
	for _, q := range r.Requirements {
		if q.Result != result {
			continue
		}
		if first {
			fmt.Fprintf(b, "\n## %s\n\n| requirement | level | what | why |\n|---|---|---|---|\n", title)
			first = false
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", q.ID, q.Level, escape(q.Text), escape(q.Reason))
	}
}

// counted are numbers of results in words: "12 passed, 1 skipped".
func counted(counts map[Result]int) string {
	var parts []string
	for _, r := range SortedResults(counts) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[r], r))
	}
	if len(parts) == 0 {
		return "–"
	}
	return strings.Join(parts, ", ")
}

var special = regexp.MustCompile("[|*_`<>\\[\\]\\\\]")

// escape makes text inert in a cell of a Markdown table.
func escape(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r", " "), "\n", " ")
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "") + " …"
	}
	return special.ReplaceAllStringFunc(s, func(c string) string {
		switch c {
		case "<":
			return "&lt;"
		case ">":
			return "&gt;"
		}
		return `\` + c
	})
}

// bounded cuts a text at the end of a line, and says so.
func bounded(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	const note = "\n\n**Cut here: the whole is in report.yaml and report.html.**\n"
	cut := b[:limit-len(note)]
	if i := bytes.LastIndexByte(cut, '\n'); i > 0 {
		cut = cut[:i]
	}
	return append(bytes.Clone(cut), note...)
}
