package deploy

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func options(t *testing.T, config string) Options {
	t.Helper()
	o := Options{Payload: t.TempDir(), Host: t.TempDir(), Address: "192.0.2.1", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if err := writeFile(o.host(mainConfig), []byte(config)); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestImportDropIns(t *testing.T) {
	for name, tc := range map[string]struct{ before, after, err string }{
		"none yet": {
			"version = 3\n[grpc]\naddress = \"x\"\n",
			"imports = [\"/etc/containerd/conf.d/*.toml\"] # coco-sim\nversion = 3\n[grpc]\naddress = \"x\"\n", "",
		},
		"there already": {
			"version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n", "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n", "",
		},
		"others": {"imports = [\"/etc/mine.toml\"]\n", "imports = [\"/etc/mine.toml\"]\n", "imports of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t, tc.before)
			for range 2 { // twice is once
				err := o.importDropIns()
				if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
			}
			got, err := os.ReadFile(o.host(mainConfig))
			if err != nil || string(got) != tc.after {
				t.Errorf("got %q, %v, want %q", got, err, tc.after)
			}
		})
	}
}

// What is removed is what was installed: the rest of the node stays.
func TestRemoveLeavesTheNodeAsItWas(t *testing.T) {
	const before = "version = 3\n"
	o := options(t, before)
	if err := writeFile(filepath.Join(o.Payload, "opt/bin/podvm"), []byte("program")); err != nil {
		t.Fatal(err)
	}
	mine := o.host("etc/containerd/conf.d/mine.toml")
	if err := writeFile(mine, nil); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(filepath.Join(o.Payload, "opt"), o.host(programs)); err != nil {
		t.Fatal(err)
	}
	if err := o.importDropIns(); err != nil {
		t.Fatal(err)
	}
	if err := o.removeFiles(); err != nil {
		t.Fatal(err)
	}
	for p, there := range map[string]bool{o.host(programs): false, o.host(configDir): false, mine: true} {
		if _, err := os.Stat(p); (err == nil) != there {
			t.Errorf("%s: %v, want there=%t", p, err, there)
		}
	}
	if got, err := os.ReadFile(o.host(mainConfig)); err != nil || string(got) != before {
		t.Errorf("containerd's configuration is %q, %v, want %q", got, err, before)
	}
}
