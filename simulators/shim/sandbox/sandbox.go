// Package sandbox runs one pod sandbox as Kata's Go shim does in remote-hypervisor mode: a VM made by the pod VM
// daemon, one connection to the agent in it, and the pod's containers and exec sessions, driven by agent calls in
// Kata's order and with Kata's error texts.
//
// It must not know containerd's task API, nor what the daemon and the agent do behind their protocols.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
	"github.com/coco-e2e/coco-e2e/simulators/shim/config"
)

const (
	// healthInterval is how often the agent's health is checked (Kata virtcontainers/monitor.go).
	healthInterval = 5 * time.Second
	// oomRetryInterval is the pause after a refused GetOOMEvent (Kata containerd-shim-v2/wait.go watchOOMEvents).
	oomRetryInterval = time.Second

	guestSandboxDir = "/run/kata-containers/sandbox"
	guestSharedDir  = "/run/kata-containers/shared/containers"
	guestShm        = guestSandboxDir + "/shm"
	defaultShmSize  = 64 << 20
)

// Exit is the end of a container's process.
type Exit struct {
	ContainerID string
	ExecID      string // empty for the container's own process
	Status      uint32
	At          time.Time
}

// Events is told what happens in a sandbox, in order for each process: Started before Exited.
type Events interface {
	Started(containerID, execID string)
	Exited(Exit)
	OutOfMemory(containerID string)
}

// Options make a sandbox.
type Options struct {
	Config config.Config
	ID     string // of the sandbox container, which names the VM
	Bundle string // directory of the sandbox container; a record for [ReadRecord] is kept there
	Spec   *specs.Spec
	Events Events
}

// Sandbox is a running VM with a connected agent.
type Sandbox struct {
	options    Options
	settings   *settings
	hypervisor hypervisor
	agent      *agent
	monitor    *monitor // nil while there is none
	// passSeccomp is true when neither the configuration nor the guest keeps seccomp out.
	passSeccomp bool

	mu         sync.Mutex
	containers []*Container // in order of creation; the sandbox container first
	watcher    *watcher     // of the volumes; nil while there is none to watch

	created  bool // the agent knows the sandbox
	stopOnce sync.Once
	stopped  chan struct{} // closed when Stop begins: background loops end
}

// New creates and starts the VM, connects to its agent and creates the agent's sandbox. When it fails, nothing is left
// running. ctx bounds only New.
func New(ctx context.Context, options Options) (*Sandbox, error) {
	settings, err := podSettings(options.Config, options.Spec.Annotations)
	if err != nil {
		return nil, err
	}
	shmSize, err := shmSize(options.Spec.Mounts)
	if err != nil {
		return nil, err
	}
	s := &Sandbox{
		options:    options,
		settings:   settings,
		hypervisor: hypervisor{options.Config.HypervisorSocket, options.Config.HypervisorTimeout},
		stopped:    make(chan struct{}),
	}
	// Before CreateVM: a VM without a record could be left running by a crash.
	if err := writeRecord(options.Bundle, Record{HypervisorSocket: s.hypervisor.socket, ID: options.ID, Monitor: monitorDir(options)}); err != nil {
		return nil, err
	}
	agentSocket, err := s.hypervisor.create(ctx, &hypervisorpb.CreateVMRequest{
		Id: options.ID, Annotations: settings.vm, NetworkNamespacePath: networkNamespace(options.Spec),
	})
	if err != nil {
		if ctx.Err() != nil { // the daemon's answer was not waited for: there may be a VM
			s.Stop(ctx)
		} else {
			removeRecord(options.Bundle)
		}
		return nil, err
	}
	err = s.boot(ctx, agentSocket, shmSize)
	if err == nil {
		s.monitor, err = serveMonitor(monitorDir(options), agentSocket)
	}
	if err != nil {
		s.Stop(ctx)
		return nil, err
	}
	return s, nil
}

