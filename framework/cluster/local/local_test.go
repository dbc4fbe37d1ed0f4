package local

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
)

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"coco-e2e": true, "a": true, strings.Repeat("a", 40): true, "": true, // empty is the default
		"../x": false, "A": false, "-a": false, "a-": false, "a/b": false, strings.Repeat("a", 41): false,
	} {
		_, err := New(Options{Name: name, StateRoot: t.TempDir()})
		if (err == nil) != ok {
			t.Errorf("name %q: error %v, want ok=%t", name, err, ok)
		}
	}
}

func TestInterfaceNameFitsTheKernel(t *testing.T) {
	a, b := interfaceName(strings.Repeat("a", 40)), interfaceName("b")
	if len(a) > 15 || a == b {
		t.Errorf("interface names %q and %q: at most 15 bytes, and told apart", a, b)
	}
}

func TestReserveRefusesASecondClusterOfTheName(t *testing.T) {
	root := t.TempDir()
	first, err := New(Options{Name: "x", StateRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Reserve(); err != nil {
		t.Fatal(err)
	}
	second, err := New(Options{Name: "x", StateRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Reserve(); err == nil || !strings.Contains(err.Error(), "make down") {
		t.Errorf("a second cluster x: error %v, want one that names the remedy", err)
	}
	opened, err := Open(root, "x")
	if err != nil || opened.Gateway() != first.Gateway() || len(opened.Nodes()) != 1 {
		t.Errorf("Open: %v, gateway %q, want %q", err, opened.Gateway(), first.Gateway())
	}
	if err := first.Destroy(context.Background()); err != nil {
		t.Fatal(err)
	}
	if names, err := List(root); err != nil || len(names) != 0 {
		t.Errorf("after Destroy: clusters %v, %v", names, err)
	}
	if err := first.Destroy(context.Background()); err != nil {
		t.Errorf("Destroy of nothing: %v", err)
	}
}

func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for name, text := range map[string]string{"blobs/one": "blob", "meta.db": "database"} {
		p := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("one", filepath.Join(from, "blobs/link")); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(from, to, true); err != nil {
		t.Fatal(err)
	}
	same := func(name string) bool {
		a, err := os.Stat(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.Stat(filepath.Join(to, name))
		if err != nil {
			t.Fatal(err)
		}
		return os.SameFile(a, b)
	}
	if !same("blobs/one") {
		t.Error("a blob was copied: it never changes, share it")
	}
	if same("meta.db") {
		t.Error("a database is shared: a node would write into the image")
	}
	if l, err := os.Readlink(filepath.Join(to, "blobs/link")); err != nil || l != "one" {
		t.Errorf("link: %q, %v", l, err)
	}
}

func TestSpecKeepsTheMachineOut(t *testing.T) {
	c, err := New(Options{Name: "x", StateRoot: t.TempDir(), Image: &node.Image{Rootfs: "/image"}})
	if err != nil {
		t.Fatal(err)
	}
	s := (&machine{c: c, state: machineState{Name: "x"}}).spec()
	if !s.Root.Readonly {
		t.Error("the image is shared by all nodes and must be read-only")
	}
	if s.Linux.RootfsPropagation != "rprivate" {
		t.Error("mounts of the node must not reach the machine")
	}
	have := map[string]bool{}
	for _, n := range s.Linux.Namespaces {
		have[string(n.Type)] = n.Path == ""
	}
	for _, want := range []string{"pid", "mount", "ipc", "uts", "network", "cgroup"} {
		if !have[want] {
			t.Errorf("no new %s namespace", want)
		}
	}
}

func TestAddresses(t *testing.T) {
	a := addresses{Base: "10.99.0.32"}
	for want, got := range map[string]string{
		"10.99.0.33": a.gateway().String(), "10.99.0.34": a.node(0).String(), "10.99.0.41": a.bridge().String(),
		"10.99.0.42": a.node(1).String(), "10.99.0.46": a.node(maxWorkers).String(), "10.99.0.40/29": a.workers().String(),
	} {
		if got != want {
			t.Errorf("address %s, want %s", got, want)
		}
	}
	if !a.workers().Contains(a.node(maxWorkers)) || !a.workers().Contains(a.bridge()) || a.workers().Contains(a.node(0)) {
		t.Error("the workers and the bridge are in the workers' network, the control plane is not")
	}
}

func TestNodes(t *testing.T) {
	root := t.TempDir()
	for n, ok := range map[int]bool{-1: false, 0: true, 1: true, 3: true, 6: true, 7: false} {
		if _, err := New(Options{Name: "x", StateRoot: root, Nodes: n}); (err == nil) != ok {
			t.Errorf("%d nodes: error %v, want ok=%t", n, err, ok)
		}
	}
	c, err := New(Options{Name: "x", StateRoot: root, Nodes: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Reserve(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range c.Nodes() {
		names = append(names, n.Name())
	}
	if got := strings.Join(names, " "); got != "x x-worker x-worker2" {
		t.Errorf("nodes %q", got)
	}
}

func TestBootstrapToken(t *testing.T) {
	one, err := bootstrapToken()
	if err != nil {
		t.Fatal(err)
	}
	two, err := bootstrapToken()
	if err != nil {
		t.Fatal(err)
	}
	// The form that Kubernetes demands of bootstrap tokens.
	if !regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`).MatchString(one) || one == two {
		t.Errorf("tokens %q and %q", one, two)
	}
}
