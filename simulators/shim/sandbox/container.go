package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/simulators/shim/wirespec"
)

// Values of the container_type annotation (Kata pkg/annotations).
const (
	typeSandbox   = "pod_sandbox"
	typeContainer = "pod_container"
	typeSingle    = "single_container"
)

// ContainerOptions make a container.
type ContainerOptions struct {
	ID     string
	Bundle string
	Spec   *specs.Spec // is changed
	IO     IO
}

// Container is a container that the agent has created.
type Container struct {
	sandbox *Sandbox
	options ContainerOptions
	init    *Process

	mu     sync.Mutex
	execs  map[string]*Process
	paused bool

	stopOnce sync.Once
}

// CreateContainer has the agent create a container: the sandbox container if its id is the sandbox's, else a workload.
func (s *Sandbox) CreateContainer(ctx context.Context, options ContainerOptions) (*Container, error) {
	c := &Container{sandbox: s, options: options, execs: map[string]*Process{}}
	c.init = newProcess(c, "", options.ID, options.IO)
	spec := options.Spec
	containerType := typeContainer
	switch {
	case c.isSandbox() && spec.Annotations[annotationCRIType] == "":
		containerType = typeSingle // not Kubernetes
	case c.isSandbox():
		containerType = typeSandbox
	}
	spec.Annotations = guestAnnotations(s.options.Config, spec.Annotations, options.Bundle, containerType)
	if c.isSandbox() {
		spec.Annotations[annotationNetNS] = networkNamespace(spec)
	}
	pull, err := c.guestPull()
	if err != nil {
		return nil, err
	}
	volumes, watches, err := c.volumes(ctx)
	if err != nil {
		return nil, err
	}
	wire, sharedPID := wirespec.Constrained(spec, wirespec.Constraints{RootPath: c.rootPath(), PassSeccomp: s.passSeccomp})
	request := &agentpb.CreateContainerRequest{
		ContainerId:  options.ID,
		ExecId:       options.ID,
		Storages:     append([]*agentpb.Storage{pull}, volumes...),
		OCI:          wire,
		SandboxPidns: sharedPID && !c.isSandbox(),
	}
	if _, err := call(ctx, s.settings.createContainerTimeout, s.agent.service.CreateContainer, request); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.containers = append(s.containers, c)
	s.mu.Unlock()
	go s.keepCopied(watches)
	return c, nil
}

func (c *Container) isSandbox() bool  { return c.options.ID == c.sandbox.options.ID }
func (c *Container) rootPath() string { return "/run/kata-containers/" + c.options.ID + "/rootfs" }

// ID of the container.
func (c *Container) ID() string { return c.options.ID }

// Bundle is the container's directory on the node.
func (c *Container) Bundle() string { return c.options.Bundle }

// guestPull is the storage that has the guest pull the container's image.
func (c *Container) guestPull() (*agentpb.Storage, error) {
	annotations := c.options.Spec.Annotations
	source := annotations[annotationCRIImage]
	if annotations[annotationCRIType] == "sandbox" {
		source = "pause"
	}
	if source == "" {
		return nil, fmt.Errorf("container %s names no image to pull in the guest: annotation %s is missing", c.options.ID, annotationCRIImage)
	}
	metadata, err := json.Marshal(map[string]map[string]string{"metadata": annotations})
	if err != nil {
		return nil, fmt.Errorf("annotations of container %s: %w", c.options.ID, err)
	}
	return &agentpb.Storage{
		Driver:        "image_guest_pull",
		DriverOptions: []string{"image_guest_pull=" + string(metadata)},
		Source:        source,
		Fstype:        "overlay",
		MountPoint:    c.rootPath(),
	}, nil
}

// Start starts the container's process. With the sandbox container begins the watching of the agent.
func (c *Container) Start(ctx context.Context) error {
	err := c.init.start(func() error {
		_, err := call(ctx, defaultTimeout, c.sandbox.agent.service.StartContainer,
			&agentpb.StartContainerRequest{ContainerId: c.options.ID})
		return err
	})
	if err == nil && c.isSandbox() {
		c.sandbox.watch()
	}
	return err
}

// Exec adds an exec session; it does not reach the agent before the session is started.
func (c *Container) Exec(execID string, process *specs.Process, io IO) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[execID]; ok {
		return fmt.Errorf("exec %s of container %s: %w", execID, c.options.ID, errdefs.ErrAlreadyExists)
	}
	p := newExec(c, execID, io)
	p.exec = wirespec.ExecProcess(process, io.Terminal)
	c.execs[execID] = p
	return nil
}

// StartExec starts an exec session.
func (c *Container) StartExec(ctx context.Context, execID string) error {
	p, err := c.Process(execID)
	if err != nil {
		return err
	}
	err = p.start(func() error {
		if state := c.init.Status().State; state != Running {
			return errors.New("Container not running, impossible to enter")
		}
		_, err := call(ctx, defaultTimeout, c.sandbox.agent.service.ExecProcess, &agentpb.ExecProcessRequest{
			ContainerId: c.options.ID, ExecId: p.guestID, Process: p.exec,
		})
		return err
	})
	if err != nil {
		// %s, not %w: Kata loses the agent's code here, and containerd reports Unknown.
		return fmt.Errorf("cannot enter container %s, with err %s", c.options.ID, err)
	}
	return nil
}

