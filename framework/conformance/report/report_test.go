package report

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/pod"
)

const catalogueText = `requirements:
  - {id: POLICY-EXEC-001, level: MUST, profile: policy, text: It MUST refuse., source: the article}
  - {id: POLICY-EXEC-002, level: SHOULD, profile: policy, text: It SHOULD say why., source: the article}
  - {id: ATTEST-BINDING-001, level: MUST, profile: attestation, text: PCR8 MUST be it., source: the article, tees: [tpm]}
  - {id: ATTEST-BINDING-002, level: MUST, profile: attestation, text: HOST_DATA MUST be it., source: the article, tees: [snp]}
  - {id: POD-EXEC-001, level: MUST, profile: pod, text: It MUST run., source: Kubernetes}
`

func catalogue(t testing.TB) *conformance.Catalogue {
	t.Helper()
	c, err := conformance.Parse([]byte(catalogueText))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// spec is a spec's report of Ginkgo's.
func spec(text string, state types.SpecState, message string, labels ...string) types.SpecReport {
	return types.SpecReport{
		ContainerHierarchyTexts: []string{"group"}, LeafNodeText: text, LeafNodeType: types.NodeTypeIt, LeafNodeLabels: labels, State: state,
		RunTime: 1234 * time.Millisecond, LeafNodeLocation: types.CodeLocation{FileName: "/any/where/suites/a/a_test.go", LineNumber: 7},
		Failure: types.Failure{Message: message, Location: types.CodeLocation{FileName: "/any/where/suites/a/a_test.go", LineNumber: 9}},
	}
}

func req(id string) string { return conformance.LabelPrefix + id }

func input(specs ...types.SpecReport) Input {
	return Input{
		Suite:          Suite{Module: "example.com/m", Commit: strings.Repeat("0a", 20)},
		Implementation: Implementation{Name: "a runtime", Simulated: true, Roots: "test", KBS: "simulator", Classes: []Class{{Name: "kata-cc", TEE: "tpm"}}},
		Environment:    Environment{Provider: "local", Kubernetes: "v1.37.2", Nodes: []Node{{Name: "n", Runtime: "containerd://2", Kernel: "6", OS: "Debian"}}, Trustee: &Trustee{Version: "v0.15.0", Chart: "trustee-0.15.0", Image: "kbs@sha256:aa"}},
		Run:            Run{Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 12, Command: "make e2e"},
		Ginkgo:         []types.Report{{SuiteDescription: "a", SuiteSucceeded: true, SpecReports: specs}},
	}
}

func allPassed() []types.SpecReport {
	return []types.SpecReport{
		spec("refuses", types.SpecStatePassed, "", req("POLICY-EXEC-001")),
		spec("says", types.SpecStatePassed, "", req("POLICY-EXEC-002")),
		spec("tpm", types.SpecStatePassed, "", req("ATTEST-BINDING-001"), "tee:tpm"),
		spec("snp", types.SpecStateSkipped, "no class", req("ATTEST-BINDING-002"), "tee:snp"),
		spec("runs", types.SpecStatePassed, "", req("POD-EXEC-001")),
	}
}

func find(t *testing.T, r *Report, id string) RequirementResult {
	t.Helper()
	i := slices.IndexFunc(r.Requirements, func(q RequirementResult) bool { return q.ID == id })
	if i < 0 {
		t.Fatalf("%s is not in the report", id)
	}
	return r.Requirements[i]
}

func TestCombine(t *testing.T) {
	of := func(results ...Result) []Spec {
		var specs []Spec
		for _, r := range results {
			specs = append(specs, Spec{Text: "s", Result: r, Reason: "why"})
		}
		return specs
	}
	for _, c := range []struct {
		specs []Spec
		want  Result
	}{
		{nil, NotRun},
		{of(Passed), Passed},
		{of(Passed, Passed), Passed},
		{of(Passed, Failed), Failed},
		{of(Inconclusive, Failed), Failed},
		{of(Passed, Inconclusive), Inconclusive},
		{of(Skipped, Inconclusive), Inconclusive},
		{of(Passed, Skipped), Skipped},
		{of(Passed, NotRun), NotRun},
		{of(NotRun, Skipped), Skipped},
		{of(Passed, NotApplicable), Passed},
		{of(NotApplicable), NotApplicable},
		{of(Skipped, NotApplicable), Skipped},
	} {
		got, why := Combine(c.specs)
		if got != c.want {
			t.Errorf("%v: %s, want %s", c.specs, got, c.want)
		}
		if got != Passed && why == "" {
			t.Errorf("%v: no reason", c.specs)
		}
	}
}

func TestBuild(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*Input)
		results  map[string]Result
		conforms map[conformance.Profile]bool
	}{
		"all passed": {
			func(*Input) {},
			map[string]Result{"POLICY-EXEC-001": Passed, "POLICY-EXEC-002": Passed, "ATTEST-BINDING-001": Passed, "ATTEST-BINDING-002": NotApplicable, "POD-EXEC-001": Passed},
			map[conformance.Profile]bool{"policy": true, "attestation": true, "pod": true, "host": false},
		},
		"a MUST failed": {
			func(in *Input) {
				in.Ginkgo[0].SpecReports[0] = spec("refuses", types.SpecStateFailed, "it did not", req("POLICY-EXEC-001"))
			},
			map[string]Result{"POLICY-EXEC-001": Failed},
			map[conformance.Profile]bool{"policy": false, "pod": true},
		},
		"a SHOULD failed": {
			func(in *Input) {
				in.Ginkgo[0].SpecReports[1] = spec("says", types.SpecStateTimedout, "too late", req("POLICY-EXEC-002"))
			},
			map[string]Result{"POLICY-EXEC-002": Failed},
			map[conformance.Profile]bool{"policy": true},
		},
		"inconclusive": {
			func(in *Input) {
				in.Ginkgo[0].SpecReports[0] = spec("refuses", types.SpecStateFailed, "nobody answered: "+pod.InconclusiveMark, req("POLICY-EXEC-001"))
			},
			map[string]Result{"POLICY-EXEC-001": Inconclusive},
			map[conformance.Profile]bool{"policy": false},
		},
		"left out": {
			func(in *Input) {
				in.Ginkgo[0].SpecReports[4] = spec("runs", types.SpecStateSkipped, "", req("POD-EXEC-001"))
			},
			map[string]Result{"POD-EXEC-001": NotRun},
			map[conformance.Profile]bool{"pod": false},
		},
		"no spec": {
			func(in *Input) { in.Ginkgo[0].SpecReports = in.Ginkgo[0].SpecReports[:4] },
			map[string]Result{"POD-EXEC-001": NotRun},
			map[conformance.Profile]bool{"pod": false},
		},
		"set-up failed": {
			func(in *Input) {
				s := spec("", types.SpecStateFailed, "no cluster")
				s.LeafNodeType = types.NodeTypeSynchronizedBeforeSuite
				in.Ginkgo[0].SpecReports = append(in.Ginkgo[0].SpecReports, s)
			},
			map[string]Result{"POD-EXEC-001": Passed},
			map[conformance.Profile]bool{"policy": false, "attestation": false, "pod": false},
		},
		"aborted": {
			func(in *Input) { in.Ginkgo, in.Run.Aborted = nil, "the node did not come up\nmore" },
			map[string]Result{"POLICY-EXEC-001": NotRun, "POD-EXEC-001": NotRun},
			map[conformance.Profile]bool{"policy": false, "pod": false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(allPassed()...)
			c.change(&in)
			r := Build(catalogue(t), in)
			for id, want := range c.results {
				if q := find(t, r, id); q.Result != want {
					t.Errorf("%s: %s (%s), want %s", id, q.Result, q.Reason, want)
				}
			}
			for _, p := range r.Profiles {
				if want, ok := c.conforms[p.Name]; ok && p.Conforms != want {
					t.Errorf("%s: conforms %v, want %v: %v", p.Name, p.Conforms, want, p.Open)
				}
			}
			if (name == "aborted" || name == "set-up failed") && len(r.SetUp) == 0 {
				t.Error("no failed set-up")
			}
			b, err := r.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(b); err != nil {
				t.Errorf("not valid: %v", err)
			}
		})
	}
}

