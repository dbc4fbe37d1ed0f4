package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadSample(t *testing.T) {
	c, err := Load("../testdata/shim.toml")
	if err != nil {
		t.Fatal(err)
	}
	if c.HypervisorSocket != "/run/peerpod/hypervisor.sock" || c.HypervisorTimeout != 10*time.Minute ||
		c.DialTimeout != 30*time.Second || c.CreateContainerTimeout != time.Minute || !c.ForceGuestPull ||
		!c.DisableGuestSeccomp || c.LegacyInitData || c.KubeletRootDir != "/var/lib/kubelet" || len(c.EnableAnnotations) != 7 {
		t.Errorf("got %+v", c)
	}
	if len(c.Ignored) != 0 {
		t.Errorf("the sample has unknown keys: %v", c.Ignored)
	}
}

func TestLoadRefuses(t *testing.T) {
	const base = "[hypervisor.remote]\nremote_hypervisor_socket = \"/s\"\n"
	for name, test := range map[string]struct{ text, want string }{
		"not TOML":         {"[", "toml: line 1"},
		"no socket":        {"", "[hypervisor.remote] remote_hypervisor_socket is missing"},
		"no timeout":       {base, "[runtime] create_container_timeout is 0"},
		"bad dial timeout": {base + "[agent.kata]\ndial_timeout = -1\n[runtime]\ncreate_container_timeout = 60", "[agent.kata] dial_timeout is -1"},
		"bad pattern":      {base + "enable_annotations = [\"(\"]\n[runtime]\ncreate_container_timeout = 60", "enable_annotations: \"(\" is not a regular expression"},
		"network model":    {base + "[runtime]\ninternetworking_model = \"tcfilter\"", "internetworking_model is \"tcfilter\""},
		"new netns":        {base + "[runtime]\ndisable_new_netns = false", "disable_new_netns is false"},
		"hotplug":          {base + "[runtime]\nstatic_sandbox_resource_mgmt = false", "static_sandbox_resource_mgmt is false"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "shim.toml")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error with %q and %q", err, path, test.want)
			}
		})
	}
	if _, err := Load("/does/not/exist.toml"); err == nil || !strings.Contains(err.Error(), "/does/not/exist.toml") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(""); err == nil || !strings.Contains(err.Error(), "ConfigPath") {
		t.Errorf("no path: %v", err)
	}
}

func TestIgnoredKeysAreListed(t *testing.T) {
	c, err := parse("[hypervisor.remote]\nremote_hypervisor_socket = \"/s\"\nhotplug_timeout = 1\n[runtime]\ncreate_container_timeout = 60\nenable_pprof = true")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Ignored, " "); got != "hypervisor.remote.hotplug_timeout runtime.enable_pprof" {
		t.Errorf("ignored keys %q", got)
	}
}
