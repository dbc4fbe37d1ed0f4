// Package task serves containerd's task API (containerd.task.v3) for the one pod sandbox of a shim process.
//
// It must not know the agent's protocol: it translates between containerd's requests and package sandbox.
package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/cgroups/v3"
	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/coco-e2e/coco-e2e/simulators/shim/config"
	"github.com/coco-e2e/coco-e2e/simulators/shim/sandbox"
)

// containerType and sandboxID are annotations of containerd's CRI plugin.
const (
	containerType = "io.kubernetes.cri.container-type"
	sandboxID     = "io.kubernetes.cri.sandbox-id"
)

// Service is the task service of a shim.
type Service struct {
	events   *forwarder
	shutdown func()

	mu         sync.Mutex
	sandbox    *sandbox.Sandbox
	containers map[string]*sandbox.Container
	creating   bool // a sandbox is being created
}

var _ taskapi.TTRPCTaskService = (*Service)(nil)

// New makes a service that tells its events to publish, in order, one at a time. shutdown is called when containerd
// asks the shim to end and no container is left.
func New(publish func(topic string, event any), shutdown func()) *Service {
	return &Service{events: newForwarder(publish), shutdown: shutdown, containers: map[string]*sandbox.Container{}}
}

// RegisterTTRPC registers the service with the shim's server.
func (s *Service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	return nil
}

// Close stops a sandbox that is still there, and returns when all events have been published.
func (s *Service) Close(ctx context.Context) {
	s.mu.Lock()
	sandbox := s.sandbox
	s.mu.Unlock()
	if sandbox != nil {
		sandbox.Stop(ctx)
	}
	s.events.close()
}

// Create creates a container, and with a pod's first one its VM.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	spec, err := readSpec(r.Bundle)
	if err != nil {
		return nil, toGRPC(err)
	}
	if r.Checkpoint != "" {
		return nil, toGRPC(fmt.Errorf("restoring container %s from a checkpoint: %w", r.ID, errdefs.ErrNotImplemented))
	}
	options := sandbox.ContainerOptions{
		ID: r.ID, Bundle: r.Bundle, Spec: spec,
		IO: sandbox.IO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	}
	var container *sandbox.Container
	if isWorkload(spec) {
		container, err = s.createWorkload(ctx, options)
	} else {
		container, err = s.createSandbox(ctx, options, r.Options)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	s.mu.Lock()
	s.containers[r.ID] = container
	s.mu.Unlock()
	s.events.send(&eventsapi.TaskCreate{
		ContainerID: r.ID,
		Bundle:      r.Bundle,
		Rootfs:      r.Rootfs,
		IO:          &eventsapi.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Pid:         pid(),
	})
	return &taskapi.CreateTaskResponse{Pid: pid()}, nil
}

func isWorkload(spec *specs.Spec) bool { return spec.Annotations[containerType] == "container" }

func (s *Service) createWorkload(ctx context.Context, options sandbox.ContainerOptions) (*sandbox.Container, error) {
	s.mu.Lock()
	pod := s.sandbox
	s.mu.Unlock()
	if want := options.Spec.Annotations[sandboxID]; pod == nil || pod.ID() != want {
		return nil, fmt.Errorf("container %s: this shim runs no sandbox %s: %w", options.ID, want, errdefs.ErrNotFound)
	}
	return pod.CreateContainer(ctx, options)
}

func (s *Service) createSandbox(ctx context.Context, options sandbox.ContainerOptions, runtimeOptions *anypb.Any) (_ *sandbox.Container, err error) {
	s.mu.Lock()
	if s.sandbox != nil || s.creating {
		s.mu.Unlock()
		return nil, fmt.Errorf("sandbox %s: this shim has a sandbox: %w", options.ID, errdefs.ErrAlreadyExists)
	}
	s.creating = true
	s.mu.Unlock()
	var pod *sandbox.Sandbox
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.creating = false
		if err == nil {
			s.sandbox = pod
		}
	}()
	c, err := loadConfig(ctx, runtimeOptions)
	if err != nil {
		return nil, err
	}
	pod, err = sandbox.New(ctx, sandbox.Options{Config: c, ID: options.ID, Bundle: options.Bundle, Spec: options.Spec, Events: s})
	if err != nil {
		return nil, err
	}
	container, err := pod.CreateContainer(ctx, options)
	if err != nil {
		pod.Stop(ctx)
		return nil, err
	}
	return container, nil
}

func loadConfig(ctx context.Context, options *anypb.Any) (config.Config, error) {
	var path string
	if options.GetTypeUrl() != "" {
		value, err := typeurl.UnmarshalAny(options)
		if err != nil {
			return config.Config{}, fmt.Errorf("runtime options: %w", err)
		}
		generic, ok := value.(*runtimeoptions.Options)
		if !ok {
			return config.Config{}, fmt.Errorf("runtime options are %T: set ConfigPath in the options of the runtime in containerd's configuration", value)
		}
		path = generic.ConfigPath
	}
	c, err := config.Load(path)
	if len(c.Ignored) > 0 {
		log.G(ctx).WithField("file", path).WithField("keys", c.Ignored).Warn("keys of the shim configuration that mean nothing here")
	}
	return c, err
}

func readSpec(bundle string) (*specs.Spec, error) {
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("container specification: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("container specification %s: %w", filepath.Join(bundle, "config.json"), err)
	}
	return &spec, nil
}

// pid stands for every process: there is none on the node but the shim. Kata's remote hypervisor does the same.
func pid() uint32 { return uint32(os.Getpid()) }

