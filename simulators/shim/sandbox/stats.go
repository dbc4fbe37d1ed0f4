package sandbox

import (
	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// Metrics1 converts the agent's figures to what containerd reads on a node with cgroup v1
// (Kata containerd-shim-v2/metrics.go statsToMetricsV1).
func Metrics1(stats *agentpb.StatsContainerResponse) *cgroup1.Metrics {
	group := stats.GetCgroupStats()
	cpu, memory := group.GetCpuStats(), group.GetMemoryStats()
	detail := memory.GetStats()
	metrics := &cgroup1.Metrics{
		Pids: &cgroup1.PidsStat{Current: group.GetPidsStats().GetCurrent(), Limit: group.GetPidsStats().GetLimit()},
		CPU: &cgroup1.CPUStat{
			Usage: &cgroup1.CPUUsage{
				Total:  cpu.GetCpuUsage().GetTotalUsage(),
				Kernel: cpu.GetCpuUsage().GetUsageInKernelmode(),
				User:   cpu.GetCpuUsage().GetUsageInUsermode(),
				PerCPU: cpu.GetCpuUsage().GetPercpuUsage(),
			},
			Throttling: &cgroup1.Throttle{
				Periods:          cpu.GetThrottlingData().GetPeriods(),
				ThrottledPeriods: cpu.GetThrottlingData().GetThrottledPeriods(),
				ThrottledTime:    cpu.GetThrottlingData().GetThrottledTime(),
			},
		},
		Memory: &cgroup1.MemoryStat{
			Usage: memoryEntry(memory.GetUsage()), Swap: memoryEntry(memory.GetSwapUsage()), Kernel: memoryEntry(memory.GetKernelUsage()),
			Cache: memory.GetCache(), RSS: detail["rss"], RSSHuge: detail["rss_huge"], MappedFile: detail["mapped_file"],
			PgFault: detail["pgfault"], PgMajFault: detail["pgmajfault"],
			InactiveAnon: detail["inactive_anon"], ActiveAnon: detail["active_anon"],
			InactiveFile: detail["inactive_file"], ActiveFile: detail["active_file"],
			TotalCache: detail["total_cache"], TotalRSS: detail["total_rss"],
			TotalPgFault: detail["total_pgfault"], TotalPgMajFault: detail["total_pgmajfault"],
			TotalInactiveAnon: detail["total_inactive_anon"], TotalActiveAnon: detail["total_active_anon"],
			TotalInactiveFile: detail["total_inactive_file"], TotalActiveFile: detail["total_active_file"],
			HierarchicalMemoryLimit: detail["hierarchical_memory_limit"],
		},
	}
	for size, huge := range group.GetHugetlbStats() {
		metrics.Hugetlb = append(metrics.Hugetlb, &cgroup1.HugetlbStat{
			Pagesize: size, Usage: huge.GetUsage(), Max: huge.GetMaxUsage(), Failcnt: huge.GetFailcnt(),
		})
	}
	for _, network := range stats.GetNetworkStats() {
		metrics.Network = append(metrics.Network, &cgroup1.NetworkStat{
			Name:    network.GetName(),
			RxBytes: network.GetRxBytes(), RxPackets: network.GetRxPackets(), RxErrors: network.GetRxErrors(), RxDropped: network.GetRxDropped(),
			TxBytes: network.GetTxBytes(), TxPackets: network.GetTxPackets(), TxErrors: network.GetTxErrors(), TxDropped: network.GetTxDropped(),
		})
	}
	return metrics
}

func memoryEntry(in *agentpb.MemoryData) *cgroup1.MemoryEntry {
	return &cgroup1.MemoryEntry{Usage: in.GetUsage(), Limit: in.GetLimit(), Max: in.GetMaxUsage(), Failcnt: in.GetFailcnt()}
}

// Metrics2 converts the agent's figures to what containerd reads on a node with cgroup v2. The agent speaks of
// nanoseconds, cgroup v2 of microseconds.
func Metrics2(stats *agentpb.StatsContainerResponse) *cgroup2.Metrics {
	group := stats.GetCgroupStats()
	cpu, memory := group.GetCpuStats(), group.GetMemoryStats()
	detail := memory.GetStats()
	metrics := &cgroup2.Metrics{
		Pids: &cgroup2.PidsStat{Current: group.GetPidsStats().GetCurrent(), Limit: group.GetPidsStats().GetLimit()},
		CPU: &cgroup2.CPUStat{
			UsageUsec:     cpu.GetCpuUsage().GetTotalUsage() / 1000,
			UserUsec:      cpu.GetCpuUsage().GetUsageInUsermode() / 1000,
			SystemUsec:    cpu.GetCpuUsage().GetUsageInKernelmode() / 1000,
			NrPeriods:     cpu.GetThrottlingData().GetPeriods(),
			NrThrottled:   cpu.GetThrottlingData().GetThrottledPeriods(),
			ThrottledUsec: cpu.GetThrottlingData().GetThrottledTime() / 1000,
		},
		Memory: &cgroup2.MemoryStat{
			Usage: memory.GetUsage().GetUsage(), UsageLimit: memory.GetUsage().GetLimit(), MaxUsage: memory.GetUsage().GetMaxUsage(),
			SwapUsage: memory.GetSwapUsage().GetUsage(), SwapLimit: memory.GetSwapUsage().GetLimit(),
			Anon: detail["anon"], File: detail["file"], KernelStack: detail["kernel_stack"], Slab: detail["slab"],
			Sock: detail["sock"], Shmem: detail["shmem"], FileMapped: detail["file_mapped"],
			InactiveAnon: detail["inactive_anon"], ActiveAnon: detail["active_anon"],
			InactiveFile: detail["inactive_file"], ActiveFile: detail["active_file"],
			Unevictable: detail["unevictable"], Pgfault: detail["pgfault"], Pgmajfault: detail["pgmajfault"],
		},
	}
	for size, huge := range group.GetHugetlbStats() {
		metrics.Hugetlb = append(metrics.Hugetlb, &cgroup2.HugeTlbStat{
			Pagesize: size, Current: huge.GetUsage(), Max: huge.GetMaxUsage(), Failcnt: huge.GetFailcnt(),
		})
	}
	for _, network := range stats.GetNetworkStats() {
		metrics.Network = append(metrics.Network, &cgroup2.NetworkStat{
			Name:    network.GetName(),
			RxBytes: network.GetRxBytes(), RxPackets: network.GetRxPackets(), RxErrors: network.GetRxErrors(), RxDropped: network.GetRxDropped(),
			TxBytes: network.GetTxBytes(), TxPackets: network.GetTxPackets(), TxErrors: network.GetTxErrors(), TxDropped: network.GetTxDropped(),
		})
	}
	return metrics
}
