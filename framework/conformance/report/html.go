package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

//go:embed report.html.tmpl
var pageText string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"counted": counted, "brief": brief,
	"slug":     func(r Result) string { return string(r) },
	"lower":    strings.ToLower,
	"sub":      func(a, b int) int { return a - b },
	"bad":      bad,
	"marked":   marked,
	"mismatch": func(c EvidenceClaim) bool { return c.Expected != "" && c.Expected != c.Actual },
	"seconds": func(s float64) string {
		if s >= 60 {
			return fmt.Sprintf("%d min %02.0f s", int(s)/60, s-float64(int(s)/60*60))
		}
		return fmt.Sprintf("%.1f s", s)
	},
}).Parse(pageText))

// marked is the class of an event's row. A runtime waits for the guest's OOM events
// whatever the policy: that most policies have no rule for it is no trouble.
func marked(e RPCEvent) string {
	switch {
	case e.Decision == "error" && e.RPC == "GetOOMEvent":
		return "harmless"
	case e.Decision == "denied" || e.Decision == "error":
		return "denied"
	}
	return ""
}

// HTML writes the report as one page that needs nothing else. links says whether
// artefacts lie beside it.
func (r *Report) HTML(w io.Writer) error {
	type profile struct {
		ProfileResult
		Verdict string
		Must    map[Result]int
		Should  map[Result]int
	}
	data := struct {
		*Report
		Profiled []profile
		Results  []Result
		Names    []conformance.Profile
		Total    map[Result]int
		Platform string
		Unproven []string
	}{Report: r, Unproven: r.noHardware(), Results: Results, Names: conformance.Profiles, Total: r.Total(), Platform: r.platform()}
	for _, p := range r.Profiles {
		data.Profiled = append(data.Profiled, profile{p, p.Verdict(r.Claim), p.Statistics[conformance.Must], p.Statistics[conformance.Should]})
	}
	if err := page.Execute(w, data); err != nil {
		return fmt.Errorf("report.html: %w", err)
	}
	return nil
}
