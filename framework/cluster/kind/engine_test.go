package kind

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/progress"
)

// fakeEngine puts a docker into PATH that runs the shell text script, with its
// arguments in $*, and keeps what it was asked; it returns the file.
func fakeEngine(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	text := "#!/bin/sh\necho \"$*\" >> " + asked + "\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("KIND_EXPERIMENTAL_PROVIDER", "docker")
	t.Setenv("DOCKER_HOST", "")
	return asked
}

func contents(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A node that does not start stays for its logs, and goes with Destroy.
func TestFailedCreation(t *testing.T) {
	made := filepath.Join(t.TempDir(), "made")
	asked := fakeEngine(t, `
case "$*" in
*"info --format '{{json .SecurityOptions}}'"*) echo '[]' ;;
"info --format {{json .}}") echo '{"CgroupDriver":"systemd","CgroupVersion":"2","MemoryLimit":true,"PidsLimit":true,"CPUShares":true}' ;;
"ps "*) [ ! -e `+made+` ] || echo x-control-plane ;;
"network ls"*) echo 123 ;;
"network inspect"*) echo '[{"Name":"kind","Id":"123","Containers":{}}]' ;;
"run --name"*) touch `+made+`; echo "no space left on device" >&2; exit 125 ;;
"inspect --format {{ index"*) echo control-plane ;;
"logs x-control-plane") echo "the node's own words" ;;
"rm "*) rm `+made+` ;;
esac`)
	root, logs := t.TempDir(), t.TempDir()
	c, err := New(Options{Name: "x", StateRoot: root, Engine: "docker", NodeImage: "kindest/node:test", Progress: progress.New(io.Discard)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context()); err == nil || !strings.Contains(err.Error(), "create cluster x") {
		t.Fatalf("created: %v", err)
	}
	if !strings.Contains(contents(t, asked), "run --name x-control-plane") || strings.Contains(contents(t, asked), "\nrm ") {
		t.Fatalf("the node was not made and kept:\n%s", contents(t, asked))
	}
	// Another process finds it, as `coco-e2e run` does for the logs.
	if c, err = Open(root, "x"); err != nil {
		t.Fatal(err)
	}
	if err := c.ExportLogs(t.Context(), logs); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, filepath.Join(logs, "kind/x-control-plane/serial.log")); got != "the node's own words\n" {
		t.Errorf("logs %q", got)
	}
	if err := c.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(made); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the node is there:\n%s", contents(t, asked))
	}
	if Is(root, "x") {
		t.Error("its state is there")
	}
}

// answering is a registry that answers everything with a status, or 0: not at all.
type answering int

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	if a == 0 {
		return nil, errors.New("no route to host")
	}
	return &http.Response{StatusCode: int(a), Status: http.StatusText(int(a)), Body: http.NoBody}, nil
}

func TestPublishedImage(t *testing.T) {
	transport := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = transport })
	for name, tc := range map[string]struct {
		engine   string
		registry answering
		want     string
	}{
		"the engine has it":       {"exit 0", 0, ""},
		"the registry answers":    {"exit 1", http.StatusUnauthorized, ""},
		"the registry refuses":    {"exit 1", http.StatusForbidden, "its registry answers Forbidden"},
		"there is no registry":    {"exit 1", 0, "its registry cannot be reached"},
		"the registry has a page": {"exit 1", http.StatusBadGateway, "its registry answers Bad Gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeEngine(t, tc.engine)
			http.DefaultTransport = tc.registry
			image, err := Engine("docker").PublishedImage(t.Context())
			if tc.want == "" && (err != nil || !strings.HasPrefix(image, "kindest/node:") || !strings.Contains(image, "@sha256:")) {
				t.Errorf("%q, %v", image, err)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}