// A set-up that skips its container tells the reason to the first spec only.
func TestReasonOfContainer(t *testing.T) {
	first := spec("one", types.SpecStateSkipped, "no KBS", req("POD-EXEC-001"))
	second := spec("two", types.SpecStateSkipped, "Spec skipped because Skip() was called in BeforeAll", req("POD-EXEC-001"))
	r := Build(catalogue(t), input(first, second))
	for _, s := range find(t, r, "POD-EXEC-001").Specs {
		if s.Reason != "no KBS" {
			t.Errorf("%s: %q", s.Text, s.Reason)
		}
	}
}

func TestDeterministic(t *testing.T) {
	in := input(allPassed()...)
	a := Build(catalogue(t), in)
	slices.Reverse(in.Ginkgo[0].SpecReports)
	b := Build(catalogue(t), in)
	textA, _ := a.Marshal()
	textB, _ := b.Marshal()
	if !bytes.Equal(textA, textB) {
		t.Errorf("specs in another order give another report:\n%s\n%s", textA, textB)
	}
	in.Run.Seed, in.Run.Seconds = 99, 99
	in.Ginkgo[0].SpecReports[0].RunTime = time.Hour
	if c := Build(catalogue(t), in); c.ResultDigest != a.ResultDigest {
		t.Error("equal results of another duration have another digest")
	}
	in.Ginkgo[0].SpecReports[0].State = types.SpecStateFailed
	if c := Build(catalogue(t), in); c.ResultDigest == a.ResultDigest {
		t.Error("other results have the same digest")
	}
}

