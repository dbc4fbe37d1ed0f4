package simulation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation/config"
)

func TestShimCheck(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		shim Shim
		want string
	}{
		"the own shim needs nothing": {Shim{}, ""},
		"no such file":               {Shim{Kata: filepath.Join(dir, "none")}, "name the containerd-shim-kata-v2 of a Kata release"},
		"no program":                 {Shim{Kata: text}, "name the containerd-shim-kata-v2 of a Kata release"},
		"no such configuration":      {Shim{Kata: "/bin/busybox", KataConfig: filepath.Join(dir, "none")}, "KATA_CONFIG: "},
		"libraries that nodes lack":  {Shim{Kata: "/bin/bash"}, "libc.so.6"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.shim.Check(root)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
	if err := os.MkdirAll(filepath.Join(root, "lib/x86_64-linux-gnu"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, l := range []string{"libc.so.6", "libtinfo.so.6"} {
		if err := os.WriteFile(filepath.Join(root, "lib/x86_64-linux-gnu", l), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := (Shim{Kata: "/bin/bash"}).Check(root); err != nil {
		t.Errorf("with its libraries on the node: %v", err)
	}
}

// What containerd and Kata's shim read is what is laid out for them.
func TestKataShimIsWhereContainerdLooks(t *testing.T) {
	shim := Shim{Kata: "/bin/bash"}
	dir := t.TempDir()
	if err := shim.layOut(dir); err != nil {
		t.Fatal(err)
	}
	files, err := config.Files("", true)
	if err != nil {
		t.Fatal(err)
	}
	text := files["/etc/containerd/conf.d/coco-sim.toml"]
	var containerd struct {
		Plugins map[string]struct {
			Containerd struct {
				Runtimes map[string]kataRuntime
			}
		}
	}
	if _, err := toml.Decode(string(text), &containerd); err != nil {
		t.Fatal(err)
	}
	runtimes := containerd.Plugins["io.containerd.cri.v1.runtime"].Containerd.Runtimes
	for name, socket := range map[string]string{"kata-cc": "/run/peerpod/hypervisor.sock", "kata-cc-snp": "/run/peerpod/snp.sock"} {
		checkKataRuntime(t, dir, runtimes[name], socket)
	}
}

type kataRuntime struct {
	Type    string `toml:"runtime_type"`
	Path    string `toml:"runtime_path"`
	Options struct{ ConfigPath string }
}

func checkKataRuntime(t *testing.T, dir string, r kataRuntime, socket string) {
	t.Helper()
	if r.Type != "io.containerd.kata-remote.v2" || r.Path != "/opt/kata/bin/containerd-shim-kata-v2" {
		t.Errorf("runtime %s at %s", r.Type, r.Path)
	}
	var config struct {
		Hypervisor struct {
			Remote struct {
				Socket string `toml:"remote_hypervisor_socket"`
			} `toml:"remote"`
		} `toml:"hypervisor"`
	}
	if _, err := toml.DecodeFile(filepath.Join(dir, strings.TrimPrefix(r.Options.ConfigPath, "/opt/kata")), &config); err != nil {
		t.Fatal(err)
	}
	if config.Hypervisor.Remote.Socket != socket {
		t.Errorf("hypervisor socket %q, want podvm's, %q", config.Hypervisor.Remote.Socket, socket)
	}
	if _, err := os.Stat(filepath.Join(dir, strings.TrimPrefix(r.Path, "/opt/kata"))); err != nil {
		t.Error(err)
	}
}
