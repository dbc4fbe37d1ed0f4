package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func sample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../testdata/podvm.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSample(t *testing.T) {
	c, err := parse(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Socket: "/run/peerpod/hypervisor.sock", StateDir: "/run/coco-sim/vm", LogDir: "/var/log/coco-sim",
		GuestRootfs: "/opt/coco-sim/guest/rootfs", TPMProgram: "/opt/coco-sim/bin/tpm", TPMPool: 2,
		BootTimeout: 30 * time.Second, AgentLog: "info", CgroupParent: "/coco-sim",
	}
	if c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown key", "tpm_pool = 2", "tpm_pol = 2", "unknown key tpm_pol: remove it or correct its name"},
		{"missing key", `log_dir = "/var/log/coco-sim"`, "", `log_dir = "": set it to the absolute path`},
		{"relative path", `"/run/coco-sim/vm"`, `"vm"`, `state_dir = "vm": set it to the absolute path`},
		{"root as cgroup", `"/coco-sim"`, `"/"`, `cgroup_parent = "/": set it to the absolute path`},
		{"root in disguise", `"/coco-sim"`, `"/x/.."`, `cgroup_parent = "/x/..": set it to the absolute path`},
		{"duration", `"30s"`, `"30"`, "boot_timeout"},
		{"negative duration", `"30s"`, `"-1s"`, "use a positive duration"},
		{"pool", "tpm_pool = 2", "tpm_pool = -1", "tpm_pool = -1: use a number from 0 to 64"},
		{"level", `"info"`, `"loud"`, `agent_log = "loud": use info or debug`},
		{"mirror", `registry_mirror = ""`, `registry_mirror = "10.0.0.1:5000"`, "use a URL such as http://"},
		{"not TOML", `socket = `, `socket `, "line 4"},
		{"overlay", `guest/rootfs"`, `guest,rootfs"`, "cannot be an overlay's lower directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(sample(t), tc.old, tc.new, 1)
			if _, err := parse(text); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent.toml")
	if _, err := Load(absent); err == nil || !strings.Contains(err.Error(), absent) || !strings.Contains(err.Error(), "--config") {
		t.Errorf("absent file: got %v", err)
	}
	path := filepath.Join(dir, "podvm.toml")
	text := strings.ReplaceAll(sample(t), "/opt/coco-sim", dir)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path+": tpm_program: stat "+dir+"/bin/tpm") {
		t.Errorf("absent TPM program: got %v", err)
	}
	for _, program := range []string{"bin/tpm", "guest/rootfs/usr/bin/kata-agent"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, program)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, program), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "not an executable file") {
		t.Errorf("TPM program without x: got %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "bin/tpm"), 0o755); err != nil {
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
