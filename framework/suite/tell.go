package suite

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/framework/evidence"
	. "github.com/onsi/ginkgo/v2"
)

// maxTimeline is how many requests of a pod's agent a report shows.
const maxTimeline = 200

// TellEvidence puts what verified evidence claims into the report. register is
// the value expected of the register that init-data is bound to (PCR8, HOST_DATA,
// MRCONFIGID) in hex, "" where nothing is bound.
func TellEvidence(claims *evidence.Claims, register string) {
	t := report.EvidenceTable{Kind: claims.Kind, Roots: "vendor"}
	switch {
	case claims.Kind == evidence.KindTPM || claims.Kind == evidence.KindSample: // which no certificate vouches for
		t.Roots = "none"
	case claims.TestRoot:
		t.Roots = "test"
	}
	if register != "" {
		t.Claims = append(t.Claims, report.EvidenceClaim{Name: "register of the init-data", Expected: register, Actual: claims.InitData})
	}
	leaves(claims.Map(), "", func(name, value string) {
		t.Claims = append(t.Claims, report.EvidenceClaim{Name: name, Actual: value})
	})
	AddReportEntry(report.EvidenceEntry, t, ReportEntryVisibilityNever)
}

// maxClaim is as much of a claim as a report shows.
const maxClaim = 200

// leaves calls tell with the path and text of each value of a JSON-like object, ordered.
func leaves(value any, path string, tell func(name, value string)) {
	object, ok := value.(map[string]any)
	if !ok {
		text := fmt.Sprint(value)
		if len(text) > maxClaim {
			text = text[:maxClaim] + "…"
		}
		tell(path, text)
		return
	}
	if path != "" {
		path += "."
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		leaves(object[name], path+name, tell)
	}
}

// tellTimelines puts what the agents of a namespace's pods were asked into the
// report, of specs that failed and of those of the walkthrough; of all with
// ARTIFACTS=all.
func (b *Bed) tellTimelines(o openNamespace) {
	if !(CurrentSpecReport().Failed() || os.Getenv("ARTIFACTS") == "all" || slices.Contains(CurrentSpecReport().Labels(), "walkthrough")) {
		return
	}
	for _, t := range b.timelines(o) {
		AddReportEntry(report.TimelineEntry, t, ReportEntryVisibilityNever)
	}
}

// timelines are those of the pods that were ever in a namespace.
func (b *Bed) timelines(o openNamespace) (out []report.PodTimeline) {
	if b.NodeLogs == "" {
		return nil
	}
	pods, _, _ := o.chronicle.all()
	for _, p := range pods {
		if log, err := simulation.AgentLog(b.NodeLogs, o.name, p.Name); err == nil && len(log) > 0 {
			out = append(out, timeline(o.name, p.Name, log))
		}
	}
	return out
}

func timeline(ns, name string, log []simulation.RPC) report.PodTimeline {
	slices.SortStableFunc(log, func(a, b simulation.RPC) int { return a.Time.Compare(b.Time) })
	t := report.PodTimeline{Namespace: ns, Name: name, Events: []report.RPCEvent{}}
	for _, r := range log {
		if len(t.Events) == maxTimeline {
			t.Dropped++
			continue
		}
		e := report.RPCEvent{Milliseconds: r.Time.Sub(log[0].Time).Milliseconds(), RPC: r.Method, Endpoint: r.Endpoint, Decision: r.Decision, Code: r.Code}
		if r.Why != nil {
			e.Why = strings.TrimSpace(r.Why.String())
		}
		t.Events = append(t.Events, e)
	}
	return t
}
