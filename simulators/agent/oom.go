package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// oomBacklog is how many events wait for somebody to ask for them; more are
// lost (Kata src/agent/src/sandbox.rs).
const oomBacklog = 100

// GetOOMEvent blocks until a container runs out of memory, or the sandbox ends.
func (a *Agent) GetOOMEvent(ctx context.Context, r *pb.GetOOMEventRequest) (*pb.OOMEvent, error) {
	return gate(ctx, a, "GetOOMEvent", r, func(ctx context.Context, _ *pb.GetOOMEventRequest) (*pb.OOMEvent, error) {
		select {
		case id := <-a.oom:
			return &pb.OOMEvent{ContainerId: id}, nil
		case <-a.done:
		case <-ctx.Done():
		}
		return nil, said(codes.Internal, "")
	})
}

// watchMemory has GetOOMEvent told whenever a container runs out of memory,
// until the container is removed. The sandbox's own is not watched.
func (a *Agent) watchMemory(c *container) error {
	if c.id == a.sandboxID {
		return nil
	}
	watch, root := watchLegacy, "/sys/fs/cgroup/memory"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		watch, root = watchUnified, "/sys/fs/cgroup"
	}
	events, happened, err := watch(filepath.Join(root, c.cgroup))
	if err != nil {
		return fmt.Errorf("watch the memory of %s: %w", c.id, err)
	}
	c.memory = events
	go a.tellOOM(c.id, events, happened)
	return nil
}

func (a *Agent) tellOOM(id string, events io.Reader, happened func() bool) {
	for buffer := make([]byte, 4096); ; {
		if _, err := events.Read(buffer); err != nil {
			return
		}
		if !happened() {
			continue
		}
		select {
		case a.oom <- id:
		default:
		}
	}
}

// watchLegacy watches on cgroup v1. The end of the cgroup is an event, too.
func watchLegacy(dir string) (events *os.File, happened func() bool, err error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	events = os.NewFile(uintptr(fd), "oom events")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0); err != nil {
		events.Close()
		return nil, nil, err
	}
	return events, func() bool {
		_, err := os.Stat(dir)
		return err == nil
	}, nil
}

// watchUnified watches on cgroup v2, whose file changes for other reasons, too.
func watchUnified(dir string) (events *os.File, happened func() bool, err error) {
	path := filepath.Join(dir, "memory.events")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	events = os.NewFile(uintptr(fd), "oom events")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		events.Close()
		return nil, nil, err
	}
	seen := keyed(path)["oom_kill"]
	return events, func() bool {
		before := seen
		seen = max(seen, keyed(path)["oom_kill"])
		return seen > before
	}, nil
}
