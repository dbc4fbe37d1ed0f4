package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// StatsContainer implements grpc.AgentService.
func (a *Agent) StatsContainer(ctx context.Context, r *pb.StatsContainerRequest) (*pb.StatsContainerResponse, error) {
	return gate(ctx, a, "StatsContainer", r, func(context.Context, *pb.StatsContainerRequest) (*pb.StatsContainerResponse, error) {
		c := a.find(r.ContainerId)
		if c == nil {
			return nil, errNoContainerOf()
		}
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			return &pb.StatsContainerResponse{CgroupStats: unified("/sys/fs/cgroup" + c.cgroup)}, nil
		}
		return &pb.StatsContainerResponse{CgroupStats: legacy(c.cgroup)}, nil
	})
}

// legacy reads cgroup v1; a controller that is not mounted gives zeros.
func legacy(path string) *pb.CgroupStats {
	at := func(controller, file string) string { return filepath.Join("/sys/fs/cgroup", controller, path, file) }
	cpu := keyed(at("cpuacct", "cpuacct.stat"))
	throttled := keyed(at("cpu", "cpu.stat"))
	const tick = 10_000_000 // ns: USER_HZ is 100
	return &pb.CgroupStats{
		CpuStats: &pb.CpuStats{
			CpuUsage: &pb.CpuUsage{
				TotalUsage: number(at("cpuacct", "cpuacct.usage")), UsageInKernelmode: cpu["system"] * tick, UsageInUsermode: cpu["user"] * tick,
			},
			ThrottlingData: &pb.ThrottlingData{Periods: throttled["nr_periods"], ThrottledPeriods: throttled["nr_throttled"], ThrottledTime: throttled["throttled_time"]},
		},
		MemoryStats: memory(keyed(at("memory", "memory.stat")), "cache",
			&pb.MemoryData{
				Usage: number(at("memory", "memory.usage_in_bytes")), MaxUsage: number(at("memory", "memory.max_usage_in_bytes")),
				Failcnt: number(at("memory", "memory.failcnt")), Limit: number(at("memory", "memory.limit_in_bytes")),
			}),
		PidsStats: &pb.PidsStats{Current: number(at("pids", "pids.current")), Limit: number(at("pids", "pids.max"))},
	}
}

// unified reads cgroup v2.
func unified(path string) *pb.CgroupStats {
	at := func(file string) string { return filepath.Join(path, file) }
	cpu := keyed(at("cpu.stat"))
	return &pb.CgroupStats{
		CpuStats: &pb.CpuStats{
			CpuUsage:       &pb.CpuUsage{TotalUsage: cpu["usage_usec"] * 1000, UsageInKernelmode: cpu["system_usec"] * 1000, UsageInUsermode: cpu["user_usec"] * 1000},
			ThrottlingData: &pb.ThrottlingData{Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledTime: cpu["throttled_usec"] * 1000},
		},
		MemoryStats: memory(keyed(at("memory.stat")), "file",
			&pb.MemoryData{Usage: number(at("memory.current")), MaxUsage: number(at("memory.peak")), Limit: number(at("memory.max"))}),
		PidsStats: &pb.PidsStats{Current: number(at("pids.current")), Limit: number(at("pids.max"))},
	}
}

func memory(stats map[string]uint64, cache string, usage *pb.MemoryData) *pb.MemoryStats {
	return &pb.MemoryStats{Cache: stats[cache], Usage: usage, SwapUsage: &pb.MemoryData{}, KernelUsage: &pb.MemoryData{}, UseHierarchy: true, Stats: stats}
}

// number reads a file of one number; "max" and what is not there are 0.
func number(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// keyed reads a file of "name number" lines.
func keyed(path string) map[string]uint64 {
	out := map[string]uint64{}
	b, err := os.ReadFile(path)
	if err != nil {
		return out
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) == 2 {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				out[f[0]] = n
			}
		}
	}
	return out
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
