package testbed

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/progress"
)

// fakeDocker is a docker in PATH that runs a shell text.
func fakeDocker(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("KIND_EXPERIMENTAL_PROVIDER", "docker")
}

// registry answers every request with a status, or 0: not at all.
type registry int

func (r registry) RoundTrip(*http.Request) (*http.Response, error) {
	if r == 0 {
		return nil, errors.New("no route to host")
	}
	return &http.Response{StatusCode: int(r), Body: http.NoBody}, nil
}

const (
	noEngine = `echo "Cannot connect to the Docker daemon" >&2; exit 1`
	// An engine with no image, that cannot pull one either.
	empty = `case "$1" in info) echo id ;; *) echo "toomanyrequests: slow down" >&2; exit 1 ;; esac`
	// An engine that has every image.
	full = `echo id`
)

func TestChooseProvider(t *testing.T) {
	transport := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = transport })
	for name, tc := range map[string]struct {
		docker, image string
		registry      registry
		want, says    string
	}{
		"no engine":              {noEngine, "", 0, "local", "cluster: local (no container engine answers: docker: docker info: exit status 1: Cannot connect to the Docker daemon); CLUSTER=kind|local chooses"},
		"an engine with it":      {full, "", 0, "kind", "cluster: kind on docker, with kindest/node:"},
		"an engine, a registry":  {empty, "", 401, "kind", "cluster: kind on docker, with kindest/node:"},
		"an engine, no registry": {empty, "", 0, "local", "cluster: local (docker answers, but kind's node image cannot be had: kindest/node:"},
		"an image that is named": {empty, "mine/node:1", 0, "kind", "cluster: kind on docker, with mine/node:1; CLUSTER=kind|local chooses"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeDocker(t, tc.docker)
			t.Setenv("KIND_IMAGE", tc.image)
			http.DefaultTransport = tc.registry
			var said strings.Builder
			o := Options{Progress: progress.New(&said)}
			ChooseProvider(t.Context(), &o)
			if o.Provider != tc.want || !strings.Contains(said.String(), tc.says) {
				t.Errorf("%s, and it says %q, want %s and %q", o.Provider, said.String(), tc.want, tc.says)
			}
		})
	}
	o := Options{Provider: Existing}
	if ChooseProvider(t.Context(), &o); o.Provider != Existing {
		t.Errorf("what was chosen became %s", o.Provider)
	}
}

func TestKindNodes(t *testing.T) {
	transport := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = transport })
	for name, tc := range map[string]struct {
		docker, image string
		registry      registry
		want, says    string
	}{
		"an image that is named":  {empty, "mine/node:1", 0, "mine/node:1", ""},
		"the engine has it":       {full, "", 0, "kindest/node:", ""},
		"no registry":             {empty, "", 0, "", "the local provider's node image serves"},
		"a pull that is refused":  {empty, "", 401, "", "docker pull: exit status 1: toomanyrequests: slow down; the local provider's node image serves"},
		"a registry that refuses": {empty, "", 503, "", "the local provider's node image serves"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeDocker(t, tc.docker)
			t.Setenv("KIND_IMAGE", tc.image)
			http.DefaultTransport = tc.registry
			var said strings.Builder
			k, err := kindNodesOf(t.Context(), Options{Progress: progress.New(&said)})
			if err != nil || k.engine != "docker" || !strings.HasPrefix(k.image, tc.want) || tc.want == "" && k.image != "" || !strings.Contains(said.String(), tc.says) {
				t.Errorf("%+v, %v, and it says %q", k, err, said.String())
			}
		})
	}
	fakeDocker(t, noEngine)
	if _, err := kindNodesOf(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "start one, or use CLUSTER=local") {
		t.Errorf("without an engine: %v", err)
	}
}
