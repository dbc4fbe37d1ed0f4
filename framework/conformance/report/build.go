package report

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/pod"
)

// Names of Ginkgo report entries that a report has a place of its own for.
const (
	// EvidenceEntry holds an [EvidenceTable].
	EvidenceEntry = "evidence"
	// TimelineEntry holds a [PodTimeline].
	TimelineEntry = "pod timeline"
	// ArtefactsEntry holds a directory with files about a spec that failed.
	ArtefactsEntry = "artefacts"
)

// teeLabel begins the label of a spec that is about one kind of TEE.
const teeLabel = "tee:"

// maxText and maxFiles bound what a spec brings along.
const (
	maxText  = 16 << 10
	maxFiles = 100
)

// Input is what a report is made of.
type Input struct {
	Suite          Suite
	Implementation Implementation
	Environment    Environment
	Run            Run
	// Ginkgo is the report of every suite that ran.
	Ginkgo []types.Report
	// Dir is where the report goes; artefacts are named relative to it.
	Dir string
}

// Build makes the report of a run. A run that was aborted has a set-up that failed.
func Build(c *conformance.Catalogue, in Input) *Report {
	r := &Report{
		APIVersion: APIVersion, Kind: Kind, Claim: Simulated,
		Suite: in.Suite, Implementation: in.Implementation, Environment: in.Environment, Run: in.Run,
	}
	r.Suite.Catalogue = c.Digest
	r.Implementation.Simulated = r.Implementation.Simulated || slices.ContainsFunc(r.Implementation.Classes, func(c Class) bool { return c.Simulated })
	if r.Run.Aborted != "" {
		r.SetUp = append(r.SetUp, Spec{Text: "bringing up what the suites run against", Suite: "coco-e2e", Result: Failed, Location: "framework/cmd/coco-e2e", Reason: clip(r.Run.Aborted)})
	}
	b := builder{report: r, dir: in.Dir, byRequirement: map[string][]Spec{}}
	for _, suite := range in.Ginkgo {
		b.add(suite)
	}
	for _, q := range c.Requirements {
		r.Requirements = append(r.Requirements, b.requirement(q))
	}
	sortSpecs(r.SetUp)
	if len(r.noHardware()) == 0 {
		r.Claim = Hardware
	}
	r.conclude()
	return r
}

type builder struct {
	report        *Report
	dir           string
	byRequirement map[string][]Spec
}

// add takes in the specs of a suite.
func (b *builder) add(suite types.Report) {
	if len(suite.SpecialSuiteFailureReasons) > 0 && !suite.SuiteSucceeded {
		b.report.SetUp = append(b.report.SetUp, Spec{
			Text: "suite " + suite.SuiteDescription, Suite: suite.SuiteDescription, Result: Failed,
			Location: "suites/" + suite.SuiteDescription, Reason: strings.Join(suite.SpecialSuiteFailureReasons, "\n"),
		})
	}
	reasons := skippedContainers(suite.SpecReports)
	for _, s := range suite.SpecReports {
		if !s.LeafNodeType.Is(types.NodeTypeIt) {
			if s.State.Is(types.SpecStateFailureStates) {
				b.report.SetUp = append(b.report.SetUp, b.spec(suite, s, reasons))
			}
			continue
		}
		spec := b.spec(suite, s, reasons)
		for _, label := range s.Labels() {
			if id, ok := strings.CutPrefix(label, conformance.LabelPrefix); ok {
				b.byRequirement[id] = append(b.byRequirement[id], spec)
			}
		}
	}
}

// skippedContainers are the reasons that a set-up gave for skipping its
// container, by the container: Ginkgo tells them to its first spec only.
func skippedContainers(specs types.SpecReports) map[string]string {
	reasons := map[string]string{}
	for _, s := range specs {
		if s.State.Is(types.SpecStateSkipped) && s.Failure.Message != "" && !byContainer(s) {
			reasons[container(s)] = s.Failure.Message
		}
	}
	return reasons
}

func byContainer(s types.SpecReport) bool {
	return strings.HasPrefix(s.Failure.Message, "Spec skipped because Skip() was called in")
}

func container(s types.SpecReport) string { return strings.Join(s.ContainerHierarchyTexts, "\x00") }

func (b *builder) spec(suite types.Report, s types.SpecReport, reasons map[string]string) Spec {
	out := Spec{
		Text: s.FullText(), Suite: suite.SuiteDescription, Location: location(s.LeafNodeLocation), Seconds: seconds(s.RunTime.Seconds()),
	}
	if out.Text == "" {
		out.Text = s.LeafNodeType.String()
	}
	for _, label := range s.Labels() {
		if tee, ok := strings.CutPrefix(label, teeLabel); ok {
			out.TEE = tee
		}
	}
	switch {
	case s.State.Is(types.SpecStatePassed):
		out.Result = Passed
	case s.State.Is(types.SpecStateFailureStates):
		out.Result, out.Reason = Failed, clip(s.Failure.Message+"\n"+location(s.Failure.Location))
		if strings.Contains(s.Failure.Message, pod.InconclusiveMark) {
			out.Result = Inconclusive
		}
	case out.TEE != "" && !slices.Contains(b.report.TEEs(), out.TEE):
		out.Result, out.Reason = NotApplicable, "no RuntimeClass of the platform gives evidence of kind "+out.TEE
	case s.State.Is(types.SpecStateSkipped) && s.Failure.Message != "":
		out.Result, out.Reason = Skipped, s.Failure.Message
		if byContainer(s) {
			out.Reason = cmp.Or(reasons[container(s)], out.Reason)
		}
	default:
		out.Result, out.Reason = NotRun, "not among the specs that were asked for"
	}
	b.entries(&out, s)
	return out
}

