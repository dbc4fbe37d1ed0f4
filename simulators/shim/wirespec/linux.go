package wirespec

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

func linux(in *specs.Linux) *agentpb.Linux {
	if in == nil {
		return &agentpb.Linux{Resources: &agentpb.LinuxResources{}}
	}
	out := &agentpb.Linux{
		UIDMappings:       idMappings(in.UIDMappings),
		GIDMappings:       idMappings(in.GIDMappings),
		Sysctl:            in.Sysctl,
		Resources:         Resources(in.Resources),
		CgroupsPath:       in.CgroupsPath,
		Seccomp:           seccomp(in.Seccomp),
		RootfsPropagation: in.RootfsPropagation,
		MaskedPaths:       in.MaskedPaths,
		ReadonlyPaths:     in.ReadonlyPaths,
		MountLabel:        in.MountLabel,
	}
	for _, namespace := range in.Namespaces {
		out.Namespaces = append(out.Namespaces, &agentpb.LinuxNamespace{Type: string(namespace.Type), Path: namespace.Path})
	}
	for _, device := range in.Devices {
		out.Devices = append(out.Devices, &agentpb.LinuxDevice{
			Path: device.Path, Type: device.Type, Major: device.Major, Minor: device.Minor,
			FileMode: uint32(value(device.FileMode)), UID: value(device.UID), GID: value(device.GID),
		})
	}
	if in.IntelRdt != nil {
		out.IntelRdt = &agentpb.LinuxIntelRdt{L3CacheSchema: in.IntelRdt.L3CacheSchema}
	}
	return out
}

func idMappings(in []specs.LinuxIDMapping) (out []*agentpb.LinuxIDMapping) {
	for _, mapping := range in {
		out = append(out, &agentpb.LinuxIDMapping{HostID: mapping.HostID, ContainerID: mapping.ContainerID, Size: mapping.Size})
	}
	return out
}

// Resources converts resource limits: of memory, CPU and huge pages, the only ones that a guest is told about. A
// controller that in does not mention stays unset, one that it mentions has all its fields.
func Resources(in *specs.LinuxResources) *agentpb.LinuxResources {
	out := &agentpb.LinuxResources{}
	if in == nil {
		return out
	}
	if m := in.Memory; m != nil {
		out.Memory = &agentpb.LinuxMemory{
			Limit:       value(m.Limit),
			Reservation: value(m.Reservation),
			Swap:        value(m.Swap),
			//lint:ignore SA1019 deprecated in OCI, a field of the agent's still
			Kernel:     value(m.Kernel),
			KernelTCP:  value(m.KernelTCP),
			Swappiness: value(m.Swappiness), DisableOOMKiller: value(m.DisableOOMKiller),
		}
	}
	if c := in.CPU; c != nil {
		out.CPU = &agentpb.LinuxCPU{
			Shares: value(c.Shares), Quota: value(c.Quota), Period: value(c.Period),
			RealtimeRuntime: value(c.RealtimeRuntime), RealtimePeriod: value(c.RealtimePeriod),
			Cpus: c.Cpus, Mems: c.Mems,
		}
	}
	for _, limit := range in.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, &agentpb.LinuxHugepageLimit{Pagesize: limit.Pagesize, Limit: limit.Limit})
	}
	return out
}

func seccomp(in *specs.LinuxSeccomp) *agentpb.LinuxSeccomp {
	if in == nil {
		return nil
	}
	out := &agentpb.LinuxSeccomp{DefaultAction: string(in.DefaultAction)}
	for _, architecture := range in.Architectures {
		out.Architectures = append(out.Architectures, string(architecture))
	}
	for _, flag := range in.Flags {
		out.Flags = append(out.Flags, string(flag))
	}
	for _, call := range in.Syscalls {
		converted := &agentpb.LinuxSyscall{Names: call.Names, Action: string(call.Action)}
		if call.ErrnoRet != nil {
			converted.ErrnoRet = &agentpb.LinuxSyscall_Errnoret{Errnoret: uint32(*call.ErrnoRet)}
		}
		for _, argument := range call.Args {
			converted.Args = append(converted.Args, &agentpb.LinuxSeccompArg{
				Index: uint64(argument.Index), Value: argument.Value, ValueTwo: argument.ValueTwo, Op: string(argument.Op),
			})
		}
		out.Syscalls = append(out.Syscalls, converted)
	}
	return out
}
