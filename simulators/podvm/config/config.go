// Package config reads the pod VM daemon's configuration file.
//
// It must not know guests or protocols: it turns a file into checked values.
package config

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Config is a checked configuration. All paths are absolute.
type Config struct {
	// Classes are the kinds of VM that the daemon makes, at least one.
	Classes []Class `toml:"class"`
	// StateDir gets a directory per VM, which StopVM removes. The daemon takes the whole directory for its own.
	StateDir string `toml:"state_dir"`
	// LogDir gets a directory per VM, which is kept: <namespace>_<pod>_<id>.
	LogDir string `toml:"log_dir"`
	// GuestRootfs is the guest image's root. Guests cannot write to it.
	GuestRootfs string `toml:"guest_rootfs"`
	// TEEProgram is the program that is one hardware root of trust: PROGRAM --kind KIND --socket PATH --log PATH.
	TEEProgram string `toml:"tee_program"`
	// TEERoots is the directory of the test roots that certify simulated hardware; "" when no class's TEE has certificates.
	TEERoots string `toml:"tee_roots"`
	// BootTimeout bounds a guest's boot, from its first process to its agent's socket.
	BootTimeout time.Duration `toml:"boot_timeout"`
	// RegistryMirror is asked for images before their own registry, by the guest; "" for none.
	RegistryMirror string `toml:"registry_mirror"`
	// AgentLog is the agent's log level.
	AgentLog string `toml:"agent_log"`
	// CgroupParent is the cgroup below which each VM has one, in every hierarchy. It belongs to the daemon alone.
	CgroupParent string `toml:"cgroup_parent"`
}

// Class is a kind of VM. A RuntimeClass chooses one by the hypervisor socket in its shim's configuration.
type Class struct {
	// Socket is where hypervisor.Hypervisor is served over ttrpc for VMs of this class.
	Socket string `toml:"socket"`
	// TEE is the kind of evidence that guests give, in Trustee's words.
	TEE string `toml:"tee"`
	// Pool is how many provisioned TEEs are kept ready. Only those that know nothing of their guest can be.
	Pool int `toml:"pool"`
	// EventLog has guests measure what is asked of their agent into a runtime register.
	EventLog bool `toml:"event_log"`
}

// Kinds of TEE, in Trustee's words.
const (
	tpm       = "tpm"
	azSNPvTPM = "az-snp-vtpm"
	azTDXvTPM = "az-tdx-vtpm"
	snp       = "snp"
	tdx       = "tdx"
	sample    = "sample"
)

// kinds has what podvm has to know of each.
var kinds = map[string]struct{ roots, poolable bool }{
	tpm:       {poolable: true},
	azSNPvTPM: {roots: true, poolable: true},
	azTDXvTPM: {roots: true, poolable: true},
	snp:       {roots: true},
	tdx:       {roots: true},
	sample:    {},
}

// VTPM says that the TEE is a TPM of a platform that has more than that.
func (c Class) VTPM() bool { return c.TEE == azSNPvTPM || c.TEE == azTDXvTPM }

// None says that there is no TEE.
func (c Class) None() bool { return c.TEE == sample }

// Measured says that the TEE's evidence has a digest that the host gave at launch.
func (c Class) Measured() bool { return c.TEE == snp || c.TEE == tdx }

// Certified says that the TEE's evidence has certificates below the test roots.
func (c Class) Certified() bool { return kinds[c.TEE].roots }

// Device is the device by which a guest reaches its TEE; "" when there is nothing to reach.
func (c Class) Device() string {
	switch c.TEE {
	case snp:
		return "sev-guest"
	case tdx:
		return "tdx_guest"
	case sample:
		return ""
	}
	return "tpm0"
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
	c := Config{BootTimeout: 30 * time.Second, AgentLog: "info", CgroupParent: "/coco-sim"}
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
		{"state_dir", "a directory of the daemon's own, such as /run/coco-sim/vm", &c.StateDir},
		{"log_dir", "a directory for guests' logs", &c.LogDir},
		{"guest_rootfs", "the root directory of the guest image", &c.GuestRootfs},
		{"tee_program", "the TEE program", &c.TEEProgram},
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
	if err := c.checkClasses(); err != nil {
		return err
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

func (c *Config) checkClasses() error {
	if len(c.Classes) == 0 {
		return errors.New("no [[class]]: add one with a socket and a tee")
	}
	sockets := map[string]bool{}
	for i := range c.Classes {
		class := &c.Classes[i]
		at := func(format string, args ...any) error {
			return fmt.Errorf("[[class]] %d: "+format, append([]any{i + 1}, args...)...)
		}
		kind, known := kinds[class.TEE]
		switch {
		case !filepath.IsAbs(class.Socket):
			return at("socket = %q: set it to the absolute path of the unix socket to serve", class.Socket)
		case sockets[filepath.Clean(class.Socket)]:
			return at("socket = %q: another class has it; use one for each", class.Socket)
		case !known:
			return at("tee = %q: use one of %s", class.TEE, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
		case class.Pool < 0 || class.Pool > 64:
			return at("pool = %d: use a number from 0 to 64", class.Pool)
		case class.Pool > 0 && !kind.poolable:
			return at("pool = %d: hardware of kind %s is made for one guest; remove it", class.Pool, class.TEE)
		case kind.roots && !filepath.IsAbs(c.TEERoots):
			return at("tee = %q needs tee_roots: set it to the absolute path of the test roots (tee make-roots --out DIR)", class.TEE)
		case class.EventLog && (class.TEE == snp || class.TEE == sample):
			return at("event_log = true: a TEE of kind %s has no runtime registers; remove it", class.TEE)
		}
		class.Socket = filepath.Clean(class.Socket)
		sockets[class.Socket] = true
	}
	return nil
}

// checkMachine finds missing files when the daemon starts rather than when the first pod does.
func (c *Config) checkMachine() error {
	if err := executable(c.TEEProgram); err != nil {
		return fmt.Errorf("tee_program: %w; set it to the TEE program that the simulators' build made", err)
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
