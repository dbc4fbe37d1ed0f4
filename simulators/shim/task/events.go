package task

import (
	"sync"

	eventsapi "github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/coco-e2e/coco-e2e/simulators/shim/sandbox"
)

// topic is where containerd expects an event (containerd core/runtime/events.go).
func topic(event any) string {
	switch event.(type) {
	case *eventsapi.TaskCreate:
		return "/tasks/create"
	case *eventsapi.TaskStart:
		return "/tasks/start"
	case *eventsapi.TaskOOM:
		return "/tasks/oom"
	case *eventsapi.TaskExit:
		return "/tasks/exit"
	case *eventsapi.TaskDelete:
		return "/tasks/delete"
	case *eventsapi.TaskExecAdded:
		return "/tasks/exec-added"
	case *eventsapi.TaskExecStarted:
		return "/tasks/exec-started"
	case *eventsapi.TaskPaused:
		return "/tasks/paused"
	case *eventsapi.TaskResumed:
		return "/tasks/resumed"
	}
	return "/tasks/?"
}

// Started tells containerd that a process runs. Part of [sandbox.Events].
func (s *Service) Started(containerID, execID string) {
	if execID == "" {
		s.events.send(&eventsapi.TaskStart{ContainerID: containerID, Pid: pid()})
		return
	}
	s.events.send(&eventsapi.TaskExecStarted{ContainerID: containerID, ExecID: execID, Pid: pid()})
}

// Exited tells containerd that a process has ended. Part of [sandbox.Events].
func (s *Service) Exited(exit sandbox.Exit) {
	id := exit.ExecID
	if id == "" {
		id = exit.ContainerID
	}
	s.events.send(&eventsapi.TaskExit{
		ContainerID: exit.ContainerID, ID: id, Pid: pid(), ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At),
	})
}

// OutOfMemory tells containerd that a container ran out of memory. Part of [sandbox.Events].
func (s *Service) OutOfMemory(containerID string) {
	s.events.send(&eventsapi.TaskOOM{ContainerID: containerID})
}

// forwarder publishes events one after the other, so that a slow containerd holds up no process.
type forwarder struct {
	mu     sync.Mutex
	wake   sync.Cond
	queue  []any
	closed bool
	done   chan struct{}
}

func newForwarder(publish func(topic string, event any)) *forwarder {
	f := &forwarder{done: make(chan struct{})}
	f.wake.L = &f.mu
	go f.run(publish)
	return f
}

func (f *forwarder) run(publish func(topic string, event any)) {
	defer close(f.done)
	for {
		f.mu.Lock()
		for len(f.queue) == 0 && !f.closed {
			f.wake.Wait()
		}
		events := f.queue
		f.queue = nil
		f.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, event := range events {
			publish(topic(event), event)
		}
	}
}

func (f *forwarder) send(event any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, event)
	f.wake.Signal()
}

// close returns when everything sent before has been published.
func (f *forwarder) close() {
	f.mu.Lock()
	f.closed = true
	f.wake.Signal()
	f.mu.Unlock()
	<-f.done
}
