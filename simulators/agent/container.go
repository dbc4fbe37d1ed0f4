package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// validID is what a container or exec may be called (Kata src/agent/src/rpc.rs, verify_id).
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// container is one that was created.
type container struct {
	id        string
	bundle    string
	init      *process
	processes map[string]*process // execs by id
	cgroup    string
	memory    io.Closer // the watch of its memory; nil without one
	// starting is held for reading while a process is started in the container and for writing by its removal: an
	// execed process may end the container before it is known that it was started.
	starting sync.RWMutex
}

// runcLog is where runc says what went wrong with a container.
func runcLog(id string) string { return filepath.Join(stateDir, id, "runc.log") }

func newRunc(id string) *runc.Runc {
	return &runc.Runc{Root: "/run/runc", Log: runcLog(id), LogFormat: runc.JSON}
}

// runcFailed adds runc's own last words to the error of a call.
func runcFailed(id string, err error) error {
	var last struct {
		Msg string `json:"msg"`
	}
	if json.Unmarshal([]byte(lastLine(runcLog(id))), &last) != nil || last.Msg == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, last.Msg)
}

// createContainer makes the container's root and starts its first process,
// which waits for StartContainer. The caller holds the lifecycle.
func (a *Agent) createContainer(ctx context.Context, r *pb.CreateContainerRequest) error {
	if !validID.MatchString(r.ContainerId) {
		return fmt.Errorf("invalid container ID: %q", r.ContainerId)
	}
	if r.OCI == nil {
		return errors.New(errnoText(unix.EINVAL)) // no OCI
	}
	if a.find(r.ContainerId) != nil {
		return fmt.Errorf("container %s exists", r.ContainerId)
	}
	if len(r.Devices) > 0 {
		return fmt.Errorf("Unknown device type %s", r.Devices[0].Type)
	}
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return err
	}
	// Nobody else's directory, which a failure would remove.
	bundle := filepath.Join(stateDir, r.ContainerId)
	if err := os.Mkdir(bundle, 0o755); err != nil {
		return fmt.Errorf("bundle of container %s: %w", r.ContainerId, err)
	}
	mounted := len(a.mounts)
	c, err := a.makeContainer(ctx, r, bundle)
	if err != nil {
		return errors.Join(err, a.rollBack(ctx, r.ContainerId, bundle, mounted))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.containers[r.ContainerId] = c
	return nil
}

func (a *Agent) makeContainer(ctx context.Context, r *pb.CreateContainerRequest, bundle string) (*container, error) {
	if err := a.addStorages(ctx, r.Storages, r.ContainerId); err != nil {
		return nil, err
	}
	return a.runcCreate(ctx, r, bundle)
}

// rollBack takes back what a container's creation left when it failed: what
// runc made, what was mounted, the container's root (Kata src/agent/src/rpc.rs,
// do_create_container). Whoever waited for the creation may be gone.
func (a *Agent) rollBack(ctx context.Context, id, bundle string, mounted int) error {
	err := newRunc(id).Delete(context.WithoutCancel(ctx), id, &runc.DeleteOpts{Force: true})
	if err != nil && gone(err) {
		err = nil
	}
	errs := []error{err}
	for _, m := range slices.Backward(a.mounts[mounted:]) {
		errs = append(errs, unmount(m))
	}
	a.mounts = a.mounts[:mounted]
	return errors.Join(append(errs, os.RemoveAll(bundle))...)
}

