package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// abortedReport is what a run leaves whose node did not come up.
func abortedReport(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	why := errors.New("the node did not come up")
	c := recording{dir: dir, begin: time.Now(), o: testbed.Options{Provider: testbed.Local}, s: selection{suites: []string{"pod"}, focus: "it's"}}
	if err := c.aborted(why); !errors.Is(err, why) || strings.Contains(err.Error(), "\n") {
		t.Fatal(err)
	}
	return dir
}

func runReport(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := reportCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestAbortedRunReports(t *testing.T) {
	dir := abortedReport(t)
	for file, want := range map[string]string{
		"report.yaml": "aborted: the node did not come up", "report.html": "The run was aborted.", "summary.md": "the node did not come up",
		"junit.xml": `failure message="the node did not come up"`,
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v: without %q", file, err, want)
		}
	}
	r, err := report.Read(filepath.Join(dir, "report.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Run.Selection != `SUITES=pod FOCUS='it'\''s'` {
		t.Errorf("selection: %s", r.Run.Selection)
	}
	for _, p := range r.Profiles {
		if p.Conforms {
			t.Errorf("%s conforms, and nothing ran", p.Name)
		}
	}
}

func TestReportCommands(t *testing.T) {
	dir := abortedReport(t)
	file := filepath.Join(dir, "report.yaml")
	private, public := filepath.Join(dir, "private.pem"), filepath.Join(dir, "public.pem")
	for _, args := range [][]string{{"genpkey", "-algorithm", "ed25519", "-out", private}, {"pkey", "-in", private, "-pubout", "-out", public}} {
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Skipf("no openssl to make keys with: %v: %s", err, out)
		}
	}
	changed := filepath.Join(dir, "changed.html")
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err := errors.Join(err, os.WriteFile(changed, bytes.Replace(page, []byte("not run"), []byte("conforms"), 1), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args       []string
		want, fail string
	}{
		{[]string{"validate", file}, "valid, simulated-conformance", ""},
		{[]string{"validate", file, filepath.Join(dir, "report.html"), filepath.Join(dir, "summary.md"), filepath.Join(dir, "junit.xml")}, "junit.xml: valid, it is of ", ""},
		{[]string{"validate", changed}, "", "is not what "},
		{[]string{"validate", filepath.Join(t.TempDir(), "report.html")}, "", "no such file"},
		{[]string{"validate", private}, "", "private.pem"},
		{[]string{"validate", filepath.Join(dir, "none")}, "", "no such file"},
		{[]string{"render", file, "--format", "markdown"}, "# Conformance report", ""},
		{[]string{"render", file, "--format", "pdf"}, "", "--format pdf: want one of html, junit, markdown"},
		{[]string{"diff", file, file}, "Still failing: 1", ""},
		{[]string{"diff", file, file, "--format", "json"}, `"stillFailing"`, ""},
		{[]string{"diff", file, file, "--format", "xml"}, "", "--format xml"},
		{[]string{"merge", file, file}, "# Conformance of several platforms", ""},
		{[]string{"merge", file, "--format", "yaml"}, "platforms:", ""},
		{[]string{"verify", file, "--key", public}, "", "--envelope"},
		{[]string{"sign", file, "--key", public}, "", "key: this is a public key"},
		{[]string{"sign", file, "--key", private}, "", ""},
		{[]string{"verify", file, "--key", public}, "signed by this key", ""},
		{[]string{"verify", file, "--key", private}, "", "key: this is a private key; the public one verifies"},
	} {
		out, err := runReport(t, c.args...)
		if c.fail == "" && err != nil || c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)) {
			t.Errorf("%q: %v, want %q", c.args, err, c.fail)
		}
		if !strings.Contains(out, c.want) {
			t.Errorf("%q: %s, want %q", c.args, out, c.want)
		}
	}
}

// ranWith is the report of a run with one spec, of POLICY-EXEC-001.
func ranWith(t *testing.T, state types.SpecState) string {
	t.Helper()
	c, err := conformance.Load()
	if err != nil {
		t.Fatal(err)
	}
	r := report.Build(c, report.Input{
		Suite: report.Suite{Module: "m"}, Implementation: report.Implementation{Name: "i", Simulated: true, Roots: "none", KBS: "none"},
		Environment: report.Environment{Provider: "local"}, Run: report.Run{Started: time.Unix(1, 0).UTC(), Command: "make e2e"},
		Ginkgo: []types.Report{{SuiteDescription: "a", SuiteSucceeded: true, SpecReports: types.SpecReports{{
			LeafNodeText: "refuses", LeafNodeType: types.NodeTypeIt, LeafNodeLabels: []string{conformance.LabelPrefix + "POLICY-EXEC-001"},
			State: state, Failure: types.Failure{Message: "why"},
		}}}},
	})
	file := filepath.Join(t.TempDir(), "report.yaml")
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTrustee(t *testing.T) {
	for name, c := range map[string]struct {
		h    testbed.Handle
		want string
	}{
		"none":                      {testbed.Handle{}, ""},
		"the simulator":             {testbed.Handle{KBSURL: "http://kbs"}, "version coco-e2e's simulator, protocol 0.4.0, image coco-e2e.local/kbs:dev"},
		"a given one":               {testbed.Handle{KBSURL: "https://u:p@kbs.example:8443/x", ExternalKBS: testbed.ExternalKBS{URL: "https://u:p@kbs.example:8443/x"}}, "version unknown, at kbs.example:8443"},
		"the chart":                 {testbed.Handle{KBSURL: "http://kbs", ExternalKBS: testbed.ExternalKBS{URL: "http://kbs", Chart: "/any/where/trustee"}, Trustee: testbed.ChartedKBS{Chart: "trustee-1.2", Version: "v1", Image: "i@sha256:aa"}}, "version v1, chart trustee-1.2, image i@sha256:aa"},
		"a chart that tells little": {testbed.Handle{KBSURL: "http://kbs", ExternalKBS: testbed.ExternalKBS{URL: "http://kbs", Chart: "/any/where/trustee.tgz"}, Trustee: testbed.ChartedKBS{Image: "i:1"}}, "version unknown, chart trustee.tgz, image i:1"},
	} {
		var got string
		if k := trustee(&c.h); k != nil {
			got = k.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestDiffExits(t *testing.T) {
	passed, failed, skipped := ranWith(t, types.SpecStatePassed), ranWith(t, types.SpecStateFailed), ranWith(t, types.SpecStateSkipped)
	for name, c := range map[string]struct {
		args []string
		want error
	}{
		"equal":                    {[]string{passed, passed}, nil},
		"newly fails":              {[]string{passed, failed}, errNewlyFailing},
		"still fails":              {[]string{failed, failed}, nil},
		"newly passes":             {[]string{failed, passed}, nil},
		"a MUST is lost":           {[]string{passed, skipped}, errLost},
		"a MUST is lost, accepted": {[]string{passed, skipped, "--allow-lost"}, nil},
		"what failed is skipped":   {[]string{failed, skipped}, nil},
	} {
		if _, err := runReport(t, append([]string{"diff"}, c.args...)...); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestShellQuoted(t *testing.T) {
	for in, want := range map[string]string{"exec": "exec", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "!walkthrough": "'!walkthrough'", "a=b,c": "a=b,c"} {
		if got := shellQuoted(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