// toGRPC gives an error the code that containerd understands. An error that already carries a code keeps it and its
// text: a policy's refusal reaches the user as the agent worded it.
func toGRPC(err error) error {
	if err == nil {
		return nil
	}
	if carrier := interface{ GRPCStatus() *status.Status }(nil); errors.As(err, &carrier) {
		return err
	}
	return errgrpc.ToGRPC(err)
}

func (s *Service) container(id string) (*sandbox.Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, toGRPC(fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound))
	}
	return c, nil
}

func (s *Service) process(id, execID string) (*sandbox.Container, *sandbox.Process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.Process(execID)
	return c, p, toGRPC(err)
}

// Start starts a container's process or an exec session.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		err = c.Start(ctx)
	} else {
		err = c.StartExec(ctx, r.ExecID)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	return &taskapi.StartResponse{Pid: pid()}, nil
}

// Delete forgets a finished container or exec session.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	var end sandbox.Status
	if r.ExecID == "" {
		end, err = c.Delete(ctx)
	} else {
		end, err = c.DeleteExec(r.ExecID)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	response := &taskapi.DeleteResponse{Pid: pid(), ExitStatus: end.Exit, ExitedAt: timestamppb.New(end.At)}
	if r.ExecID == "" {
		s.mu.Lock()
		delete(s.containers, r.ID)
		s.mu.Unlock()
		s.events.send(&eventsapi.TaskDelete{ContainerID: r.ID, Pid: response.Pid, ExitStatus: response.ExitStatus, ExitedAt: response.ExitedAt})
	}
	return response, nil
}

// Exec adds an exec session to a container.
func (s *Service) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	var process specs.Process
	if err := json.Unmarshal(r.Spec.GetValue(), &process); err != nil {
		return nil, toGRPC(fmt.Errorf("process of exec %s: %w: %w", r.ExecID, errdefs.ErrInvalidArgument, err))
	}
	err = c.Exec(r.ExecID, &process, sandbox.IO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal})
	if err != nil {
		return nil, toGRPC(err)
	}
	s.events.send(&eventsapi.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return &emptypb.Empty{}, nil
}

// State tells how a process is.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	now, io := p.Status(), p.IO()
	response := &taskapi.StateResponse{
		ID: r.ID, Bundle: c.Bundle(), Pid: pid(), ExecID: r.ExecID,
		Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr, Terminal: io.Terminal,
	}
	switch {
	case now.State == sandbox.Stopped:
		response.Status, response.ExitStatus, response.ExitedAt = tasktypes.Status_STOPPED, now.Exit, timestamppb.New(now.At)
	case now.State == sandbox.Created:
		response.Status = tasktypes.Status_CREATED
	case c.Paused():
		response.Status = tasktypes.Status_PAUSED
	default:
		response.Status = tasktypes.Status_RUNNING
	}
	return response, nil
}

// Wait returns when a process has ended.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	end, err := p.Wait(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &taskapi.WaitResponse{ExitStatus: end.Exit, ExitedAt: timestamppb.New(end.At)}, nil
}

// Kill signals a process.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return empty(p.Kill(ctx, r.Signal))
}

// ResizePty sets the size of a process's terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return empty(p.Resize(ctx, r.Height, r.Width))
}

// CloseIO ends a process's input.
func (s *Service) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !r.Stdin {
		return &emptypb.Empty{}, nil
	}
	return empty(p.CloseStdin(ctx))
}

// Pause freezes a container.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if err := c.Pause(ctx); err != nil {
		return nil, toGRPC(err)
	}
	s.events.send(&eventsapi.TaskPaused{ContainerID: r.ID})
	return &emptypb.Empty{}, nil
}

// Resume thaws a container.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if err := c.Resume(ctx); err != nil {
		return nil, toGRPC(err)
	}
	s.events.send(&eventsapi.TaskResumed{ContainerID: r.ID})
	return &emptypb.Empty{}, nil
}

// Update changes a container's limits.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.Resources.GetValue(), &resources); err != nil {
		return nil, toGRPC(fmt.Errorf("resources of container %s: %w: %w", r.ID, errdefs.ErrInvalidArgument, err))
	}
	return empty(c.Update(ctx, &resources))
}

// Stats tells a container's resource usage in the form of the node's cgroup version.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	usage, err := c.Stats(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	var metrics proto.Message = sandbox.Metrics1(usage)
	if cgroups.Mode() == cgroups.Unified {
		metrics = sandbox.Metrics2(usage)
	}
	data, err := typeurl.MarshalAnyToProto(metrics)
	if err != nil {
		return nil, toGRPC(fmt.Errorf("stats of container %s: %w", r.ID, err))
	}
	return &taskapi.StatsResponse{Stats: data}, nil
}

// Pids lists the processes of a container that the node can see: the shim.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	if _, err := s.container(r.ID); err != nil {
		return nil, err
	}
	return &taskapi.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: pid()}}}, nil
}

// Checkpoint is not possible.
func (s *Service) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, toGRPC(fmt.Errorf("checkpoint of container %s: %w", r.ID, errdefs.ErrNotImplemented))
}

// Connect tells the shim's process.
func (s *Service) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return &taskapi.ConnectResponse{ShimPid: pid(), TaskPid: pid()}, nil
}

// Shutdown ends the shim unless it has containers; containerd asks after the deletion of each.
func (s *Service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	busy := len(s.containers) > 0 || s.creating
	s.mu.Unlock()
	if !busy {
		s.shutdown()
	}
	return &emptypb.Empty{}, nil
}

func empty(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, toGRPC(err)
	}
	return &emptypb.Empty{}, nil
}