func (a *Agent) runcCreate(ctx context.Context, r *pb.CreateContainerRequest, bundle string) (*container, error) {
	s, err := a.runtimeSpec(r)
	if err != nil {
		return nil, err
	}
	if r.ContainerId == a.sandboxID {
		// The sandbox's process is the guest image's own.
		pause, err := pauseProcess()
		if err != nil {
			return nil, err
		}
		s.Process.Args, s.Process.Cwd, s.Process.Env = pause.Args, pause.Cwd, pause.Env
	}
	unseal(ctx, s)
	if err := writeJSON(filepath.Join(bundle, "config.json"), s); err != nil {
		return nil, err
	}
	st, err := newStreams(s.Process.Terminal, int(s.Process.User.UID), int(s.Process.User.GID))
	if err != nil {
		return nil, err
	}
	pidFile := filepath.Join(bundle, "init.pid")
	p := &process{exited: make(chan struct{})}
	pid, exit, err := a.children.start(func() (int, error) {
		opts := &runc.CreateOpts{IO: st.io, PidFile: pidFile}
		if st.socket != nil {
			opts.ConsoleSocket = st.socket
		}
		if err := newRunc(r.ContainerId).Create(ctx, r.ContainerId, bundle, opts); err != nil {
			return 0, err
		}
		return readPID(pidFile)
	})
	if err != nil {
		st.close()
		return nil, fmt.Errorf("create container: %w", runcFailed(r.ContainerId, err))
	}
	p.pid = pid
	if err := st.attach(ctx, p); err != nil {
		return nil, err
	}
	p.watch(exit)
	return &container{id: r.ContainerId, bundle: bundle, init: p, processes: map[string]*process{}, cgroup: s.Linux.CgroupsPath}, nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

func readPID(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// exec starts one more process in a container.
func (a *Agent) exec(ctx context.Context, c *container, r *pb.ExecProcessRequest) error {
	if !validID.MatchString(r.ExecId) {
		return fmt.Errorf("invalid exec ID: %q", r.ExecId)
	}
	// The id is taken before the process runs: two requests cannot both have it.
	p := &process{exited: make(chan struct{})}
	if !a.claim(c, r.ExecId, p) {
		return fmt.Errorf("exec %s exists", r.ExecId)
	}
	c.starting.RLock()
	defer c.starting.RUnlock()
	if err := a.runcExec(ctx, c, r, p); err != nil {
		a.forget(c, r.ExecId)
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p.ready = true
	return nil
}

func (a *Agent) claim(c *container, execID string, p *process) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.processes[execID] != nil {
		return false
	}
	c.processes[execID] = p
	return true
}

func (a *Agent) forget(c *container, execID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(c.processes, execID)
}

func (a *Agent) runcExec(ctx context.Context, c *container, r *pb.ExecProcessRequest, p *process) error {
	spec, err := runtimeProcess(r.Process)
	if err != nil {
		return err
	}
	st, err := newStreams(spec.Terminal, int(spec.User.UID), int(spec.User.GID))
	if err != nil {
		return err
	}
	pidFile := filepath.Join(c.bundle, r.ExecId+".pid")
	defer os.Remove(pidFile)
	pid, exit, err := a.children.start(func() (int, error) {
		opts := &runc.ExecOpts{IO: st.io, PidFile: pidFile, Detach: true}
		if st.socket != nil {
			opts.ConsoleSocket = st.socket
		}
		if err := newRunc(c.id).Exec(ctx, c.id, *spec, opts); err != nil {
			return 0, err
		}
		return readPID(pidFile)
	})
	if err != nil {
		text := runcFailed(c.id, err).Error()
		if st.io != nil {
			said, _ := newOutput(st.io.Stderr()).read(4096)
			text += ": " + strings.TrimSpace(string(said))
		}
		st.close()
		return errors.New(text)
	}
	p.pid = pid
	if err := st.attach(ctx, p); err != nil {
		return err
	}
	p.watch(exit)
	return nil
}

// process finds one by the ids of a request; "" and the container's own id
// name its first process. One that was waited for is no more.
func (a *Agent) process(containerID, execID string) (*container, *process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[containerID]
	if c == nil {
		return nil, nil, errNoContainerOfProcess()
	}
	first := execID == "" || execID == containerID
	switch p := c.processes[execID]; {
	case first && !c.init.reaped:
		return c, c.init, nil
	case execID == "":
		return nil, nil, errNoInit()
	case !first && p != nil && p.ready:
		return c, p, nil
	}
	return nil, nil, errNoExec()
}

// reap forgets a process whose end somebody was told of. Its container's
// removal, its other processes and their signals go on.
func (a *Agent) reap(c *container, p *process, execID string) {
	a.mu.Lock()
	p.reaped = true
	if p != c.init && c.processes[execID] == p {
		delete(c.processes, execID)
	}
	a.mu.Unlock()
	p.close()
}

// killAll ends every process of a container, whether or not its first one
// still runs.
func (a *Agent) killAll(ctx context.Context, id string) error {
	c := a.find(id)
	if c == nil {
		return internal(fmt.Errorf("Invalid container id %s", id))
	}
	return c.killAll(ctx)
}

func (c *container) killAll(ctx context.Context) error {
	err := newRunc(c.id).Kill(ctx, c.id, int(unix.SIGKILL), &runc.KillOpts{All: true})
	if err == nil || gone(err) {
		return nil
	}
	return err
}

// signal sends n to a process. A first process that has no handler for SIGTERM
// is killed; one that is killed takes all of its container with it.
func (a *Agent) signal(ctx context.Context, c *container, p *process, n uint32) error {
	select {
	case <-p.exited:
		return nil // its pid may be another's by now
	default:
	}
	s := syscall.Signal(n)
	if p == c.init && s == unix.SIGTERM && !handles(p.pid, s) {
		s = unix.SIGKILL
	}
	if p == c.init && s == unix.SIGKILL {
		return c.killAll(ctx)
	}
	if err := unix.Kill(p.pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// gone tells runc's answers about a container that has ended already.
func gone(err error) bool {
	text := err.Error()
	for _, s := range []string{"process already finished", "container not running", "does not exist", "no such process"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// handles reports whether the process does anything else with the signal than
// to die of it.
func handles(pid int, s syscall.Signal) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || statusHandles(string(b), s) // gone: the signal finds nobody
}

// statusHandles reads /proc/PID/status as Kata's agent does: a signal that is
// blocked or ignored counts, too (src/agent/src/rpc.rs, is_signal_handled).
func statusHandles(text string, s syscall.Signal) bool {
	for line := range strings.SplitSeq(text, "\n") {
		name, mask, _ := strings.Cut(line, ":")
		if name != "SigBlk" && name != "SigIgn" && name != "SigCgt" {
			continue
		}
		m, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err == nil && m&(1<<(uint(s)-1)) != 0 {
			return true
		}
	}
	return false
}

// remove deletes a container and what was its own. The caller holds the
// lifecycle.
func (a *Agent) remove(ctx context.Context, c *container) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	err := newRunc(c.id).Delete(ctx, c.id, &runc.DeleteOpts{Force: true})
	if err != nil && gone(err) {
		err = nil
	}
	a.mu.Lock()
	c.init.close()
	if c.memory != nil {
		_ = c.memory.Close()
	}
	for _, p := range c.processes {
		if p.ready {
			p.close()
		}
	}
	delete(a.containers, c.id)
	a.mu.Unlock()
	return errors.Join(err, a.removeStorages(c.bundle))
}
