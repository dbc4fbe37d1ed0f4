package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func example(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../testdata/podvm.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExample(t *testing.T) {
	c, err := parse(example(t))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Classes:  []Class{{Socket: "/run/peerpod/hypervisor.sock", TEE: "tpm", Pool: 2}},
		StateDir: "/run/coco-sim/vm", LogDir: "/var/log/coco-sim",
		GuestRootfs: "/opt/coco-sim/guest/rootfs", TEEProgram: "/opt/coco-sim/bin/tee", TEERoots: "/etc/coco-sim/roots",
		BootTimeout: 30 * time.Second, AgentLog: "info", CgroupParent: "/coco-sim",
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown key", "pool = 2", "pol = 2", "unknown key class.pol: remove it or correct its name"},
		{"missing key", `log_dir = "/var/log/coco-sim"`, "", `log_dir = "": set it to the absolute path`},
		{"relative path", `"/run/coco-sim/vm"`, `"vm"`, `state_dir = "vm": set it to the absolute path`},
		{"root as cgroup", `"/coco-sim"`, `"/"`, `cgroup_parent = "/": set it to the absolute path`},
		{"root in disguise", `"/coco-sim"`, `"/x/.."`, `cgroup_parent = "/x/..": set it to the absolute path`},
		{"duration", `"30s"`, `"30"`, "boot_timeout"},
		{"negative duration", `"30s"`, `"-1s"`, "use a positive duration"},
		{"pool", "pool = 2", "pool = -1", "[[class]] 1: pool = -1: use a number from 0 to 64"},
		{"pool of what is made for one guest", `tee = "tpm"`, `tee = "snp"`, "[[class]] 1: pool = 2: hardware of kind snp is made for one guest"},
		{"kind", `tee = "tpm"`, `tee = "sgx"`, `[[class]] 1: tee = "sgx": use one of az-snp-vtpm, az-tdx-vtpm, sample, snp, tdx, tpm`},
		{"two classes, one socket", `tee = "tpm"`, "tee = \"tpm\"\n[[class]]\nsocket = \"/run/x/../peerpod/hypervisor.sock\"\ntee = \"tpm\"", "[[class]] 2: socket = "},

		{"level", `"info"`, `"loud"`, `agent_log = "loud": use info or debug`},
		{"mirror", `registry_mirror = ""`, `registry_mirror = "10.0.0.1:5000"`, "use a URL such as http://"},
		{"not TOML", `socket = `, `socket `, "line 27"},
		{"overlay", `guest/rootfs"`, `guest,rootfs"`, "cannot be an overlay's lower directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(example(t), tc.old, tc.new, 1)
			if _, err := parse(text); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestNoClass(t *testing.T) {
	text, _, _ := strings.Cut(example(t), "# A kind of VM.")
	if _, err := parse(text); err == nil || !strings.Contains(err.Error(), "no [[class]]") {
		t.Errorf("got error %v", err)
	}
	text += "[[class]]\nsocket = '/run/x'\ntee = 'tdx'\n"
	if _, err := parse(strings.Replace(text, "tee_roots", "#", 1)); err == nil || !strings.Contains(err.Error(), "needs tee_roots") {
		t.Errorf("got error %v", err)
	}
	text = strings.Replace(text, "'tdx'", "'snp'\nevent_log = true", 1)
	if _, err := parse(text); err == nil || !strings.Contains(err.Error(), "[[class]] 1: event_log = true: a TEE of kind snp has no runtime registers") {
		t.Errorf("got error %v", err)
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent.toml")
	if _, err := Load(absent); err == nil || !strings.Contains(err.Error(), absent) || !strings.Contains(err.Error(), "--config") {
		t.Errorf("absent file: got %v", err)
	}
	path := filepath.Join(dir, "podvm.toml")
	text := strings.ReplaceAll(example(t), "/opt/coco-sim", dir)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path+": tee_program: stat "+dir+"/bin/tee") {
		t.Errorf("absent TEE program: got %v", err)
	}
	for _, program := range []string{"bin/tee", "guest/rootfs/usr/bin/kata-agent"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, program)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, program), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "not an executable file") {
		t.Errorf("TEE program without x: got %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "bin/tee"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "guest_rootfs") {
		t.Errorf("agent without x: got %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "guest/rootfs/usr/bin/kata-agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
}
