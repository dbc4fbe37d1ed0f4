package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"

	conformancereport "github.com/coco-e2e/coco-e2e/framework/conformance/report"
)

func TestCountSpecs(t *testing.T) {
	spec := func(node types.NodeType, state types.SpecState, message string) types.SpecReport {
		return types.SpecReport{LeafNodeType: node, State: state, Failure: types.Failure{Message: message}}
	}
	b, err := json.Marshal([]types.Report{{SpecReports: types.SpecReports{
		spec(types.NodeTypeIt, types.SpecStatePassed, ""),
		spec(types.NodeTypeIt, types.SpecStatePassed, ""),
		spec(types.NodeTypeIt, types.SpecStateFailed, "Expected 1 to equal 2"),
		spec(types.NodeTypeIt, types.SpecStateFailed, "INCONCLUSIVE: connection refused"),
		spec(types.NodeTypeIt, types.SpecStateSkipped, ""),
		spec(types.NodeTypeBeforeSuite, types.SpecStatePassed, ""),
		spec(types.NodeTypeBeforeSuite, types.SpecStateFailed, "no cluster"), // set-up that fails is a failure
	}}})
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(report, b, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := countSpecs(report)
	if want := (counts{Passed: 2, Failed: 2, Inconclusive: 1, Skipped: 1}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := countSpecs(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no report was counted")
	}
}

// Two suites' binaries are in two directories, and made again they stay there.
func TestInOwnDirectory(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		for _, name := range []string{"one", "two"} {
			if err := os.WriteFile(filepath.Join(dir, name+".test"), []byte(name), 0o755); err != nil {
				t.Fatal(err)
			}
			path, err := inOwnDirectory(dir, name+".test", name)
			if err != nil || path != filepath.Join(dir, name, name+".test") {
				t.Fatalf("%s, %v", path, err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != name {
				t.Errorf("%s is %q, %v", path, got, err)
			}
		}
	}
}

// A run whose configuration is refused reports that, in the place of what an
// earlier run left.
func TestRefusedRunReports(t *testing.T) {
	for name, c := range map[string]struct {
		environment map[string]string
		args        []string
		want        string
	}{
		"no RuntimeClass":    {map[string]string{"CLUSTER": "existing"}, nil, "CLUSTER=existing needs RUNTIME_CLASS"},
		"no such provider":   {map[string]string{"CLUSTER": "moon"}, nil, "CLUSTER=moon: unknown provider"},
		"a seed of letters":  {map[string]string{"SEED": "x"}, nil, "SEED=x: use a whole number"},
		"nowhere to deliver": {nil, []string{"--config-map", "name"}, "--config-map name: want NAMESPACE/NAME"},
	} {
		t.Run(name, func(t *testing.T) {
			noVariables(t)
			dir := filepath.Join(t.TempDir(), "artifacts")
			t.Setenv("ARTIFACTS_DIR", dir)
			t.Setenv("COCO_E2E_CACHE", t.TempDir())
			for k, v := range c.environment {
				t.Setenv(k, v)
			}
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "report.yaml"), []byte("of an earlier run"), 0o600), os.WriteFile(filepath.Join(dir, "stale.txt"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			cmd := runCommand()
			cmd.SetArgs(c.args)
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			if err := cmd.ExecuteContext(t.Context()); err == nil || strings.Count(err.Error(), c.want) != 1 {
				t.Errorf("%v, want %q once", err, c.want)
			}
			r, err := conformancereport.Read(filepath.Join(dir, "report.yaml"))
			if err != nil || !strings.Contains(r.Run.Aborted, c.want) || len(r.SetUp) != 1 {
				t.Fatalf("%v: %+v", err, r)
			}
			for _, file := range []string{"report.html", "summary.md", "junit.xml"} {
				if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(strings.ReplaceAll(string(b), `\`, ""), c.want) {
					t.Errorf("%s: %v: without %q", file, err, c.want)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "stale.txt")); !os.IsNotExist(err) {
				t.Error("what an earlier run left is still there")
			}
		})
	}
}
