package wirespec

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestNamespaces(t *testing.T) {
	for name, test := range map[string]struct {
		in     []specs.LinuxNamespace
		want   string
		shared bool
	}{
		"pod":          {[]specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network", Path: "/n"}}, "ipc uts mount ", false},
		"workload":     {[]specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc", Path: "/i"}, {Type: "uts", Path: "/u"}, {Type: "mount"}, {Type: "network", Path: "/n"}, {Type: "cgroup"}, {Type: "time"}}, "ipc uts mount ", false},
		"shared pid":   {[]specs.LinuxNamespace{{Type: "pid", Path: "/p"}, {Type: "mount"}}, "mount ", true},
		"host network": {[]specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "mount"}}, "ipc mount ", false},
	} {
		t.Run(name, func(t *testing.T) {
			out, shared := Constrained(&specs.Spec{Linux: &specs.Linux{Namespaces: test.in}}, Constraints{})
			got := ""
			for _, namespace := range out.Linux.Namespaces {
				got += namespace.Type + " " + namespace.Path
			}
			if got != test.want || shared != test.shared {
				t.Errorf("got %q %v", got, shared)
			}
		})
	}
}

func TestSeccomp(t *testing.T) {
	code := uint(38)
	spec := &specs.Spec{Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
		Syscalls: []specs.LinuxSyscall{{
			Names: []string{"clone"}, Action: specs.ActErrno, ErrnoRet: &code,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: 2, ValueTwo: 3, Op: specs.OpMaskedEqual}},
		}},
	}}}
	if out, _ := Constrained(spec, Constraints{}); out.Linux.Seccomp != nil {
		t.Error("seccomp was passed on")
	}
	out, _ := Constrained(spec, Constraints{PassSeccomp: true})
	got := out.Linux.Seccomp
	if got == nil || got.DefaultAction != "SCMP_ACT_ERRNO" || got.Architectures[0] != "SCMP_ARCH_X86_64" || got.Flags[0] != "SECCOMP_FILTER_FLAG_LOG" {
		t.Fatalf("got %v", got)
	}
	if call := got.Syscalls[0]; call.Names[0] != "clone" || call.GetErrnoret() != 38 || call.Args[0].Op != "SCMP_CMP_MASKED_EQ" || call.Args[0].ValueTwo != 3 {
		t.Errorf("call %v", got.Syscalls[0])
	}
}

// TestConstrained: what only concerns the node goes, the rest of a process stays.
func TestConstrained(t *testing.T) {
	shares := uint64(2)
	out, _ := Constrained(&specs.Spec{
		Version: "1.3.0",
		Process: &specs.Process{
			SelinuxLabel: "label", NoNewPrivileges: true, ConsoleSize: &specs.Box{Height: 24, Width: 80},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 2, Soft: 1}},
		},
		Root:  &specs.Root{Path: "/host", Readonly: true},
		Hooks: &specs.Hooks{},
		Linux: &specs.Linux{
			MountLabel: "label",
			Resources: &specs.LinuxResources{
				CPU:     &specs.LinuxCPU{Shares: &shares, Cpus: "0-1", Mems: "0"},
				Pids:    &specs.LinuxPids{},
				Devices: []specs.LinuxDeviceCgroup{{}}, BlockIO: &specs.LinuxBlockIO{}, Network: &specs.LinuxNetwork{},
				HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}},
			},
		},
	}, Constraints{RootPath: "/guest"})
	r := out.Linux.Resources
	if out.Hooks != nil || out.Process.SelinuxLabel != "" || out.Linux.MountLabel != "" || out.Root.Path != "/guest" || !out.Root.Readonly ||
		r.Pids != nil || r.Devices != nil || r.BlockIO != nil || r.Network != nil || r.CPU.Cpus != "" || r.CPU.Mems != "" ||
		r.CPU.Shares != 2 || r.Memory != nil || r.HugepageLimits[0].Pagesize != "2MB" {
		t.Errorf("got %v", out)
	}
	if p := out.Process; !p.NoNewPrivileges || p.ConsoleSize.Height != 24 || p.Rlimits[0].Type != "RLIMIT_NOFILE" {
		t.Errorf("process %v", p)
	}
}
