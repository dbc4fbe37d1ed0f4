package sandbox

import (
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

func TestMetrics(t *testing.T) {
	in := &agentpb.StatsContainerResponse{
		CgroupStats: &agentpb.CgroupStats{
			CpuStats: &agentpb.CpuStats{CpuUsage: &agentpb.CpuUsage{TotalUsage: 3_000_000, UsageInUsermode: 2_000_000, UsageInKernelmode: 1_000_000}},
			MemoryStats: &agentpb.MemoryStats{
				Usage: &agentpb.MemoryData{Usage: 4096, Limit: 8192},
				Stats: map[string]uint64{"total_inactive_file": 7, "inactive_file": 8, "anon": 9},
			},
			PidsStats:    &agentpb.PidsStats{Current: 5, Limit: 6},
			HugetlbStats: map[string]*agentpb.HugetlbStats{"2MB": {Usage: 1}},
		},
		NetworkStats: []*agentpb.NetworkStats{{Name: "eth0", RxBytes: 10}},
	}
	v1 := Metrics1(in)
	if v1.CPU.Usage.Total != 3_000_000 || v1.Memory.Usage.Usage != 4096 || v1.Memory.Usage.Limit != 8192 ||
		v1.Memory.TotalInactiveFile != 7 || v1.Pids.Current != 5 || v1.Hugetlb[0].Pagesize != "2MB" || v1.Network[0].RxBytes != 10 {
		t.Errorf("v1: %v", v1)
	}
	v2 := Metrics2(in)
	if v2.CPU.UsageUsec != 3000 || v2.CPU.UserUsec != 2000 || v2.CPU.SystemUsec != 1000 || v2.Memory.Usage != 4096 ||
		v2.Memory.UsageLimit != 8192 || v2.Memory.InactiveFile != 8 || v2.Memory.Anon != 9 || v2.Pids.Limit != 6 {
		t.Errorf("v2: %v", v2)
	}
	// An agent may say nothing.
	if Metrics1(nil).Memory.Usage.Usage != 0 || Metrics2(nil).CPU.UsageUsec != 0 {
		t.Error("no figures")
	}
}