func TestParseRefuses(t *testing.T) {
	valid, err := Build(catalogue(t), input(allPassed()...)).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(valid); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"simulation as hardware": {"claim: simulated-conformance", "claim: conformance", "claim: conformance of a simulated TEE"},
		"a changed result":       {"result: not-applicable", "result: passed", "requirements ATTEST-BINDING-002 result: is passed"},
		"a verdict":              {"conforms: false", "conforms: true", "profiles: init-data does not follow"},
		"a count":                {"passed: 1", "passed: 2", "profiles: policy does not follow"},
		"the digest":             {"resultDigest: sha256:", "resultDigest: sha256:00", "resultDigest"},
		"an unknown field":       {"kbs: simulator", "kbs: simulator\n  colour: red", "colour"},
		"an unknown result":      {"result: not-applicable", "result: fine", "result"},
		"another version":        {"dev/v1", "dev/v2", "apiVersion"},
		"no time":                {"started: 2026-01-02T03:04:05Z", "started: yesterday", "/run/started"},
		"no YAML":                {"apiVersion:", "[", "yaml"},
		"a field twice":          {"kind: ConformanceReport", "kind: ConformanceReport\nkind: ConformanceReport", "kind"},
		"no reason":              {"reason: it is about snp, which the platform does not have", "reason: ''", "requirements ATTEST-BINDING-002 reason: is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(string(valid), c.old, c.new, 1)
			if changed == string(valid) {
				t.Fatalf("%q is not in the report:\n%s", c.old, valid)
			}
			if _, err := Parse([]byte(changed)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// hardware is a run on a cluster that was there, whose pods gave evidence of a kind
// that was verified under roots.
func hardware(kind, roots string) Input {
	specs := allPassed()
	specs[0].ReportEntries = types.ReportEntries{{Name: EvidenceEntry, Value: types.ReportEntryValue{AsJSON: `{"kind": "` + kind + `", "roots": "` + roots + `", "claims": []}`}}}
	in := input(specs...)
	in.Environment.Provider = "existing"
	in.Implementation.Simulated, in.Implementation.Roots = false, "vendor"
	in.Implementation.Classes = []Class{{Name: "kata-qemu-tdx", TEE: kind}}
	return in
}

// Artefacts lie below the report, and are what it says where they lie there.
func TestFiles(t *testing.T) {
	with := func(path string) *Report {
		r := failing(t)
		// The SHA-256 of "abc" is FIPS 180's example.
		r.Requirements[0].Specs[0].Files = []File{{path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3}}
		return r
	}
	for path, ok := range map[string]bool{"failed/x/console.log": true, "../x": false, "failed/../../x": false, "/etc/passwd": false, `..\x`: false} {
		b, err := with(path).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(b); (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
	}
	dir := t.TempDir()
	check := func(content string) (int, int, error) {
		if err := os.WriteFile(filepath.Join(dir, "x"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return with("x").CheckFiles(dir)
	}
	if compared, absent, err := check("abc"); compared != 1 || absent != 0 || err != nil {
		t.Errorf("%d compared, %d absent: %v", compared, absent, err)
	}
	if _, _, err := check("abd"); err == nil || !strings.Contains(err.Error(), "files: x is another than the report's") {
		t.Error(err)
	}
	if compared, absent, err := with("y").CheckFiles(dir); compared != 0 || absent != 1 || err != nil {
		t.Errorf("%d compared, %d absent: %v", compared, absent, err)
	}
	if with("x").CatalogueKnown() {
		t.Error("the test's catalogue is taken for the program's")
	}
}

func TestHardware(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Input)
		// want is what the validator says of a report that claims hardware all the same; "" when it may.
		want string
	}{
		"vendor's roots": {func(*Input) {}, ""},
		"two classes": {func(in *Input) {
			in.Implementation.Classes = append(in.Implementation.Classes, Class{Name: "b", TEE: "tdx"})
		}, ""},
		"test roots": {func(in *Input) { in.Implementation.Roots = "test" }, `under roots "test"`},
		"no roots":   {func(in *Input) { in.Implementation.Roots = "none" }, `under roots "none"`},
		"simulated":  {func(in *Input) { in.Implementation.Simulated = true }, "conformance of a simulated TEE"},
		"on kind":    {func(in *Input) { in.Environment.Provider = "kind" }, `on a cluster of provider "kind"`},
		"on local":   {func(in *Input) { in.Environment.Provider = "local" }, `on a cluster of provider "local"`},
		"no class":   {func(in *Input) { in.Implementation.Classes = nil }, "without any RuntimeClass"},
		"no node":    {func(in *Input) { in.Environment.Nodes = nil }, "without any node"},
		"a simulated second": {func(in *Input) {
			in.Implementation.Classes = append(in.Implementation.Classes, Class{Name: "kata-cc", TEE: "tdx", Simulated: true})
		}, "RuntimeClass kata-cc, which is simulated"},
		"a TPM as second": {func(in *Input) {
			in.Implementation.Classes = append(in.Implementation.Classes, Class{Name: "b", TEE: "tpm"})
		}, "evidence of kind tpm software can give"},
		"an unknown kind":    {func(in *Input) { in.Implementation.Classes[0].TEE = "" }, "whose kind of evidence is not known"},
		"a TPM":              {func(in *Input) { *in = hardware("tpm", "vendor") }, "evidence of kind tpm software can give"},
		"a sample":           {func(in *Input) { *in = hardware("sample", "vendor") }, "a sample that anybody can write"},
		"no evidence":        {func(in *Input) { in.Ginkgo[0].SpecReports[0].ReportEntries = nil }, "of whose kind tdx no evidence was verified"},
		"roots not told":     {func(in *Input) { *in = hardware("tdx", "") }, "of whose kind tdx no evidence was verified"},
		"evidence of a test": {func(in *Input) { *in = hardware("tdx", "test") }, "whose evidence a test root vouched for"},
		"another's evidence": {func(in *Input) { in.Implementation.Classes[0].TEE = "snp" }, "of whose kind snp no evidence was verified"},
	} {
		t.Run(name, func(t *testing.T) {
			in := hardware("tdx", "vendor")
			c.change(&in)
			r := Build(catalogue(t), in)
			if want := map[bool]Claim{true: Hardware, false: Simulated}[c.want == ""]; r.Claim != want {
				t.Errorf("claims %s, want %s", r.Claim, want)
			}
			if b, _ := r.Marshal(); c.want == "" {
				if _, err := Parse(b); err != nil {
					t.Error(err)
				}
				return
			}
			r.Claim = Hardware
			r.conclude()
			b, _ := r.Marshal()
			if _, err := Parse(b); err == nil || !strings.Contains(err.Error(), "claim: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("a report that claims hardware is taken: %v, want %q", err, c.want)
			}
		})
	}
	// A class that says so makes the implementation simulated.
	in := hardware("tdx", "vendor")
	in.Implementation.Classes[0].Simulated = true
	r := Build(catalogue(t), in)
	if !r.Implementation.Simulated {
		t.Error("a simulated class, and the implementation is not")
	}
	r.Implementation.Simulated = false
	r.conclude()
	b, _ := r.Marshal()
	if _, err := Parse(b); err == nil || !strings.Contains(err.Error(), "RuntimeClass kata-qemu-tdx is simulated") {
		t.Error(err)
	}
	// What is real and not proven is not called simulated.
	var text bytes.Buffer
	if err := Build(catalogue(t), hardware("tdx", "test")).Markdown(&text); err != nil || strings.Contains(text.String(), "simulated TEE") || !strings.Contains(text.String(), "no statement about hardware: with RuntimeClass kata-qemu-tdx, whose evidence a test root vouched for") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

// A spec of several requirements counts for those of the kind that it turned out
// to be about.
func TestTEEOfTheRun(t *testing.T) {
	in := input(append(allPassed(), spec("the register", types.SpecStateFailed, "differs", req("ATTEST-BINDING-001"), req("ATTEST-BINDING-002")))...)
	in.Implementation.Classes = append(in.Implementation.Classes, Class{Name: "kata-cc-snp", TEE: "snp"})
	in.Ginkgo[0].SpecReports[3] = spec("snp", types.SpecStatePassed, "", req("ATTEST-BINDING-002"), "tee:snp")
	last := &in.Ginkgo[0].SpecReports[len(in.Ginkgo[0].SpecReports)-1]
	last.ReportEntries = types.ReportEntries{{Name: conformance.TEEEntry, Value: types.WrapEntryValue("tpm")}}
	last.ReportEntries[0].Value.AsJSON = `"tpm"`
	r := Build(catalogue(t), in)
	for id, want := range map[string]Result{"ATTEST-BINDING-001": Failed, "ATTEST-BINDING-002": Passed} {
		if got := find(t, r, id).Result; got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	r := Build(catalogue(t), input(allPassed()...))
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(file)
	r.Profiles[0].Conforms = !r.Profiles[0].Conforms
	if err := r.Write(file); err == nil {
		t.Error("a report that is not valid was written")
	}
	after, _ := os.ReadFile(file)
	if !bytes.Equal(before, after) {
		t.Error("the report that was there is lost")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func failing(t *testing.T) *Report {
	in := input(allPassed()...)
	in.Ginkgo[0].SpecReports[0] = spec("refuses", types.SpecStateFailed, "it | did <b>not</b>\x00\n\x1b[31mred", req("POLICY-EXEC-001"))
	return Build(catalogue(t), in)
}

func TestJUnit(t *testing.T) {
	var b bytes.Buffer
	if err := failing(t).JUnit(&b); err != nil {
		t.Fatal(err)
	}
	var got junitSuites
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("no XML: %v\n%s", err, b.String())
	}
	if s := got.Suite; s.Tests != 5 || s.Failures != 1 || s.Skipped != 1 || len(s.Cases) != 5 {
		t.Errorf("%d tests, %d failures, %d skipped, %d cases", s.Tests, s.Failures, s.Skipped, len(s.Cases))
	}
	i := slices.IndexFunc(got.Suite.Cases, func(c junitCase) bool { return c.Name == "group refuses [POLICY-EXEC-001]" })
	if i < 0 || got.Suite.Cases[i].Failure == nil || !strings.HasPrefix(got.Suite.Cases[i].Failure.Message, "it | did <b>not</b>") {
		t.Errorf("%+v", got.Suite.Cases)
	}
}

func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := failing(t).Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| policy | does not conform | 1 failed | 1 passed |", "| pod | conforms, simulated | 1 passed | – |",
		"| POLICY-EXEC-001 | MUST | It MUST refuse. | group refuses: it \\| did &lt;b&gt;not&lt;/b&gt;", "no statement about hardware",
		"KBS: simulator, version v0.15.0, chart trustee-0.15.0, image kbs@sha256:aa",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("without %q:\n%s", want, b.String())
		}
	}
	long := bounded(bytes.Repeat([]byte("a line\n"), 1000), 100)
	if len(long) > 100 || !strings.Contains(string(long), "Cut here") {
		t.Errorf("%d bytes: %s", len(long), long)
	}
}

func TestCompare(t *testing.T) {
	old, now := Build(catalogue(t), input(allPassed()...)), failing(t)
	d := Compare(old, now)
	if len(d.NewlyFailing) != 1 || d.NewlyFailing[0].ID != "POLICY-EXEC-001" || len(d.NewlyPassing)+len(d.StillFailing)+len(d.NoLonger)+len(d.Added)+len(d.Gone) != 0 {
		t.Errorf("%+v", d)
	}
	if d := Compare(now, old); len(d.NewlyPassing) != 1 || len(d.NewlyFailing) != 0 {
		t.Errorf("%+v", d)
	}
	if d := Compare(now, now); len(d.StillFailing) != 1 || len(d.NewlyFailing) != 0 {
		t.Errorf("%+v", d)
	}
	aborted := input()
	aborted.Run.Aborted = "no cluster"
	gone := Build(catalogue(t), aborted)
	if d := Compare(old, gone); len(d.NoLonger) != 4 || len(d.NewlyFailing) != 1 || d.NewlyFailing[0].ID != "set-up" {
		t.Errorf("%+v", d)
	}
	fewer := Build(catalogue(t), input(allPassed()...))
	fewer.Requirements = fewer.Requirements[1:]
	if d := Compare(old, fewer); len(d.Gone) != 1 {
		t.Errorf("%+v", d)
	}
	if d := Compare(fewer, old); len(d.Added) != 1 {
		t.Errorf("%+v", d)
	}
	var text, markdown bytes.Buffer
	if err := d.Text(&text); err != nil || !strings.Contains(text.String(), "Newly failing: 1\n  POLICY-EXEC-001") {
		t.Errorf("%v\n%s", err, text.String())
	}
	if err := d.Markdown(&markdown); err != nil || !strings.Contains(markdown.String(), "### Newly failing: 1") {
		t.Errorf("%v\n%s", err, markdown.String())
	}
}

// A requirement that failed already can fail in more ways, or be left out.
func TestCompareSpecs(t *testing.T) {
	run := func(snp, tdx types.SpecState) *Report {
		message := func(s types.SpecState) string {
			return map[types.SpecState]string{types.SpecStateFailed: "it did not", types.SpecStateSkipped: "no KBS"}[s]
		}
		specs := allPassed()
		specs[0] = spec("refuses on snp", snp, message(snp), req("POLICY-EXEC-001"))
		return Build(catalogue(t), input(append(specs, spec("refuses on tdx", tdx, message(tdx), req("POLICY-EXEC-001")))...))
	}
	passed, failed, skipped := types.SpecStatePassed, types.SpecStateFailed, types.SpecStateSkipped
	for name, c := range map[string]struct {
		old, now *Report
		want     string
		lost     int
	}{
		"fails on another TEE too": {run(failed, passed), run(failed, failed), `Newly failing: 1
  POLICY-EXEC-001            It MUST refuse.
    a: group refuses on tdx (passed → failed)
      it did not
`, 0},
		"fails as before": {run(failed, passed), run(failed, passed), `Still failing: 1
  POLICY-EXEC-001            It MUST refuse.
    a: group refuses on snp (failed → failed)
      it did not
`, 0},
		"fails on another TEE in its place": {run(failed, passed), run(passed, failed), `Newly failing: 1
  POLICY-EXEC-001            It MUST refuse.
    a: group refuses on tdx (passed → failed)
      it did not
Newly passing: 1
  POLICY-EXEC-001            It MUST refuse.
    a: group refuses on snp (failed → passed)
`, 0},
		"a MUST is lost": {run(passed, passed), run(passed, skipped), `Not asked any more: 1
  POLICY-EXEC-001            It MUST refuse. (passed → skipped)
    a: group refuses on tdx (passed → skipped)
      no KBS
`, 1},
		"what failed is skipped": {run(failed, passed), run(skipped, passed), `Not asked any more: 1
  POLICY-EXEC-001            It MUST refuse. (failed → skipped)
    a: group refuses on snp (failed → skipped)
      no KBS
`, 0},
		"equal": {run(passed, passed), run(passed, passed), "no difference\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := Compare(c.old, c.now)
			var text, markdown strings.Builder
			if err := d.Text(&text); err != nil || text.String() != c.want {
				t.Errorf("%v\n%s\nwant\n%s", err, text.String(), c.want)
			}
			if len(d.Lost()) != c.lost {
				t.Errorf("lost %+v, want %d", d.Lost(), c.lost)
			}
			if err := d.Markdown(&markdown); err != nil || name != "equal" && !strings.Contains(markdown.String(), "a: group refuses on ") {
				t.Errorf("%v\n%s", err, markdown.String())
			}
		})
	}
}

func TestMerge(t *testing.T) {
	a := Build(catalogue(t), input(allPassed()...))
	in := input(allPassed()...)
	in.Implementation.Classes[0].TEE = "snp"
	in.Ginkgo[0].SpecReports[3].State = types.SpecStatePassed
	b := Build(catalogue(t), in)
	m, err := Merge(a, b)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range m.Requirements {
		want := map[string][]Result{"ATTEST-BINDING-001": {Passed, NotApplicable}, "ATTEST-BINDING-002": {NotApplicable, Passed}, "POD-EXEC-001": {Passed, Passed}}[row.ID]
		if want != nil && !slices.Equal(row.Results, want) {
			t.Errorf("%s: %v, want %v", row.ID, row.Results, want)
		}
	}
	var markdown, page bytes.Buffer
	if err := m.Markdown(&markdown); err != nil || !strings.Contains(markdown.String(), "| attestation | conforms, simulated | conforms, simulated |") {
		t.Errorf("%v\n%s", err, markdown.String())
	}
	if err := m.HTML(&page); err != nil || !strings.Contains(page.String(), "local: snp (simulated)") {
		t.Errorf("%v\n%s", err, page.String())
	}
	b.Suite.Catalogue = "sha256:" + strings.Repeat("0", 64)
	if _, err := Merge(a, b); err == nil || !strings.Contains(err.Error(), "different catalogues") {
		t.Error(err)
	}
}

// Two nights of one platform are two columns.
func TestMergeNames(t *testing.T) {
	a, b, c := Build(catalogue(t), input(allPassed()...)), Build(catalogue(t), input(allPassed()...)), Build(catalogue(t), input(allPassed()...))
	b.Run.Started = time.Date(2026, 1, 3, 3, 4, 5, 0, time.UTC)
	m, err := Merge(a, b, c)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"local: tpm (simulated), 2026-01-02 03:04 (1)", "local: tpm (simulated), 2026-01-03 03:04", "local: tpm (simulated), 2026-01-02 03:04 (2)"} {
		if m.Platforms[i].Name != want {
			t.Errorf("%q, want %q", m.Platforms[i].Name, want)
		}
	}
	if m, err := Merge(a); err != nil || m.Platforms[0].Name != "local: tpm (simulated)" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestMarked(t *testing.T) {
	for e, want := range map[RPCEvent]string{
		{RPC: "ExecProcess", Decision: "denied"}:  "denied",
		{RPC: "ExecProcess", Decision: "error"}:   "denied",
		{RPC: "GetOOMEvent", Decision: "denied"}:  "denied",
		{RPC: "GetOOMEvent", Decision: "error"}:   "harmless",
		{RPC: "GetOOMEvent", Decision: "allowed"}: "",
	} {
		if got := marked(e); got != want {
			t.Errorf("%+v: %q, want %q", e, got, want)
		}
	}
}

func TestSign(t *testing.T) {
	text, err := Build(catalogue(t), input(allPassed()...)).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	weak, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	_, strangerPublic := encode(t, stranger, stranger.Public())
	for name, key := range map[string][2]any{"Ed25519": {ed, ed.Public()}, "P-256": {p256, p256.Public()}} {
		t.Run(name, func(t *testing.T) {
			private, public := encode(t, key[0], key[1])
			envelope, err := Sign(t.Context(), FileName, text, private)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Verify(t.Context(), envelope, text, public)
			if err != nil {
				t.Fatal(err)
			}
			if s.Subject[0].Name != FileName || s.Predicate.Verdicts["policy"] != "conforms, simulated" {
				t.Errorf("%+v", s)
			}
			other := failing(t)
			otherText, _ := other.Marshal()
			for name, c := range map[string]struct {
				envelope, report, key []byte
				want                  string
			}{
				"another report":  {envelope, otherText, public, "about another file"},
				"a changed byte":  {bytes.Replace(envelope, []byte(`"payload": "ey`), []byte(`"payload": "eY`), 1), text, public, "envelope"},
				"another key":     {envelope, text, strangerPublic, "no signature in it is of this key"},
				"no report":       {envelope, []byte("x: 1"), public, "schema"},
				"no envelope":     {[]byte("{}"), text, public, "payloadType"},
				"not JSON":        {[]byte("x"), text, public, "envelope"},
				"no key":          {envelope, text, []byte("x"), "key: not PEM"},
				"another payload": {bytes.Replace(envelope, []byte("in-toto+json"), []byte("other+json"), 1), text, public, "payloadType"},
			} {
				if _, err := Verify(t.Context(), c.envelope, c.report, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v, want %q", name, err, c.want)
				}
			}
		})
	}
	for name, key := range map[string][2]any{"P-384": {p384, p384.Public()}, "RSA": {weak, weak.Public()}} {
		private, _ := encode(t, key[0], key[1])
		if _, err := Sign(t.Context(), FileName, text, private); err == nil || !strings.Contains(err.Error(), "want Ed25519 or ECDSA on P-256") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func encode(t *testing.T, private, public any) (pemPrivate, pemPublic []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
}

// Whatever is read as a report is refused, or is one that can be written again
// and rendered.
func FuzzParse(f *testing.F) {
	valid, err := Build(catalogue(f), input(allPassed()...)).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add([]byte("apiVersion: conformance.coco-e2e.dev/v1\nkind: ConformanceReport\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		for _, render := range []func(*Report, *bytes.Buffer) error{
			func(r *Report, w *bytes.Buffer) error { return r.HTML(w) },
			func(r *Report, w *bytes.Buffer) error { return r.Markdown(w) },
			func(r *Report, w *bytes.Buffer) error { return r.JUnit(w) },
		} {
			if err := render(r, &bytes.Buffer{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Envelopes come from anywhere.
func FuzzVerify(f *testing.F) {
	text, err := Build(catalogue(f), input(allPassed()...)).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	der, _ := x509.MarshalPKCS8PrivateKey(key)
	spki, _ := x509.MarshalPKIXPublicKey(key.Public())
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	envelope, err := Sign(f.Context(), FileName, text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(envelope)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Verify(t.Context(), b, text, public); err == nil && s.Predicate.Claim != Simulated {
			t.Fatalf("%+v", s)
		}
	})
}
