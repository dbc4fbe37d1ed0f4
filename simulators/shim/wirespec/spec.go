// Package wirespec turns an OCI runtime specification into the agent protocol's messages, first faithfully and then
// constrained to what a guest may be told, as Kata's Go shim does (virtcontainers/kata_agent.go constrainGRPCSpec and
// virtcontainers/pkg/agent/protocols/grpc/utils.go).
//
// It must not know containerd, files or sockets: values in, messages out.
package wirespec

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// Constraints say what a guest is not told.
type Constraints struct {
	// RootPath is the container's root in the guest; it takes the place of the host's.
	RootPath string
	// PassSeccomp leaves the seccomp profile in.
	PassSeccomp bool
}

// Constrained converts spec and removes from it what concerns the host only. sharedPIDNamespace says that the
// container asked to join another pid namespace, which becomes CreateContainerRequest.sandbox_pidns.
func Constrained(spec *specs.Spec, constraints Constraints) (_ *agentpb.Spec, sharedPIDNamespace bool) {
	out := convert(spec)
	out.Hooks = nil
	out.Root.Path = constraints.RootPath
	// The guest has labels of its own, if any.
	out.Process.SelinuxLabel = ""
	out.Linux.MountLabel = ""
	if !constraints.PassSeccomp {
		out.Linux.Seccomp = nil
	}
	if cpu := out.Linux.Resources.CPU; cpu != nil {
		cpu.Cpus, cpu.Mems = "", ""
	}
	out.Linux.Namespaces, sharedPIDNamespace = constrainedNamespaces(out.Linux.Namespaces)
	return out, sharedPIDNamespace
}

// constrainedNamespaces drops the namespaces that the VM itself is, and every path, which is one of the host's.
func constrainedNamespaces(in []*agentpb.LinuxNamespace) (out []*agentpb.LinuxNamespace, sharedPID bool) {
	for _, namespace := range in {
		switch specs.LinuxNamespaceType(namespace.Type) {
		case specs.CgroupNamespace, specs.NetworkNamespace, specs.TimeNamespace:
		case specs.PIDNamespace:
			sharedPID = namespace.Path != ""
		default:
			namespace.Path = ""
			out = append(out, namespace)
		}
	}
	return out, sharedPID
}

func convert(spec *specs.Spec) *agentpb.Spec {
	out := &agentpb.Spec{
		Version:     spec.Version,
		Process:     process(spec.Process),
		Root:        &agentpb.Root{},
		Hostname:    spec.Hostname,
		Annotations: spec.Annotations,
		Linux:       linux(spec.Linux),
	}
	if spec.Root != nil {
		out.Root.Readonly = spec.Root.Readonly
	}
	for _, mount := range spec.Mounts {
		out.Mounts = append(out.Mounts, &agentpb.Mount{
			Destination: mount.Destination, Source: mount.Source, Type: mount.Type, Options: mount.Options,
		})
	}
	return out
}

func process(in *specs.Process) *agentpb.Process {
	if in == nil {
		return &agentpb.Process{User: &agentpb.User{}}
	}
	out := &agentpb.Process{
		Terminal:        in.Terminal,
		User:            user(in.User),
		Args:            in.Args,
		Env:             in.Env,
		Cwd:             in.Cwd,
		NoNewPrivileges: in.NoNewPrivileges,
		ApparmorProfile: in.ApparmorProfile,
		OOMScoreAdj:     int64(value(in.OOMScoreAdj)),
		SelinuxLabel:    in.SelinuxLabel,
	}
	if in.ConsoleSize != nil {
		out.ConsoleSize = &agentpb.Box{Height: uint32(in.ConsoleSize.Height), Width: uint32(in.ConsoleSize.Width)}
	}
	if c := in.Capabilities; c != nil {
		out.Capabilities = &agentpb.LinuxCapabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, limit := range in.Rlimits {
		out.Rlimits = append(out.Rlimits, &agentpb.POSIXRlimit{Type: limit.Type, Hard: limit.Hard, Soft: limit.Soft})
	}
	return out
}

func user(in specs.User) *agentpb.User {
	return &agentpb.User{UID: in.UID, GID: in.GID, AdditionalGids: in.AdditionalGids, Username: in.Username}
}

// ExecProcess converts the process of an exec session. Kata's shim forwards only these fields: an exec carries no
// capabilities, limits, profiles or OOM score, and never no_new_privileges, whatever the container has
// (containerd-shim-v2/exec.go and virtcontainers/kata_agent.go cmdEnvsToStringSlice, execProcess).
func ExecProcess(in *specs.Process, terminal bool) *agentpb.Process {
	return &agentpb.Process{Terminal: terminal, User: user(in.User), Args: in.Args, Env: in.Env, Cwd: in.Cwd}
}

func value[T any](pointer *T) (zero T) {
	if pointer == nil {
		return zero
	}
	return *pointer
}
