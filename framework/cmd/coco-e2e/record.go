package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// recording makes the conformance report of a run.
type recording struct {
	dir   string
	begin time.Time
	o     testbed.Options
	s     selection
}

// aborted writes the report of a run in which no spec ran, and returns err.
func (c recording) aborted(err error) error {
	_, writeErr := c.write(context.Background(), nil, err)
	return errors.Join(err, writeErr)
}

// write writes the report and what is rendered from it. t is nil when there is
// no testbed.
func (c recording) write(ctx context.Context, t *testbed.Testbed, abort error) (*report.Report, error) {
	catalogue, err := conformance.Load()
	if err != nil {
		return nil, err
	}
	in := report.Input{
		Suite: suiteBuilt(c.o.Root), Dir: c.dir,
		Implementation: report.Implementation{Name: "unknown", Simulated: c.o.Provider != testbed.Existing, Roots: "none", KBS: "none"},
		Environment:    report.Environment{Provider: c.o.Provider},
		Run:            report.Run{Started: c.begin.UTC().Truncate(time.Second), Seconds: float64(int(time.Since(c.begin).Seconds())), Selection: c.s.String()},
	}
	if abort != nil {
		in.Run.Aborted = abort.Error()
	}
	if t != nil {
		describe(ctx, t, &in)
	}
	in.Ginkgo, err = report.ReadGinkgo(filepath.Join(c.dir, ginkgoReport))
	if err != nil && abort == nil {
		in.Run.Aborted = fmt.Sprintf("Ginkgo left no report of the suites: %v", err)
	}
	for _, suite := range in.Ginkgo {
		in.Run.Seed = suite.SuiteConfig.RandomSeed
	}
	in.Run.Command = reproduce(in.Environment.Provider, c.s, in.Run.Seed, prebuilt() != "")
	r := report.Build(catalogue, in)
	// What is not valid is shown to nobody.
	if err := r.Write(filepath.Join(c.dir, report.FileName)); err != nil {
		return nil, err
	}
	return r, renderAll(r, c.dir)
}

// ginkgoReport is Ginkgo's own report of the suites.
const ginkgoReport = "report.json"

// formats are what reports are rendered to, by the name of the command line.
var formats = map[string]struct {
	file   string
	render func(*report.Report, io.Writer) error
}{
	"html":     {"report.html", (*report.Report).HTML},
	"markdown": {"summary.md", (*report.Report).Markdown},
	"junit":    {"junit.xml", (*report.Report).JUnit},
}

func renderAll(r *report.Report, dir string) error {
	var errs []error
	for _, f := range formats {
		errs = append(errs, renderTo(filepath.Join(dir, f.file), func(w io.Writer) error { return f.render(r, w) }))
	}
	return errors.Join(errs...)
}

// renderTo writes a file whole or not at all.
func renderTo(file string, render func(io.Writer) error) error {
	var b strings.Builder
	if err := render(&b); err != nil {
		return err
	}
	return report.WriteFile(file, []byte(b.String()))
}

// describe says what the specs ran on. What the cluster does not tell stays out.
func describe(ctx context.Context, t *testbed.Testbed, in *report.Input) {
	im := &in.Implementation
	im.Simulated = t.Simulated
	switch {
	case t.Roots != "" || t.Simulated:
		im.Roots = "test"
	default:
		im.Roots = "vendor" // whether evidence did verify under them is in the specs' evidence
	}
	switch {
	case t.TrusteeNamespace != "":
		im.KBS = "chart"
	case t.ExternalKBS.Given():
		im.KBS = "given"
	case t.KBSURL != "":
		im.KBS = "simulator"
	}
	var wanted []existing.Wanted
	for _, c := range t.Classes {
		wanted = append(wanted, existing.Wanted{Name: c.Name, TEE: c.TEE})
		im.Classes = append(im.Classes, report.Class{Name: c.Name, TEE: c.TEE, Simulated: c.Simulated, EventLog: c.EventLog})
	}
	im.Name = "coco-e2e's simulated TEE"
	if t.Shim == "kata" {
		im.Name += " under Kata's shim"
	}
	if !t.Simulated {
		im.Name = "Kata Containers"
	}
	in.Environment.Provider, in.Environment.Trustee = t.Provider, trustee(&t.Handle)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	p, err := existing.Detect(ctx, t.Pods.Kube, wanted)
	if err != nil {
		fmt.Fprintln(os.Stderr, "coco-e2e: the report has nothing of the nodes:", err)
		return
	}
	platform(p, in)
}

