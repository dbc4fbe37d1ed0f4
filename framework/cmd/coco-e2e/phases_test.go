package main

import (
	"io"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

func TestPhases(t *testing.T) {
	cache := t.TempDir()
	for _, o := range []testbed.Options{{Provider: testbed.Local}, {Provider: testbed.Kind, Nodes: 3}, {Provider: testbed.Existing}} {
		o.Cache, o.Name, o.Progress = cache, "mine", progress.New(io.Discard)
		if err := o.Progress.Do("cluster mine: remove", func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := savePhases(o, t.TempDir(), true); err != nil {
			t.Fatal(err)
		}
		if err := savePhases(o, t.TempDir(), false); err != nil {
			t.Fatal(err)
		}
	}
	got := otherPhases(testbed.Options{Cache: cache})
	if len(got) != 3 || got[0].Run != "last on existing" || got[1].Run != "last on kind, 3 nodes" || got[2].Run != "last on local" {
		t.Fatalf("%+v", got)
	}
	if got[1].Phases[0].Name != "cluster: remove" {
		t.Errorf("%+v", got[1].Phases)
	}
	if otherPhases(testbed.Options{Cache: t.TempDir()}) != nil {
		t.Error("phases of no run")
	}
}
