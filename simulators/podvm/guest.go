package podvm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/simulators/podvm/stage"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/teepool"
)

// namespaces are a guest's own. The pod's network namespace is entered by the stage; cgroups are the node's.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// removeTimeout bounds the kernel's letting go of a dead guest's cgroups.
const removeTimeout = 10 * time.Second

// maxSaid bounds an error that a guest may say: what is longer is none of an agent's.
const maxSaid = 16 << 10

// guest is a running guest: its PID 1.
type guest struct {
	process *os.Process
	ready   *os.File // read end of the agent's fd 3
	ended   chan struct{}
	state   *os.ProcessState // set when ended is closed
}

// saidError is what a guest's ERROR line says.
type saidError string

func (e saidError) Error() string { return string(e) }

// launch starts the guest's PID 1.
func (v *vm) launch() (*guest, error) {
	console, err := os.OpenFile(v.console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	defer console.Close()
	spec, err := v.spec()
	if err != nil {
		return nil, err
	}
	defer spec.Close()
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer readyChild.Close()
	files := []*os.File{0: spec, 1: console, 2: console, stage.ReadyFD: readyChild}
	flags := uintptr(namespaces)
	if v.netns == "" {
		// A machine is not in another's network because nobody gave it one: it has none.
		flags |= unix.CLONE_NEWNET
	} else {
		netns, err := openNetNS(v.netns)
		if err != nil {
			return nil, errors.Join(err, ready.Close())
		}
		defer netns.Close()
		files = append(files, netns)
	}
	process, err := v.service.spawner.start("/proc/self/exe", []string{"podvm", stage.Command}, nil, files, flags)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the guest: %w", err), ready.Close())
	}
	g := &guest{process: process, ready: ready, ended: make(chan struct{})}
	go v.reap(g)
	return g, nil
}

// spec gives a file with what the stage has to make of the VM, to be read from its start.
func (v *vm) spec() (*os.File, error) {
	c := &v.service.config
	spec := stage.Spec{
		Rootfs: c.GuestRootfs, Mountpoint: v.root(), AgentDir: v.agentDir(), LogDir: v.logs, NetNS: v.netns != "",
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"KATA_AGENT_SERVER_ADDR=unix:///run/agent-channel/agent.sock",
			"KATA_AGENT_CGROUP_PARENT=" + v.cgroup(),
			"KATA_AGENT_LOG=" + c.AgentLog,
			"KATA_AGENT_RPC_LOG=/var/log/guest/agent.jsonl",
			"COCO_REGISTRY_MIRROR=" + c.RegistryMirror,
		},
	}
	spec.Env = append(spec.Env, v.class.environment()...)
	if v.tee != nil {
		spec.TEE, spec.TEEDevice = v.teeSocket(), v.class.Device()
		if v.class.VTPM() {
			spec.Metadata = v.teeSocket() + teepool.MetadataSuffix
		}
	}
	if _, err := os.Stat(v.initDataImage()); err == nil {
		spec.InitData = v.initDataImage()
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("guest-spec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "guest-spec")
	if _, err = io.Copy(f, bytes.NewReader(text)); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// reap waits for the guest's PID 1. When wait has answered, every process of its PID namespace is gone.
func (v *vm) reap(g *guest) {
	// Wait fails only for a process that is not a child or was waited for: neither can be.
	g.state, _ = g.process.Wait()
	v.service.log.Info("guest ended", "id", v.id, "state", g.state.String())
	close(g.ended)
}

// awaitReady returns nil when the agent is ready, [saidError] with the guest's own words, [errGuestDied], or ctx's cause.
func (g *guest) awaitReady(ctx context.Context) error {
	lines := make(chan error, 1)
	go func() { lines <- g.readReady() }()
	select {
	case err := <-lines:
		if !errors.Is(err, io.EOF) {
			return err
		}
		// All write ends are closed: the agent has ended, or lost its descriptor and will never say anything.
		select {
		case <-g.ended:
			return errGuestDied
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case <-ctx.Done():
		_ = g.ready.SetReadDeadline(time.Now()) // ends the reader
		return context.Cause(ctx)
	}
}

func (g *guest) readReady() error {
	defer g.ready.Close()
	line, err := bufio.NewReader(io.LimitReader(g.ready, maxSaid)).ReadString('\n')
	text := strings.ToValidUTF8(strings.TrimSuffix(line, "\n"), "?")
	said, isError := strings.CutPrefix(text, "ERROR ")
	switch {
	case isError:
		return saidError(said)
	case err != nil:
		return err
	case text == "READY":
		return nil
	}
	return fmt.Errorf("the agent said %q instead of READY or ERROR", text)
}

// kill ends the guest's PID 1, and with it the guest, and returns when it is gone.
func (g *guest) kill() {
	_ = g.process.Kill() // fails only when it has ended
	<-g.ended
}
