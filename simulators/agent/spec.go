package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// runtimeSpecVersion is what every runc that is about takes.
const runtimeSpecVersion = "1.0.2"

// runtimeSpec makes runc's configuration of the one in the request, as the
// agent does for a container of its guest (Kata src/agent/src/rpc.rs,
// do_create_container and update_container_namespaces).
func (a *Agent) runtimeSpec(r *pb.CreateContainerRequest) (*specs.Spec, error) {
	o := r.OCI
	if o.Root == nil || o.Process == nil || o.Linux == nil {
		return nil, fmt.Errorf("OCI of container %s: root, process and linux have to be there", r.ContainerId)
	}
	process, err := runtimeProcess(o.Process)
	if err != nil {
		return nil, err
	}
	sysctls, err := setNetworkSysctls(o.Linux.Sysctl)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: runtimeSpecVersion, Process: process, Hostname: o.Hostname, Annotations: o.Annotations,
		Root: &specs.Root{Path: o.Root.Path, Readonly: o.Root.Readonly},
		Linux: &specs.Linux{
			Sysctl: sysctls, CgroupsPath: filepath.Join(a.cgroupParent, filepath.Clean("/"+o.Linux.CgroupsPath)),
			MaskedPaths: o.Linux.MaskedPaths, ReadonlyPaths: o.Linux.ReadonlyPaths, RootfsPropagation: o.Linux.RootfsPropagation,
			Resources: a.runtimeResources(o.Linux.Resources), Namespaces: a.namespaces(r),
		},
	}
	if err := addDevices(s.Linux, o.Linux.Devices); err != nil {
		return nil, err
	}
	for _, m := range o.Mounts {
		kind := m.Type
		if slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
			kind = "bind" // a type of Kata's, such as "local", means nothing to runc
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: m.Destination, Source: m.Source, Type: kind, Options: m.Options})
	}
	return s, nil
}

// setNetworkSysctls sets those of the network, which is the guest's and not the
// container's, and returns the others: runc refuses to set them in a network
// namespace that it did not make.
func setNetworkSysctls(all map[string]string) (map[string]string, error) {
	rest := map[string]string{}
	for name, value := range all {
		if !strings.HasPrefix(name, "net.") {
			rest[name] = value
			continue
		}
		path := filepath.Join("/proc/sys", filepath.Clean("/"+strings.ReplaceAll(name, ".", "/")))
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return nil, fmt.Errorf("sysctl %s: %w", name, err)
		}
	}
	return rest, nil
}

// namespaces: IPC and UTS are the sandbox's, which are the guest's own; each
// container has its own PID namespace unless the pod shares one; the network
// is the guest's.
func (a *Agent) namespaces(r *pb.CreateContainerRequest) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.CgroupNamespace}}
	for _, n := range r.OCI.Linux.Namespaces {
		switch n.Type {
		case "ipc":
			out = append(out, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/proc/1/ns/ipc"})
		case "uts":
			out = append(out, specs.LinuxNamespace{Type: specs.UTSNamespace, Path: "/proc/1/ns/uts"})
		case "mount", "mnt":
			out = append(out, specs.LinuxNamespace{Type: specs.MountNamespace})
		}
	}
	pid := specs.LinuxNamespace{Type: specs.PIDNamespace}
	if pause := a.find(a.sandboxID); r.SandboxPidns && pause != nil {
		pid.Path = fmt.Sprintf("/proc/%d/ns/pid", pause.init.pid)
	}
	return append(out, pid)
}

// runtimeProcess converts a process. What the machine under the simulation
// does not permit is left out: a VM's agent may do all, this one only what
// its own bounding set and OOM score allow.
func runtimeProcess(p *pb.Process) (*specs.Process, error) {
	u := p.GetUser()
	out := &specs.Process{
		Terminal: p.Terminal, Args: p.Args, Env: p.Env, Cwd: p.Cwd, NoNewPrivileges: p.NoNewPrivileges,
		User: specs.User{UID: u.GetUID(), GID: u.GetGID(), AdditionalGids: u.GetAdditionalGids()},
	}
	if p.ConsoleSize != nil {
		out.ConsoleSize = &specs.Box{Height: uint(p.ConsoleSize.Height), Width: uint(p.ConsoleSize.Width)}
	}
	for _, l := range p.Rlimits {
		out.Rlimits = append(out.Rlimits, specs.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
	}
	if c := p.Capabilities; c != nil {
		have, err := cap.Current()
		if err != nil {
			return nil, fmt.Errorf("own capabilities: %w", err)
		}
		held := func(names []string) []string {
			return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(have, n) })
		}
		out.Capabilities = &specs.LinuxCapabilities{
			Bounding: held(c.Bounding), Effective: held(c.Effective), Inheritable: held(c.Inheritable), Permitted: held(c.Permitted), Ambient: held(c.Ambient),
		}
	}
	score := max(int(p.OOMScoreAdj), ownOOMScore())
	out.OOMScoreAdj = &score
	return out, nil
}

func ownOOMScore() int {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}
