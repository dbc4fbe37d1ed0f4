package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// A container that runs out of memory is named, whichever of its processes
// pays for it; one that ends otherwise, or is removed, is not.
func TestOutOfMemory(t *testing.T) {
	g := startGuest(t, guestPolicy())
	g.sandbox()
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

// On cgroup v2 the file changes whenever memory is short; only a kill counts,
// and each kill once.
func TestOutOfMemoryUnified(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")
	events, happened, err := watchUnified(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{oom: make(chan string, oomBacklog)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.tellOOM("c1", events, happened)
	}()
	write("low 0\nhigh 0\nmax 7\noom 1\noom_kill 0\n")
	write("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n")
	if id := <-a.oom; id != "c1" {
		t.Errorf("got %q, want c1", id)
	}
	write("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
	write("low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\n")
	<-a.oom
	events.Close()
	<-ended
	if len(a.oom) != 0 {
		t.Errorf("%d events too many", len(a.oom))
	}
}
