package agent

import (
	"context"
	"testing"
	"time"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// A container that runs out of memory is named, whichever of its processes
// pays for it; one that ends otherwise, or is removed, is not.
func TestOutOfMemory(t *testing.T) {
	g := startGuest(t, guestPolicy())
	if _, err := g.Agent.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Hostname: "the-pod", SandboxId: sandbox, Storages: []*pb.Storage{{
		Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: stateDir + "/sandbox/shm", Options: []string{"mode=1777"},
	}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Agent.CopyFile(t.Context(), &pb.CopyFileRequest{Path: sharedDir + workload + "-hello", FileSize: 6, FileMode: 0o100644, DirMode: 0x800001e8, Data: []byte("hello\n")}); err != nil {
		t.Fatal(err)
	}
	g.create(sandbox, "pause", "/ignored")
	g.create(workload, "busybox", "/busybox", "sleep", "1000")
	if err := g.exec("modest", false, "exit 9"); err != nil {
		t.Fatal(err)
	}
	if code := g.wait(workload, "modest"); code != 9 {
		t.Errorf("exit code %d, want 9", code)
	}
	if err := g.exec("greedy", false, "exec /busybox tail /dev/zero"); err != nil {
		t.Fatal(err)
	}
	if code := g.wait(workload, "greedy"); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	event, err := g.Agent.GetOOMEvent(t.Context(), &pb.GetOOMEventRequest{})
	if err != nil || event.ContainerId != workload {
		t.Errorf("got %v, %v, want %s", event, err, workload)
	}
	if _, err := g.Agent.RemoveContainer(t.Context(), &pb.RemoveContainerRequest{ContainerId: workload}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if event, err := g.Agent.GetOOMEvent(ctx, &pb.GetOOMEventRequest{}); err == nil {
		t.Errorf("%v: nobody ran out of memory again", event)
	}
}
