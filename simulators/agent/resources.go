package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// runtimeResources converts limits: what is zero was not asked for (Kata
// src/agent/rustjail/src/cgroups/fs/mod.rs). Devices are the agent's own rule:
// the shim sends none, and a container gets the usual ones, which runc adds.
func (a *Agent) runtimeResources(r *pb.LinuxResources) *specs.LinuxResources {
	out := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if m := r.GetMemory(); m != nil {
		out.Memory = memoryLimits(m, a.limitsSwap())
	}
	if c := r.GetCPU(); c != nil {
		out.CPU = &specs.LinuxCPU{
			Cpus: c.Cpus, Mems: c.Mems, Shares: nonzero(c.Shares), Quota: nonzero(c.Quota), Period: nonzero(c.Period),
			RealtimeRuntime: nonzero(c.RealtimeRuntime), RealtimePeriod: nonzero(c.RealtimePeriod),
		}
	}
	if p := r.GetPids(); p != nil {
		limit := p.Limit
		if limit <= 0 {
			limit = -1 // as many as there may be
		}
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return out
}

func nonzero[N int64 | uint64](n N) *N {
	if n == 0 {
		return nil
	}
	return &n
}

// memoryLimits are nil without any. Memory without a limit has none with swap
// either; swap says nothing without a limit of memory.
func memoryLimits(m *pb.LinuxMemory, swap bool) *specs.LinuxMemory {
	out := &specs.LinuxMemory{Limit: nonzero(m.Limit), Reservation: nonzero(m.Reservation)}
	if swap && m.Limit != 0 {
		out.Swap = nonzero(m.Swap)
		if m.Limit == -1 {
			out.Swap = &m.Limit
		}
	}
	if *out == (specs.LinuxMemory{}) {
		return nil
	}
	return out
}

// limitsSwap reports whether the kernel accounts for swap. A VM's kernel does
// as its image says; this guest's is the machine's.
func (a *Agent) limitsSwap() bool {
	for _, path := range []string{"/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", filepath.Join("/sys/fs/cgroup", a.cgroupParent, "memory.swap.max")} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// addDevices has runc make the device nodes that the request names. A
// container may use those that the guest has: in a VM others are nobody's, but
// here they would be the machine's.
func addDevices(l *specs.Linux, devices []*pb.LinuxDevice) error {
	if len(devices) == 0 {
		return nil
	}
	have, err := guestDevices("/dev")
	if err != nil {
		return err
	}
	for _, d := range devices {
		mode := fs.FileMode(d.FileMode)
		l.Devices = append(l.Devices, specs.LinuxDevice{
			Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.UID, GID: &d.GID,
		})
		if have[device{d.Type, d.Major, d.Minor}] {
			l.Resources.Devices = append(l.Resources.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm",
			})
		}
	}
	return nil
}

// device is a device's number; its type is "c" or "b".
type device struct {
	kind         string
	major, minor int64
}

// guestDevices are those that have a node in dir.
func guestDevices(dir string) (map[device]bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[device]bool{}
	for _, e := range entries {
		if e.Type()&fs.ModeDevice == 0 {
			continue
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("devices of the guest: %w", err)
		}
		kind := "b"
		if e.Type()&fs.ModeCharDevice != 0 {
			kind = "c"
		}
		number := st.Sys().(*syscall.Stat_t).Rdev
		out[device{kind, int64(unix.Major(number)), int64(unix.Minor(number))}] = true
	}
	return out, nil
}