// Process finds the container's own process, when execID is empty, or an exec session.
func (c *Container) Process(execID string) (*Process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[execID]
	if !ok {
		return nil, fmt.Errorf("exec %s of container %s: %w", execID, c.options.ID, errdefs.ErrNotFound)
	}
	return p, nil
}

// DeleteExec forgets a finished exec session and returns how it ended.
func (c *Container) DeleteExec(execID string) (Status, error) {
	p, err := c.Process(execID)
	if err != nil {
		return Status{}, err
	}
	status := p.Status()
	if status.State == Running {
		return Status{}, fmt.Errorf("exec %s of container %s is running: %w", execID, c.options.ID, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	delete(c.execs, execID)
	c.mu.Unlock()
	return status, nil
}

// Delete forgets a container that does not run and returns how it ended. With the sandbox container goes the VM.
func (c *Container) Delete(ctx context.Context) (Status, error) {
	if c.init.Status().State == Running {
		return Status{}, fmt.Errorf("container %s is running: %w", c.options.ID, errdefs.ErrFailedPrecondition)
	}
	c.terminate(ctx)
	c.init.exited(128+uint32(unix.SIGKILL), nil) // if it never started
	c.sandbox.mu.Lock()
	defer c.sandbox.mu.Unlock()
	for i, other := range c.sandbox.containers {
		if other == c {
			c.sandbox.containers = append(c.sandbox.containers[:i:i], c.sandbox.containers[i+1:]...)
			break
		}
	}
	return c.init.Status(), nil
}

// terminate ends what the container's process was the life of: the container, or for the sandbox container the pod.
func (c *Container) terminate(ctx context.Context) {
	if c.isSandbox() {
		c.sandbox.Stop(ctx)
	} else {
		c.stop(ctx)
	}
}

// stop makes sure that the guest has nothing left of the container. It ignores refusals, as Kata's forced stop does:
// the VM's end is what counts.
func (c *Container) stop(ctx context.Context) {
	c.stopOnce.Do(func() {
		ctx := context.WithoutCancel(ctx)
		logger := log.G(ctx).WithField("container", c.options.ID)
		service := c.sandbox.agent.service
		if err := c.sandbox.agent.signal(ctx, c.options.ID, "", uint32(unix.SIGKILL)); err != nil {
			logger.WithError(err).Debug("SignalProcess failed")
		}
		wait := &agentpb.WaitProcessRequest{ContainerId: c.options.ID, ExecId: c.options.ID}
		if _, err := call(ctx, defaultTimeout, service.WaitProcess, wait); err != nil {
			logger.WithError(err).Debug("WaitProcess failed")
		}
		if _, err := call(ctx, defaultTimeout, service.RemoveContainer, &agentpb.RemoveContainerRequest{ContainerId: c.options.ID}); err != nil {
			logger.WithError(err).Warn("RemoveContainer failed")
		}
		stale := &agentpb.RemoveStaleVirtiofsShareMountsRequest{}
		if _, err := call(ctx, defaultTimeout, service.RemoveStaleVirtiofsShareMounts, stale); err != nil {
			logger.WithError(err).Debug("RemoveStaleVirtiofsShareMounts failed")
		}
	})
}

// Update changes the container's resource limits.
func (c *Container) Update(ctx context.Context, resources *specs.LinuxResources) error {
	_, err := call(ctx, defaultTimeout, c.sandbox.agent.service.UpdateContainer,
		&agentpb.UpdateContainerRequest{ContainerId: c.options.ID, Resources: wirespec.Resources(resources)})
	return err
}

// Pause freezes the container's processes.
func (c *Container) Pause(ctx context.Context) error {
	_, err := call(ctx, defaultTimeout, c.sandbox.agent.service.PauseContainer, &agentpb.PauseContainerRequest{ContainerId: c.options.ID})
	return c.setPaused(err, true)
}

// Resume thaws the container's processes.
func (c *Container) Resume(ctx context.Context) error {
	_, err := call(ctx, defaultTimeout, c.sandbox.agent.service.ResumeContainer, &agentpb.ResumeContainerRequest{ContainerId: c.options.ID})
	return c.setPaused(err, false)
}

func (c *Container) setPaused(err error, paused bool) error {
	if err == nil {
		c.mu.Lock()
		c.paused = paused
		c.mu.Unlock()
	}
	return err
}

// Paused says whether the container is frozen.
func (c *Container) Paused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// Stats asks the agent for the container's resource usage.
func (c *Container) Stats(ctx context.Context) (*agentpb.StatsContainerResponse, error) {
	return call(ctx, defaultTimeout, c.sandbox.agent.service.StatsContainer, &agentpb.StatsContainerRequest{ContainerId: c.options.ID})
}
