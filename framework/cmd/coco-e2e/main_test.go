package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// The logs of nodes that did not come up are there in any case; the cluster only
// when it is to be kept.
func TestGiveUp(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	failed := errors.New("no space left on device")
	for name, keep := range map[string]bool{"taken away": false, "kept": true} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("ARTIFACTS_DIR", t.TempDir())
			o := testbed.Options{Cache: t.TempDir(), Name: "x"}
			state := filepath.Join(o.ClustersDir(), "x")
			for file, text := range map[string]string{"kind.json": `{"name":"x","engine":"docker"}`, "logs/x-control-plane/kubelet.log": "it says why\n"} {
				path := filepath.Join(state, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := giveUp(o, keep, failed); !errors.Is(err, failed) {
				t.Error(err)
			}
			if b, err := os.ReadFile(artifacts("node-logs", "x-control-plane", "kubelet.log")); err != nil || string(b) != "it says why\n" {
				t.Errorf("logs %q, %v", b, err)
			}
			if _, err := os.Stat(state); (err == nil) != keep {
				t.Errorf("the cluster's state: %v", err)
			}
		})
	}
}
