package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// noVariables empties the environment of what a run reads.
func noVariables(t *testing.T) {
	t.Helper()
	for _, v := range variables {
		t.Setenv(v.name, "")
	}
}

func TestReproduce(t *testing.T) {
	for name, c := range map[string]struct {
		environment     map[string]string
		provider        string
		s               selection
		seed            int64
		withoutCheckout bool
		want            string
	}{
		"everything": {nil, "kind", selection{}, 7, false, "make e2e CLUSTER=kind SEED=7"},
		"aborted":    {nil, "", selection{}, 0, false, "make e2e"},
		"flags": {
			map[string]string{"FOCUS": "of the environment"},
			"local",
			selection{suites: []string{"pod", "host"}, focus: "it's", label: "!slow"},
			7, false,
			`make e2e CLUSTER=local SUITES=pod,host FOCUS='it'\''s' LABELS='!slow' SEED=7`,
		},
		"the run's selection, not the environment's": {map[string]string{"FOCUS": "x", "SEED": "3"}, "local", selection{}, 7, false, "make e2e CLUSTER=local SEED=7"},
		"Kata's shim": {
			map[string]string{"SHIM": "kata", "KATA_SHIM": "/opt/a shim", "KATA_CONFIG": "/c.toml", "CLUSTER_NAME": "six", "NODES": "3"},
			"kind",
			selection{},
			1, false,
			"make e2e CLUSTER=kind CLUSTER_NAME=six NODES=3 SHIM=kata KATA_SHIM='/opt/a shim' KATA_CONFIG=/c.toml SEED=1",
		},
		"a KBS": {
			map[string]string{"KBS_URL": "http://admin:hunter2@kbs:8080", "KBS_ADMIN_TOKEN": "eyJhbGciOi"},
			"local",
			selection{},
			1, false,
			`make e2e CLUSTER=local KBS_URL=http://admin:xxxxx@kbs:8080 KBS_ADMIN_TOKEN="$KBS_ADMIN_TOKEN" SEED=1`,
		},
		"a chart": {
			map[string]string{"KBS_CHART": "./chart", "KBS_VALUES": "v.yaml"},
			"local",
			selection{},
			1, false,
			"make e2e CLUSTER=local KBS_CHART=./chart KBS_VALUES=v.yaml SEED=1",
		},
		"a cluster that is there": {
			map[string]string{"KUBECONFIG": "k", "RUNTIME_CLASS": "a,b=tdx", "TEST_ROOTS": "r", "UNLISTED_IMAGE": "u", "PROBE_IMAGE": "p"},
			"existing",
			selection{},
			1, false,
			"make e2e CLUSTER=existing KUBECONFIG=k RUNTIME_CLASS=a,b=tdx TEST_ROOTS=r UNLISTED_IMAGE=u PROBE_IMAGE=p SEED=1",
		},
		"another cluster's kubeconfig": {map[string]string{"KUBECONFIG": "k"}, "local", selection{}, 1, false, "make e2e CLUSTER=local SEED=1"},
		"inside a cluster":             {map[string]string{"RUNTIME_CLASS": "a"}, "existing", selection{}, 1, true, "CLUSTER=existing RUNTIME_CLASS=a SEED=1 coco-e2e run"},
	} {
		t.Run(name, func(t *testing.T) {
			noVariables(t)
			for k, v := range c.environment {
				t.Setenv(k, v)
			}
			if got := reproduce(c.provider, c.s, c.seed, c.withoutCheckout); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestSeed(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "1795847": 1795847, "0": -1, "-3": -1, "x": -1} {
		t.Setenv("SEED", text)
		got, err := seedFromEnvironment()
		if want < 0 && (err == nil || !strings.Contains(err.Error(), "SEED="+text)) || want >= 0 && (err != nil || got != want) {
			t.Errorf("SEED=%s: %d, %v", text, got, err)
		}
	}
}

// Every variable of a command to reproduce is passed on by make, and documented.
func TestVariablesAreKnown(t *testing.T) {
	makefile, err := os.ReadFile("../../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	exported := strings.Fields(regexp.MustCompile(`(?m)^export (.*)$`).FindStringSubmatch(string(makefile))[1])
	var docs string
	for _, file := range []string{"configuration.md", "hardware.md"} {
		text, err := os.ReadFile("../../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		docs += string(text)
	}
	for _, v := range variables {
		if !slices.Contains(exported, v.name) {
			t.Errorf("the Makefile does not export %s", v.name)
		}
		if !strings.Contains(docs, "`"+v.name+"`") {
			t.Errorf("docs/configuration.md says nothing of %s", v.name)
		}
	}
	// And what make passes on is known here, but for where things are and what is no run's.
	other := []string{"COCO_E2E_CACHE", "ARTIFACTS_DIR", "KEEP", "FUZZTIME", "TARGETS"}
	for _, name := range exported {
		if !slices.ContainsFunc(variables, func(v struct {
			name   string
			secret bool
		},
		) bool {
			return v.name == name
		}) && !slices.Contains(other, name) {
			t.Errorf("the Makefile exports %s, which no command to reproduce has", name)
		}
	}
}
