package agent

import (
	"context"
	"fmt"
	"os"
	"strings"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// GetMetrics answers in Prometheus' text format with what the guest's kernel
// says of the agent and of memory, under the names of the agent's metrics
// (Kata src/agent/src/metrics.rs). Of those it has the gauges below.
func (a *Agent) GetMetrics(ctx context.Context, r *pb.GetMetricsRequest) (*pb.Metrics, error) {
	return gate(ctx, a, "GetMetrics", r, func(context.Context, *pb.GetMetricsRequest) (*pb.Metrics, error) {
		var b strings.Builder
		gauge := func(name, help string, value uint64) {
			fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", name, help, name, name, value)
		}
		a.mu.Lock()
		containers := len(a.containers)
		a.mu.Unlock()
		gauge("kata_agent_containers", "Containers of this guest.", uint64(containers))
		status := kilobytes("/proc/self/status")
		gauge("kata_agent_total_rss", "Agent process total RSS size, bytes.", status["VmRSS"]*1024)
		gauge("kata_agent_total_vm", "Agent process total VM size, bytes.", status["VmSize"]*1024)
		gauge("kata_agent_threads", "Agent process threads.", status["Threads"])
		return &pb.Metrics{Metrics: b.String()}, nil
	})
}

// kilobytes reads "Name: 123 kB" lines, and those without a unit.
func kilobytes(path string) map[string]uint64 {
	out := map[string]uint64{}
	b, err := os.ReadFile(path)
	if err != nil {
		return out
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		name, rest, ok := strings.Cut(line, ":")
		var n uint64
		if _, err := fmt.Sscan(rest, &n); ok && err == nil {
			out[name] = n
		}
	}
	return out
}
