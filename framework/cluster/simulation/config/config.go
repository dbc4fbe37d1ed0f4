// Package config fills in the files that make a node's containerd, shim and pod
// VM daemon serve the RuntimeClasses of the simulated TEE
// (manifests/simulator). Whoever puts the simulated TEE on a node writes them
// there. It must not know how nodes are reached.
package config

import (
	"fmt"
	"path"

	"github.com/BurntSushi/toml"

	"github.com/coco-e2e/coco-e2e/manifests"
)

// Class is a RuntimeClass of the simulated TEE and what it stands for.
type Class struct {
	// Name of the RuntimeClass and its handler.
	Name string `toml:"name"`
	// TEE is the kind of evidence that its guests give, in Trustee's words.
	TEE string `toml:"tee"`
	// Socket is where podvm serves the remote-hypervisor protocol for it, on a node.
	Socket string `toml:"socket"`
	// Pool is how many provisioned TPMs a node keeps ready.
	Pool int `toml:"pool"`
	// EventLog says that its guests measure what is asked of their agent into
	// a runtime register.
	EventLog bool `toml:"event_log"`
}

// Classes are those of manifests/simulator/classes.toml; the first is the
// suites' default.
func Classes() ([]Class, error) {
	var file struct {
		Class []Class `toml:"class"`
	}
	const name = "simulator/classes.toml"
	if _, err := toml.Decode(string(manifests.Read(name)), &file); err != nil {
		return nil, fmt.Errorf("manifests/%s: %w", name, err)
	}
	if len(file.Class) == 0 {
		return nil, fmt.Errorf("manifests/%s: no [[class]]", name)
	}
	return file.Class, nil
}

// Where things are on a node.
const (
	// Dir has the configuration of shim and podvm, and Roots.
	Dir = "/etc/coco-sim"
	// Roots are the test roots that certify simulated hardware, with their keys.
	Roots = Dir + "/roots"
	// Programs has the simulators' programs and the guest image.
	Programs = "/opt/coco-sim"
	// Kata has Kata's own shim where it takes the simulator's place, as
	// kata-deploy puts it there.
	Kata = "/opt/kata"
	// KataShim is Kata's Go shim.
	KataShim = Kata + "/bin/containerd-shim-kata-v2"
	// Containerd is the drop-in that registers the runtimes.
	Containerd = "/etc/containerd/conf.d/coco-sim.toml"
	// Hosts has containerd ask the run's registry first.
	Hosts = "/etc/containerd/certs.d/_default/hosts.toml"
	// PodVM is the configuration of podvm.
	PodVM = Dir + "/podvm.toml"
)

// KataConfig is the configuration file of Kata's shim for a class.
func KataConfig(c Class) string {
	return Kata + "/share/defaults/kata-containers/configuration-remote-" + c.Name + ".toml"
}

// shimConfig is the configuration file of the simulator's shim for a class.
func shimConfig(c Class) string { return path.Join(Dir, "shim-"+c.Name+".toml") }

// runtime is one of containerd's, as its configuration names it.
type runtime struct {
	Class              Class
	Type, Path, Config string
}

// Files are what a node needs, by absolute path. mirror is the URL of the
// registry that it asks first; kata says that Kata's shim is there to be used.
func Files(mirror string, kata bool) (map[string][]byte, error) {
	classes, err := Classes()
	if err != nil {
		return nil, err
	}
	data := map[string]any{"Mirror": mirror, "Classes": classes}
	out := map[string][]byte{}
	fill := func(to, from string, data any) error {
		text, err := manifests.Fill("simulator/"+from, data)
		out[to] = text
		return err
	}
	var runtimes []runtime
	for _, c := range classes {
		r := runtime{c, "io.containerd.kata-remote.v2", KataShim, KataConfig(c)}
		if !kata {
			r = runtime{c, "io.containerd.coco-sim.v2", Programs + "/bin/containerd-shim-coco-sim-v2", shimConfig(c)}
			if err := fill(r.Config, "shim.toml", map[string]any{"Class": c}); err != nil {
				return nil, err
			}
		}
		runtimes = append(runtimes, r)
	}
	data["Runtimes"] = runtimes
	for to, from := range map[string]string{PodVM: "podvm.toml", Containerd: "containerd.toml", Hosts: "hosts.toml"} {
		if err := fill(to, from, data); err != nil {
			return nil, err
		}
	}
	return out, nil
}