// platform puts everything that was detected into the report.
func platform(p *existing.Platform, in *report.Input) {
	im := &in.Implementation
	in.Environment.Kubernetes = p.Kubernetes
	in.Environment.Nodes, in.Environment.OtherClasses, im.Classes = nil, nil, nil
	for _, n := range p.Nodes {
		in.Environment.Nodes = append(in.Environment.Nodes, report.Node{Name: n.Name, Runtime: n.Runtime, Kernel: n.Kernel, OS: n.OS, TEEs: n.TEEs, Kata: n.Kata, Labels: n.Labels, Resources: n.Resources})
	}
	for _, c := range p.Classes {
		im.Classes = append(im.Classes, class(c))
		if c.Kata != "" && !im.Simulated {
			im.Name = "Kata Containers " + c.Kata
		}
	}
	for _, c := range p.Others {
		in.Environment.OtherClasses = append(in.Environment.OtherClasses, class(c))
	}
}

func class(c existing.Class) report.Class {
	return report.Class{Name: c.Name, TEE: c.TEE, EventLog: c.EventLog, Kata: c.Kata, Handler: c.Handler, Simulated: c.Simulated, Nodes: c.Nodes}
}

// trustee is the KBS of a testbed, nil when it has none.
func trustee(h *testbed.Handle) *report.Trustee {
	switch u, err := url.Parse(h.KBSURL); {
	case h.KBSURL == "":
		return nil
	case h.ExternalKBS.Chart != "":
		chart := cmp.Or(h.Trustee.Chart, filepath.Base(h.ExternalKBS.Chart))
		return &report.Trustee{Version: cmp.Or(h.Trustee.Version, "unknown"), Image: h.Trustee.Image, Chart: chart}
	case h.ExternalKBS.URL == "":
		return &report.Trustee{Version: "coco-e2e's simulator, protocol " + kbs.ProtocolVersion, Image: simulation.KBSImage}
	case err != nil:
		return &report.Trustee{Version: "unknown"}
	default:
		return &report.Trustee{Version: "unknown", Host: u.Host}
	}
}

// suiteBuilt is what this program was built from, or the checkout where the
// build does not say: the suites are of the same.
func suiteBuilt(root string) report.Suite {
	s := report.Suite{Module: "github.com/coco-e2e/coco-e2e"}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			switch setting.Key {
			case "vcs.revision":
				s.Commit = setting.Value
			case "vcs.modified":
				s.Modified = setting.Value == "true"
			}
		}
	}
	if s.Commit == "" && root != "" {
		if out, err := command(root, "git", "rev-parse", "HEAD").Output(); err == nil {
			s.Commit = strings.TrimSpace(string(out))
			out, err := command(root, "git", "status", "--porcelain").Output()
			s.Modified = err != nil || len(out) > 0
		}
	}
	return s
}

// shellQuoted is s as a word of a shell's.
func shellQuoted(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@,=") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// String is what was asked for in place of everything, or "".
func (s selection) String() string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"SUITES", strings.Join(s.suites, ",")}, {"FOCUS", s.focus}, {"LABELS", s.label}} {
		if p.value != "" {
			parts = append(parts, p.name+"="+shellQuoted(p.value))
		}
	}
	return strings.Join(parts, " ")
}

// printVerdicts prints a line for each profile.
func printVerdicts(r *report.Report) {
	for _, p := range r.Profiles {
		counts := p.Counts()
		var parts []string
		for _, result := range report.SortedResults(counts) {
			parts = append(parts, fmt.Sprintf("%d %s", counts[result], result))
		}
		fmt.Printf("  %-15s %-20s %s\n", p.Name, p.Verdict(r.Claim), cmp.Or(strings.Join(parts, ", "), "nothing"))
	}
}
