package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// statusLost is the exit status of a process whose end the agent could not tell (Kata containerd-shim-v2, exitCode255).
const statusLost = 255

// State of a process.
type State int

// States, in the order that a process goes through them.
const (
	Created State = iota
	Running
	Stopped
)

// Status of a process. Exit and At are set when it is stopped.
type Status struct {
	State State
	Exit  uint32
	At    time.Time
}

// Process is a container's own process or an exec session.
type Process struct {
	container *Container
	execID    string           // containerd's; empty for the container's own process
	guestID   string           // the agent's
	exec      *agentpb.Process // what an exec session runs
	io        IO

	mu            sync.Mutex
	status        Status
	ended         bool // exited was called
	streams       *streams
	height, width uint32
	done          chan struct{} // closed when the process is stopped
}

func newProcess(c *Container, execID, guestID string, io IO) *Process {
	return &Process{container: c, execID: execID, guestID: guestID, io: io, done: make(chan struct{})}
}

// newExec makes an exec session. As in Kata, the agent never learns containerd's exec id.
func newExec(c *Container, execID string, io IO) *Process {
	return newProcess(c, execID, uuid.NewString(), io)
}

// IO is where the process's streams are on the node.
func (p *Process) IO() IO { return p.io }

// Status of the process now.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// start runs request, which starts the process in the guest, and then follows the process to its end. After a failure
// the process can still be ended by Kill and by the container's Delete, so that the pod can be deleted. (Kata is stuck
// there until the shim is killed.)
func (p *Process) start(request func() error) error {
	if state := p.Status().State; state != Created {
		return fmt.Errorf("process %s was started before: %w", p.guestID, errdefs.ErrFailedPrecondition)
	}
	streams, err := openStreams(p)
	if err != nil {
		return err
	}
	if err := request(); err != nil {
		streams.close()
		return err
	}
	p.mu.Lock()
	if p.status.State == Created { // not killed meanwhile
		p.status.State = Running
	}
	p.streams = streams
	height, width := p.height, p.width
	p.mu.Unlock()
	streams.run()
	p.container.sandbox.options.Events.Started(p.container.options.ID, p.execID)
	if height != 0 && width != 0 {
		if err := p.resize(context.Background(), height, width); err != nil {
			log.L.WithError(err).Debug("TtyWinResize failed")
		}
	}
	go p.follow(streams)
	return nil
}

// follow waits for the process's end: first its output's, as the agent may forget a process once it was waited for.
func (p *Process) follow(streams *streams) {
	streams.drained()
	ctx := context.Background()
	status := uint32(statusLost)
	response, err := call(ctx, noTimeout, p.container.sandbox.agent.service.WaitProcess,
		&agentpb.WaitProcessRequest{ContainerId: p.container.options.ID, ExecId: p.guestID})
	if err != nil {
		log.L.WithError(err).WithField("process", p.guestID).Warn("WaitProcess failed: the exit status is lost")
	} else {
		status = uint32(response.Status)
	}
	streams.close()
	if p.execID == "" {
		p.container.terminate(ctx)
	}
	p.exited(status, p.container.sandbox.options.Events.Exited)
}

// exited records the end of a process, once. It is told before it can be seen, so that containerd hears of the end
// before it can ask for the process's deletion.
func (p *Process) exited(status uint32, tell func(Exit)) {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended = true
	p.mu.Unlock()
	at := time.Now()
	if tell != nil {
		tell(Exit{ContainerID: p.container.options.ID, ExecID: p.execID, Status: status, At: at})
	}
	p.mu.Lock()
	p.status = Status{State: Stopped, Exit: status, At: at}
	p.mu.Unlock()
	close(p.done)
}

// Wait returns the process's status when it is stopped.
func (p *Process) Wait(ctx context.Context) (Status, error) {
	select {
	case <-p.done:
		return p.Status(), nil
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

// Kill sends a signal to the process; in the guest a container's signal goes to its whole cgroup.
func (p *Process) Kill(ctx context.Context, signal uint32) error {
	fatal := signal == uint32(unix.SIGKILL) || signal == uint32(unix.SIGTERM)
	switch p.Status().State {
	case Stopped:
		// containerd kills pods more than once; that is no mistake.
		if fatal {
			return nil
		}
		return fmt.Errorf("process %s has finished: %w", p.guestID, errdefs.ErrNotFound)
	case Created:
		if !fatal {
			return fmt.Errorf("process %s was not started: %w", p.guestID, errdefs.ErrFailedPrecondition)
		}
		if p.execID == "" {
			p.container.terminate(ctx)
		}
		p.exited(128+signal, p.container.sandbox.options.Events.Exited)
		return nil
	}
	exec := ""
	if p.execID != "" {
		exec = p.guestID
	}
	err := p.container.sandbox.agent.signal(ctx, p.container.options.ID, exec, signal)
	if err != nil && fatal && p.container.sandbox.stopping() {
		return nil // the process ended by it, and the sandbox's connection with it, before the answer came
	}
	return err
}

// Resize sets the size of the process's terminal, at its start if it has not started yet.
func (p *Process) Resize(ctx context.Context, height, width uint32) error {
	p.mu.Lock()
	p.height, p.width = height, width
	state := p.status.State
	p.mu.Unlock()
	if state != Running {
		return nil
	}
	return p.resize(ctx, height, width)
}

func (p *Process) resize(ctx context.Context, height, width uint32) error {
	_, err := call(ctx, defaultTimeout, p.container.sandbox.agent.service.TtyWinResize, &agentpb.TtyWinResizeRequest{
		ContainerId: p.container.options.ID, ExecId: p.guestID, Row: height, Column: width,
	})
	return err
}

// CloseStdin tells the guest that no more input comes, once all that came has been sent.
func (p *Process) CloseStdin(ctx context.Context) error {
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	if streams == nil || p.io.Stdin == "" {
		return nil
	}
	select {
	case <-streams.stdinSent:
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := call(ctx, defaultTimeout, p.container.sandbox.agent.service.CloseStdin,
		&agentpb.CloseStdinRequest{ContainerId: p.container.options.ID, ExecId: p.guestID})
	return err
}
