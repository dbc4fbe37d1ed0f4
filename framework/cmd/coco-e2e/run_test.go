package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/onsi/ginkgo/v2/types"
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
