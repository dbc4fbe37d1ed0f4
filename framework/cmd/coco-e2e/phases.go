package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/bench"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// savePhases writes how long each phase of the run took; of a whole run (all
// suites, passed, on a testbed of its own) also where `make bench` finds it, to
// show providers side by side.
func savePhases(o testbed.Options, dir string, whole bool) error {
	phases := o.Progress.Phases()
	b, err := json.MarshalIndent(phases, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "phases.json"), b, 0o644); err != nil || !whole {
		return err
	}
	provider := o.Provider
	if provider == "" {
		provider = testbed.Local
		for _, p := range phases {
			if strings.HasPrefix(p.Name, "kind:") {
				provider = testbed.Kind
			}
		}
	}
	name := provider
	if o.Nodes > 1 {
		name = fmt.Sprintf("%s, %d nodes", provider, o.Nodes)
	}
	if b, err = json.Marshal(bench.Phases{Run: name, Phases: neutral(o, phases)}); err != nil {
		return err
	}
	if err := os.MkdirAll(phasesDir(o), 0o755); err != nil {
		return err
	}
	return report.WriteFile(filepath.Join(phasesDir(o), fmt.Sprintf("%s-%d.json", provider, max(1, o.Nodes))), b)
}

func phasesDir(o testbed.Options) string { return filepath.Join(o.Cache, "phases") }

// neutral names phases without what is another's in every run: the cluster's name.
func neutral(o testbed.Options, phases []progress.Phase) []progress.Phase {
	var out []progress.Phase
	for _, p := range phases {
		out = append(out, progress.Phase{Name: strings.Replace(p.Name, "cluster "+o.Name+":", "cluster:", 1), Seconds: p.Seconds})
	}
	return out
}

// otherPhases are those of the last runs of everything on each provider.
func otherPhases(o testbed.Options) []bench.Phases {
	files, _ := filepath.Glob(filepath.Join(phasesDir(o), "*.json"))
	var out []bench.Phases
	for _, file := range files {
		var p bench.Phases
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &p) == nil {
			p.Run = "last on " + p.Run
			out = append(out, p)
		}
	}
	return out
}
