// Package shim is the containerd shim of the simulated confidential runtime: how containerd starts it, one process per
// pod sandbox, and how it cleans up after one that died. What the process does is in the packages below.
//
// It must not know the agent's protocol, and nothing outside simulators/ may import it.
package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/simulators/shim/sandbox"
	"github.com/coco-e2e/coco-e2e/simulators/shim/task"
)

// Name is the runtime's type in containerd's configuration; containerd makes the binary's name of it.
const Name = "io.containerd.coco-sim.v2"

// sandboxAnnotation groups a pod's containers in one shim.
const sandboxAnnotation = "io.kubernetes.cri.sandbox-id"

// Run does what the command line asks: serve a sandbox, start the process that does, or clean up after one.
func Run(ctx context.Context) {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newService,
	})
	// The shim has no children.
	shim.RunShim(ctx, manager{}, func(c *shim.Config) { c.NoReaper, c.NoSubreaper = true, true })
}

func newService(ic *plugin.InitContext) (any, error) {
	events, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	ending, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	publisher, stop := events.(shim.Publisher), ending.(shutdown.Service)
	ctx := context.WithoutCancel(ic.Context) // the last events come when the shim is told to end
	service := task.New(func(topic string, event any) {
		if err := publisher.Publish(ctx, topic, event); err != nil {
			log.G(ctx).WithError(err).WithField("topic", topic).Error("publish event")
		}
	}, stop.Shutdown)
	stop.RegisterCallback(func(ctx context.Context) error {
		service.Close(ctx)
		_ = publisher.Close() // nothing more can be told
		return nil
	})
	return service, nil
}

type manager struct{}

func (manager) Name() string { return Name }

// Start starts the shim of a sandbox, or finds it when there is one, and returns its address.
func (manager) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	group, err := sandboxOf("config.json", params.GetInstanceID())
	if err != nil {
		return nil, err
	}
	dir := params.GetSocketDir()
	if dir == "" {
		dir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	address, err := shim.CreateSocketAddress(ctx, dir, params.GetContainerdGrpcAddress(), group, false)
	if err != nil {
		return nil, fmt.Errorf("shim address: %w", err)
	}
	result := &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: address}
	listener, err := listen(address)
	if errors.Is(err, errdefs.ErrAlreadyExists) {
		return result, nil
	}
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	if err := serve(ctx, params, listener); err != nil {
		_ = shim.RemoveSocket(address)
		return nil, err
	}
	return result, nil
}

// sandboxOf reads the sandbox that a container belongs to from its specification; without one it is its own.
func sandboxOf(specification, id string) (string, error) {
	text, err := os.ReadFile(specification)
	if err != nil {
		return "", fmt.Errorf("container specification: %w", err)
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return "", fmt.Errorf("container specification: %w", err)
	}
	if sandbox := spec.Annotations[sandboxAnnotation]; sandbox != "" {
		return sandbox, nil
	}
	return id, nil
}

// listen makes the shim's socket. A socket that answers is that of a running shim: [errdefs.ErrAlreadyExists]; one that
// does not is left from a dead one and is replaced.
func listen(address string) (*net.UnixListener, error) {
	listener, err := shim.NewSocket(address)
	if shim.SocketEaddrinuse(err) {
		if shim.CanConnect(address) {
			return nil, errdefs.ErrAlreadyExists
		}
		if err := shim.RemoveSocket(address); err != nil {
			return nil, fmt.Errorf("remove the socket of a dead shim: %w", err)
		}
		listener, err = shim.NewSocket(address)
	}
	if err != nil {
		return nil, fmt.Errorf("shim socket: %w", err)
	}
	listener.SetUnlinkOnClose(false) // the socket is the started process's
	return listener, nil
}

// serve starts the process that serves listener.
func serve(ctx context.Context, params *bootapi.BootstrapParams, listener *net.UnixListener) error {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("path of the shim: %w", err)
	}
	file, err := listener.File()
	if err != nil {
		return fmt.Errorf("shim socket: %w", err)
	}
	defer file.Close()
	arguments := []string{"-namespace", namespace, "-id", params.GetInstanceID(), "-address", params.GetContainerdGrpcAddress()}
	if params.GetLogLevel() <= bootapi.LogLevel_LOG_LEVEL_DEBUG {
		arguments = append(arguments, "-debug")
	}
	command := exec.Command(self, arguments...)
	command.Env = append(os.Environ(), "GOMAXPROCS=2")
	command.ExtraFiles = []*os.File{file}
	// A group of its own: signals to containerd's do not reach it.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start the shim's process: %w", err)
	}
	// Needs a right that containers of CI systems may lack; the shim runs as well without. No word of it: containerd
	// takes everything that is printed here for the result.
	_ = shim.AdjustOOMScore(command.Process.Pid)
	return command.Process.Release()
}

// Stop cleans up after a shim that died: it stops the VM that the sandbox's bundle has on record. The bundle of a
// workload container has no record.
func (manager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	status := shim.StopStatus{ExitStatus: 128 + int(unix.SIGKILL), ExitedAt: time.Now()}
	bundle := bundleOf(ctx, id)
	removeDeadSocket(bundle, id)
	record, err := sandbox.ReadRecord(bundle)
	if err != nil {
		return status, err
	}
	if record == nil {
		return status, nil
	}
	if err := sandbox.StopVM(ctx, record.HypervisorSocket, record.ID); err != nil {
		// Not an error: containerd would keep the dead task. It logs what comes here as a warning.
		fmt.Fprintf(os.Stderr, "stop the VM of dead shim %s: %v\n", record.ID, err)
	}
	if record.Monitor != "" {
		_ = os.RemoveAll(record.Monitor)
	}
	return status, nil
}

// removeDeadSocket removes the socket that containerd noted for the shim of a sandbox's bundle, if nobody answers on it.
// A workload container's bundle names the same socket, but is cleaned up while the shim lives.
func removeDeadSocket(bundle, id string) {
	if sandbox, err := sandboxOf(filepath.Join(bundle, "config.json"), id); err != nil || sandbox != id {
		return
	}
	text, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if err != nil {
		return // containerd never got as far as to know the shim
	}
	var result bootapi.BootstrapResult
	if json.Unmarshal(text, &result) == nil && result.Address != "" && !shim.CanConnect(result.Address) {
		_ = shim.RemoveSocket(result.Address)
	}
}

func bundleOf(ctx context.Context, id string) string {
	if options, ok := ctx.Value(shim.OptsKey{}).(shim.Opts); ok && options.BundlePath != "" {
		return options.BundlePath
	}
	// containerd runs delete in the bundle or beside it.
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	return filepath.Join(filepath.Dir(dir), id)
}

// Info describes the runtime.
func (manager) Info(context.Context, io.Reader) (*types.RuntimeInfo, error) {
	return &types.RuntimeInfo{Name: Name, Version: &types.RuntimeVersion{Version: "0.1.0"}}, nil
}