// boot starts the VM and brings the agent to where containers can be created.
func (s *Sandbox) boot(ctx context.Context, agentSocket string, shmSize uint64) (err error) {
	if err := s.hypervisor.start(ctx, s.options.ID); err != nil {
		return err
	}
	if s.agent, err = dialAgent(ctx, agentSocket, s.options.Config.DialTimeout); err != nil {
		return err
	}
	if err := s.agent.check(ctx); err != nil {
		return err
	}
	if s.settings.policy != "" {
		request := &agentpb.SetPolicyRequest{Policy: s.settings.policy}
		if _, err := call(ctx, defaultTimeout, s.agent.service.SetPolicy, request); err != nil {
			return err
		}
	}
	request, err := s.createRequest(shmSize)
	if err != nil {
		return err
	}
	if _, err := call(ctx, createSandboxTimeout, s.agent.service.CreateSandbox, request); err != nil {
		return err
	}
	s.created = true
	details, err := call(ctx, defaultTimeout, s.agent.service.GetGuestDetails,
		&agentpb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
	if err != nil {
		return err
	}
	s.passSeccomp = !s.options.Config.DisableGuestSeccomp && details.GetAgentDetails().GetSupportsSeccomp()
	return nil
}

func (s *Sandbox) createRequest(shmSize uint64) (*agentpb.CreateSandboxRequest, error) {
	request := &agentpb.CreateSandboxRequest{Hostname: s.options.Spec.Hostname, SandboxId: s.options.ID}
	if shmSize > 0 {
		request.Storages = []*agentpb.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: guestShm,
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", shmSize)},
		}}
	}
	for _, mount := range s.options.Spec.Mounts {
		if mount.Destination == "/etc/resolv.conf" {
			content, err := os.ReadFile(mount.Source)
			if err != nil {
				return nil, fmt.Errorf("read the pod's resolv.conf: %w", err)
			}
			request.Dns = strings.Split(string(content), "\n")
			break
		}
	}
	return request, nil
}

// shmSize is the size in bytes of the pod's /dev/shm, 0 when it has none (Kata pkg/oci/utils.go getShmSize).
func shmSize(mounts []specs.Mount) (uint64, error) {
	for _, mount := range mounts {
		if mount.Destination != "/dev/shm" {
			continue
		}
		if mount.Type != "bind" || mount.Source == "/dev/shm" {
			return defaultShmSize, nil
		}
		var stat unix.Statfs_t
		if err := unix.Statfs(mount.Source, &stat); err != nil {
			//lint:ignore ST1005 Kata's text
			return 0, fmt.Errorf("Unable to get information about %s: %w", mount.Source, err)
		}
		return uint64(stat.Bsize) * stat.Blocks, nil
	}
	return 0, nil
}

func networkNamespace(spec *specs.Spec) string {
	if spec.Linux != nil {
		for _, namespace := range spec.Linux.Namespaces {
			if namespace.Type == specs.NetworkNamespace {
				return namespace.Path
			}
		}
	}
	return ""
}

// ID of the sandbox.
func (s *Sandbox) ID() string { return s.options.ID }

// watch runs what Kata runs from the start of the sandbox container until the end: the wait for out-of-memory events
// and the health check.
func (s *Sandbox) watch() {
	go s.watchMemory()
	go s.watchHealth()
}

func (s *Sandbox) watchMemory() {
	for {
		event, err := call(context.Background(), noTimeout, s.agent.service.GetOOMEvent, &agentpb.GetOOMEventRequest{})
		switch {
		case err == nil:
			s.options.Events.OutOfMemory(event.ContainerId)
			continue
		case errors.Is(err, ttrpc.ErrClosed):
			return
		}
		select {
		case <-s.stopped:
			return
		case <-time.After(oomRetryInterval):
			log.L.WithError(err).Debug("GetOOMEvent failed, asking again")
		}
	}
}

func (s *Sandbox) watchHealth() {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	for {
		select {
		case <-s.stopped:
			return
		case <-ticker.C:
		}
		if err := s.agent.check(context.Background()); err != nil {
			log.L.WithError(err).WithField("sandbox", s.options.ID).Error("the agent is not healthy: giving up the sandbox")
			// Every call under way fails now; that of the sandbox container's process stops the VM.
			s.agent.client.Close()
			return
		}
	}
}

// Stop stops every container, the agent's sandbox and the VM, as far as they answer; failures are logged. Stop may be
// called more than once, by several callers; each returns when the VM is stopped. ctx's cancellation is ignored.
func (s *Sandbox) Stop(ctx context.Context) {
	s.stopOnce.Do(func() { s.stop(context.WithoutCancel(ctx)) })
}

// stopping says whether Stop has begun.
func (s *Sandbox) stopping() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}

func (s *Sandbox) stop(ctx context.Context) {
	close(s.stopped)
	if err := s.monitor.close(); err != nil {
		log.G(ctx).WithError(err).Warn("management socket")
	}
	logger := log.G(ctx).WithField("sandbox", s.options.ID)
	for _, container := range s.snapshot() {
		container.stop(ctx)
	}
	if s.created {
		if _, err := call(ctx, defaultTimeout, s.agent.service.DestroySandbox, &agentpb.DestroySandboxRequest{}); err != nil {
			logger.WithError(err).Warn("DestroySandbox failed")
		}
	}
	if err := s.hypervisor.stop(ctx, s.options.ID); err != nil {
		// The record stays: containerd's clean-up tries again.
		logger.WithError(err).Error("StopVM failed: the pod VM may be running still")
	} else {
		removeRecord(s.options.Bundle)
	}
	if s.agent != nil {
		s.agent.client.Close()
	}
}

func (s *Sandbox) snapshot() []*Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Container(nil), s.containers...)
}
