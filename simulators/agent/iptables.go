package agent

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc/codes"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// iptablesWait is how long iptables-restore waits for its lock, in seconds
// (Kata src/agent/src/rpc.rs, IPTABLES_RESTORE_WAIT_SEC).
const iptablesWait = "5"

// iptables is where the guest image has a program of that family; where it has
// none, the path that the agent then fails to run.
func iptables(v6 bool, what string) string {
	name := "/iptables-" + what
	if v6 {
		name = "/ip6tables-" + what
	}
	if _, err := os.Stat("/usr/sbin" + name); err == nil {
		return "/usr/sbin" + name
	}
	return "/sbin" + name
}

// GetIPTables implements grpc.AgentService.
func (a *Agent) GetIPTables(ctx context.Context, r *pb.GetIPTablesRequest) (*pb.GetIPTablesResponse, error) {
	return gate(ctx, a, "GetIPTables", r, func(_ context.Context, r *pb.GetIPTablesRequest) (*pb.GetIPTablesResponse, error) {
		out, err := a.children.run(nil, iptables(r.IsIpv6, "save"))
		if err != nil {
			return nil, ioStatus(err)
		}
		return &pb.GetIPTablesResponse{Data: out.stdout}, nil
	})
}

// SetIPTables implements grpc.AgentService.
func (a *Agent) SetIPTables(ctx context.Context, r *pb.SetIPTablesRequest) (*pb.SetIPTablesResponse, error) {
	return gate(ctx, a, "SetIPTables", r, func(_ context.Context, r *pb.SetIPTablesRequest) (*pb.SetIPTablesResponse, error) {
		program := iptables(r.IsIpv6, "restore")
		out, err := a.children.run(r.Data, program, "--wait", iptablesWait)
		if err != nil {
			return nil, ioStatus(err)
		}
		if out.code != 0 {
			return nil, said(codes.Internal, fmt.Sprintf("%s failed: %q", program, out.stderr))
		}
		return &pb.SetIPTablesResponse{Data: out.stdout}, nil
	})
}
