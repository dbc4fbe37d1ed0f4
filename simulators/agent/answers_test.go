package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// waitedFor: a process that was waited for is no more, and its container is.
func (g *guest) waitedFor(t *testing.T) {
	ctx := t.Context()
	for id, want := range map[string]string{workload: "InvalidExecId", "": "InitProcessNotFound"} {
		_, err := g.Agent.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: workload, ExecId: id})
		if s := status.Convert(err); s.Code() != codes.NotFound || s.Message() != want {
			t.Errorf("waited for %q again: %v, want NotFound %s", id, err, want)
		}
	}
	if _, err := g.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: workload, Signal: 15}); status.Code(err) != codes.NotFound {
		t.Errorf("SIGTERM: %v, want NotFound", err)
	}
	if _, err := g.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: workload, Signal: 9}); err != nil {
		t.Errorf("SIGKILL is for the container: %v", err)
	}
}

// iptables are not in the test's image.
func (g *guest) iptables(t *testing.T) {
	const want = `Os { code: 2, kind: NotFound, message: "No such file or directory" }`
	_, get := g.Agent.GetIPTables(t.Context(), &pb.GetIPTablesRequest{})
	_, set := g.Agent.SetIPTables(t.Context(), &pb.SetIPTablesRequest{IsIpv6: true, Data: []byte("*filter\nCOMMIT\n")})
	for _, err := range []error{get, set} {
		if s := status.Convert(err); s.Code() != codes.Internal || s.Message() != want {
			t.Errorf("got %v, want Internal %s", err, want)
		}
	}
}

// volumes are measured, and memory takes another size.
func (g *guest) volumes(t *testing.T) {
	const shm = stateDir + "/sandbox/shm"
	for _, size := range []uint64{64 << 20, 32 << 20} {
		if size != 64<<20 {
			_, err := g.Agent.UpdateEphemeralMounts(t.Context(), &pb.UpdateEphemeralMountsRequest{Storages: []*pb.Storage{{
				Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: shm, Options: []string{"nosuid", "fsgid=0", fmt.Sprintf("size=%d", size)},
			}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		r, err := g.Agent.GetVolumeStats(t.Context(), &pb.VolumeStatsRequest{VolumeGuestPath: shm})
		if err != nil || r.Usage[0].Total != size {
			t.Errorf("got %v (%v), want %d bytes", r, err, size)
		}
	}
}

// policyLog has what the policy was asked, as testcases of a policy are made of it.
func (g *guest) policyLog(t *testing.T) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", g.pid, policyLog))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for line := range strings.Lines(string(b)) {
		var entry struct {
			Kind    string         `json:"kind"`
			Request map[string]any `json:"request"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Request == nil {
			t.Fatalf("%s: %v", line, err)
		}
		kinds[entry.Kind]++
	}
	if kinds["CreateContainerRequest"] != 2 || kinds["AllowRequestsFailingPolicy"] != 1 || kinds["ReadStreamRequest"] != 0 {
		t.Errorf("requests in the log: %v", kinds)
	}
}