// entries takes in what a spec has reported.
func (b *builder) entries(out *Spec, s types.SpecReport) {
	for _, e := range s.ReportEntries {
		text := e.Value.AsJSON
		switch e.Name {
		case EvidenceEntry:
			var t EvidenceTable
			if json.Unmarshal([]byte(text), &t) == nil {
				out.Evidence = append(out.Evidence, t)
			}
		case conformance.TEEEntry:
			_ = json.Unmarshal([]byte(text), &out.TEE)
		case TimelineEntry:
			var t PodTimeline
			if json.Unmarshal([]byte(text), &t) == nil {
				out.Pods = append(out.Pods, t)
			}
		case ArtefactsEntry:
			var dir string
			if json.Unmarshal([]byte(text), &dir) == nil {
				out.Files = append(out.Files, b.files(dir)...)
			}
		default:
			out.Notes = append(out.Notes, Note{e.Name, clip(e.StringRepresentation())})
		}
	}
	slices.SortFunc(out.Pods, func(a, b PodTimeline) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	out.Files = slices.CompactFunc(out.Files, func(a, b File) bool { return a.Path == b.Path })
}

// files are those of a directory, with their digests. What cannot be read is left out.
func (b *builder) files(dir string) []File {
	var out []File
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if len(out) == maxFiles {
			return fs.SkipAll
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return nil
		}
		relative, err := filepath.Rel(b.dir, name)
		if err != nil || strings.HasPrefix(relative, "..") {
			return nil
		}
		sum := sha256.Sum256(content)
		out = append(out, File{filepath.ToSlash(relative), hex.EncodeToString(sum[:]), int64(len(content))})
		return nil
	})
	return out
}

func (b *builder) requirement(q conformance.Requirement) RequirementResult {
	specs := slices.Clone(b.byRequirement[q.ID])
	applies := len(q.TEEs) == 0 || slices.ContainsFunc(b.report.TEEs(), func(tee string) bool { return slices.Contains(q.TEEs, tee) })
	for i, s := range specs {
		// A spec of several requirements may be about a kind that this one is not about.
		if !q.About(s.TEE) {
			specs[i] = Spec{}
		}
	}
	specs = slices.DeleteFunc(specs, func(s Spec) bool { return s.Text == "" })
	sortSpecs(specs)
	out := RequirementResult{Requirement: q, Specs: specs}
	for _, s := range specs {
		out.Seconds = seconds(out.Seconds + s.Seconds)
	}
	out.Result, out.Reason = Combine(specs)
	if !applies && out.Result != Failed && out.Result != Inconclusive {
		out.Result, out.Reason = NotApplicable, "it is about "+strings.Join(q.TEEs, ", ")+", which the platform does not have"
	}
	if out.Result == Failed || out.Result == Inconclusive || b.report.Run.Aborted == "" || len(specs) > 0 {
		return out
	}
	out.Reason = "the run was aborted before it: " + brief(b.report.Run.Aborted)
	return out
}

func sortSpecs(specs []Spec) {
	slices.SortFunc(specs, func(a, b Spec) int {
		return cmp.Or(cmp.Compare(a.Suite, b.Suite), cmp.Compare(a.Text, b.Text), cmp.Compare(a.Location, b.Location))
	})
}

// location is a code location below the module.
func location(l types.CodeLocation) string {
	name := filepath.ToSlash(l.FileName)
	for _, top := range []string{"/suites/", "/framework/"} {
		if i := strings.LastIndex(name, top); i >= 0 {
			return fmt.Sprintf("%s:%d", name[i+1:], l.LineNumber)
		}
	}
	return fmt.Sprintf("%s:%d", path.Base(name), l.LineNumber)
}

// seconds are told to a hundredth.
func seconds(s float64) float64 { return math.Round(s*100) / 100 }

// clip bounds a text, and says so.
func clip(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "�")
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + fmt.Sprintf("\n[… %d bytes more]", len(s)-maxText)
}

// ReadGinkgo reads Ginkgo's JSON report.
func ReadGinkgo(file string) ([]types.Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []types.Report
	if err := json.Unmarshal(b, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return suites, nil
}

// SortedResults are the results that counts has, in the order of reports.
func SortedResults(counts map[Result]int) []Result {
	keys := slices.Collect(maps.Keys(counts))
	slices.SortFunc(keys, func(a, b Result) int { return slices.Index(Results, a) - slices.Index(Results, b) })
	return keys
}
