// Package config reads the pod VM daemon's configuration file.
//
// It must not know guests or protocols: it turns a file into checked values.
package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Config is a checked configuration. All paths are absolute.
type Config struct {
	// Socket is where hypervisor.Hypervisor is served over ttrpc.
	Socket string `toml:"socket"`
	// StateDir gets a directory per VM, which StopVM removes. The daemon takes the whole directory for its own.
	StateDir string `toml:"state_dir"`
	// LogDir gets a directory per VM, which is kept: <namespace>_<pod>_<id>.
	LogDir string `toml:"log_dir"`
	// GuestRootfs is the guest image's root. Guests cannot write to it.
	GuestRootfs string `toml:"guest_rootfs"`
	// TPMProgram is the program that is one TPM: PROGRAM --socket PATH --log PATH.
	TPMProgram string `toml:"tpm_program"`
	// TPMPool is how many provisioned TPMs are kept ready.
	TPMPool int `toml:"tpm_pool"`
	// BootTimeout bounds a guest's boot, from its first process to its agent's socket.
	BootTimeout time.Duration `toml:"boot_timeout"`
	// RegistryMirror is asked for images before their own registry, by the guest; "" for none.
	RegistryMirror string `toml:"registry_mirror"`
	// AgentLog is the agent's log level.
	AgentLog string `toml:"agent_log"`
	// CgroupParent is the cgroup below which each VM has one, in every hierarchy. It belongs to the daemon alone.
	CgroupParent string `toml:"cgroup_parent"`
}

// Load reads and checks the file at path. Errors name the file, the key and the remedy.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("podvm configuration: %w; name an existing file with --config", err)
	}
	c, err := parse(string(text))
	if err == nil {
		err = c.checkMachine()
	}
	if err != nil {
		return Config{}, fmt.Errorf("podvm configuration %s: %w", path, err)
	}
	return c, nil
}

func parse(text string) (Config, error) {
	c := Config{TPMPool: 2, BootTimeout: 30 * time.Second, AgentLog: "info", CgroupParent: "/coco-sim"}
	meta, err := toml.Decode(text, &c)
	if err != nil {
		return Config{}, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return Config{}, fmt.Errorf("unknown key %s: remove it or correct its name", unknown[0])
	}
	return c, c.check()
}

func (c *Config) check() error {
	for _, p := range []struct {
		key, what string
		value     *string
	}{
		{"socket", "the unix socket to serve", &c.Socket},
		{"state_dir", "a directory of the daemon's own, such as /run/coco-sim/vm", &c.StateDir},
		{"log_dir", "a directory for guests' logs", &c.LogDir},
		{"guest_rootfs", "the root directory of the guest image", &c.GuestRootfs},
		{"tpm_program", "the TPM program", &c.TPMProgram},
		{"cgroup_parent", "a cgroup of the daemon's own, such as /coco-sim", &c.CgroupParent},
	} {
		if !filepath.IsAbs(*p.value) || filepath.Clean(*p.value) == "/" {
			return fmt.Errorf("%s = %q: set it to the absolute path of %s", p.key, *p.value, p.what)
		}
		*p.value = filepath.Clean(*p.value)
	}
	if strings.ContainsAny(c.GuestRootfs, `:,\`) {
		return fmt.Errorf(`guest_rootfs = %q: a path with one of : , \ cannot be an overlay's lower directory; use another`, c.GuestRootfs)
	}
	if c.TPMPool < 0 || c.TPMPool > 64 {
		return fmt.Errorf("tpm_pool = %d: use a number from 0 to 64", c.TPMPool)
	}
	if c.BootTimeout <= 0 {
		return fmt.Errorf(`boot_timeout = %q: use a positive duration such as "30s"`, c.BootTimeout)
	}
	if c.AgentLog != "info" && c.AgentLog != "debug" {
		return fmt.Errorf("agent_log = %q: use info or debug", c.AgentLog)
	}
	if c.RegistryMirror != "" {
		u, err := url.Parse(c.RegistryMirror)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return fmt.Errorf("registry_mirror = %q: use a URL such as http://10.0.0.1:5000, or leave it empty", c.RegistryMirror)
		}
	}
	return nil
}

// checkMachine finds missing files when the daemon starts rather than when the first pod does.
func (c *Config) checkMachine() error {
	if err := executable(c.TPMProgram); err != nil {
		return fmt.Errorf("tpm_program: %w; set it to the TPM program that the simulators' build made", err)
	}
	if err := executable(filepath.Join(c.GuestRootfs, "usr/bin/kata-agent")); err != nil {
		return fmt.Errorf("guest_rootfs = %q: %w; set it to the guest image's root, which has the agent there", c.GuestRootfs, err)
	}
	return nil
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return &os.PathError{Op: "execute", Path: path, Err: errors.New("not an executable file")}
	}
	return nil
}
