// Package config reads the shim's configuration file, which has the shape of Kata's configuration-remote.toml.
//
// It must not know containerd, pods or the agent: it turns a file into checked values.
package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/BurntSushi/toml"
)

// minHypervisorTimeout is the least time that Kata gives to a call of the remote hypervisor (virtcontainers/remote.go).
const minHypervisorTimeout = 60 * time.Second

// Config is a checked configuration.
type Config struct {
	// HypervisorSocket is the path of the pod VM daemon's ttrpc socket.
	HypervisorSocket string
	// HypervisorTimeout bounds each call of the pod VM daemon.
	HypervisorTimeout time.Duration
	// EnableAnnotations are the patterns of the hypervisor annotations that pods may set, without their prefix.
	EnableAnnotations []*regexp.Regexp
	// DefaultVCPUs and DefaultMemoryMiB size the VM before the pod's limits are added.
	DefaultVCPUs, DefaultMemoryMiB uint32
	// DialTimeout bounds dialling the agent.
	DialTimeout time.Duration
	// CreateContainerTimeout bounds the agent's CreateContainer, which includes pulling the image.
	CreateContainerTimeout time.Duration
	// DisableGuestSeccomp keeps seccomp profiles from the agent.
	DisableGuestSeccomp bool
	// ForceGuestPull has images pulled in the guest. A pod's annotation can set it.
	ForceGuestPull bool
	// KubeletRootDir is the kubelet's --root-dir.
	KubeletRootDir string
	// LegacyInitData honours the init-data annotation that Kata had before cc_init_data became the hypervisor's.
	LegacyInitData bool
	// MonitorDir is where each sandbox's management socket is, in a directory named by its id; empty for none.
	MonitorDir string
	// Ignored lists the file's keys that mean nothing here.
	Ignored []string
}

// document is the file as written. Pointers tell absent keys from zero values.
type document struct {
	Hypervisor struct {
		Remote struct {
			Socket            string   `toml:"remote_hypervisor_socket"`
			Timeout           *int64   `toml:"remote_hypervisor_timeout"`
			EnableAnnotations []string `toml:"enable_annotations"`
			DefaultVCPUs      uint32   `toml:"default_vcpus"`
			DefaultMemory     uint32   `toml:"default_memory"`
		} `toml:"remote"`
	} `toml:"hypervisor"`
	Agent struct {
		Kata struct {
			DialTimeout *int64 `toml:"dial_timeout"`
		} `toml:"kata"`
	} `toml:"agent"`
	Runtime struct {
		InternetworkingModel   *string `toml:"internetworking_model"`
		DisableNewNetNs        *bool   `toml:"disable_new_netns"`
		DisableGuestSeccomp    bool    `toml:"disable_guest_seccomp"`
		StaticResources        *bool   `toml:"static_sandbox_resource_mgmt"`
		ForceGuestPull         bool    `toml:"experimental_force_guest_pull"`
		CreateContainerTimeout int64   `toml:"create_container_timeout"`
		KubeletRootDir         string  `toml:"kubelet_root_dir"`
		LegacyInitData         bool    `toml:"legacy_initdata_annotation"`
		MonitorDir             string  `toml:"monitor_dir"`
	} `toml:"runtime"`
}

// Load reads and checks the file at path. Errors name the file, the key and the remedy.
func Load(path string) (Config, error) {
	if path == "" {
		return Config{}, errors.New("no shim configuration: set ConfigPath in the options of the runtime in containerd's configuration")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read shim configuration (ConfigPath of the runtime in containerd's configuration): %w", err)
	}
	config, err := parse(string(text))
	if err != nil {
		return Config{}, fmt.Errorf("shim configuration %s: %w", path, err)
	}
	return config, nil
}

func parse(text string) (Config, error) {
	var d document
	meta, err := toml.Decode(text, &d)
	if err != nil {
		return Config{}, err
	}
	if err := d.refuseUnsupported(); err != nil {
		return Config{}, err
	}
	c := Config{
		HypervisorSocket:    d.Hypervisor.Remote.Socket,
		DefaultVCPUs:        d.Hypervisor.Remote.DefaultVCPUs,
		DefaultMemoryMiB:    d.Hypervisor.Remote.DefaultMemory,
		DisableGuestSeccomp: d.Runtime.DisableGuestSeccomp,
		ForceGuestPull:      d.Runtime.ForceGuestPull,
		KubeletRootDir:      d.Runtime.KubeletRootDir,
		LegacyInitData:      d.Runtime.LegacyInitData,
		MonitorDir:          d.Runtime.MonitorDir,
	}
	if c.HypervisorSocket == "" {
		return Config{}, errors.New("[hypervisor.remote] remote_hypervisor_socket is missing: set it to the pod VM daemon's socket")
	}
	if c.KubeletRootDir == "" {
		c.KubeletRootDir = "/var/lib/kubelet"
	}
	if err := c.setTimeouts(&d); err != nil {
		return Config{}, err
	}
	for _, pattern := range d.Hypervisor.Remote.EnableAnnotations {
		expression, err := regexp.Compile(pattern)
		if err != nil {
			return Config{}, fmt.Errorf("[hypervisor.remote] enable_annotations: %q is not a regular expression: %w", pattern, err)
		}
		c.EnableAnnotations = append(c.EnableAnnotations, expression)
	}
	for _, key := range meta.Undecoded() {
		c.Ignored = append(c.Ignored, key.String())
	}
	return c, nil
}

func (c *Config) setTimeouts(d *document) error {
	var err error
	if c.HypervisorTimeout, err = seconds("[hypervisor.remote] remote_hypervisor_timeout", d.Hypervisor.Remote.Timeout, 600); err != nil {
		return err
	}
	c.HypervisorTimeout = max(c.HypervisorTimeout, minHypervisorTimeout)
	if c.DialTimeout, err = seconds("[agent.kata] dial_timeout", d.Agent.Kata.DialTimeout, 30); err != nil {
		return err
	}
	// Kata takes an absent value for 0 and then cancels every CreateContainer at once; better to say so here.
	c.CreateContainerTimeout, err = seconds("[runtime] create_container_timeout", &d.Runtime.CreateContainerTimeout, 0)
	return err
}

func seconds(key string, value *int64, absent int64) (time.Duration, error) {
	if value == nil {
		value = &absent
	}
	if *value <= 0 {
		return 0, fmt.Errorf("%s is %d: set it to a number of seconds above 0", key, *value)
	}
	return time.Duration(*value) * time.Second, nil
}

// refuseUnsupported refuses values that ask for what this shim cannot do, rather than doing something else.
func (d *document) refuseUnsupported() error {
	runtime := d.Runtime
	if model := runtime.InternetworkingModel; model != nil && *model != "none" {
		return fmt.Errorf("[runtime] internetworking_model is %q: only \"none\" is possible, the guest shares the pod's network namespace", *model)
	}
	if v := runtime.DisableNewNetNs; v != nil && !*v {
		return errors.New("[runtime] disable_new_netns is false: only true is possible, the guest shares the pod's network namespace")
	}
	if v := runtime.StaticResources; v != nil && !*v {
		return errors.New("[runtime] static_sandbox_resource_mgmt is false: only true is possible, a pod VM is not resized")
	}
	return nil
}
