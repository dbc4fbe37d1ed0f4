// Package guest starts confidential guests by themselves: no cluster, no
// kubelet, no container runtime. A host is a pod VM daemon with nothing around
// it, told over the remote-hypervisor protocol, as a shim tells it, what guests
// to run; each guest has a network of its own with a registry in it and nothing
// else.
//
// The programs are the simulators', built and started by path. The package must
// not know what is asked of a guest once it runs, nor what its policy says.
package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/google/uuid"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
)

// How long things may take at most.
const (
	daemonTimeout = 20 * time.Second
	stopTimeout   = 40 * time.Second
)

// registryAddress is where images are served in every guest's network.
const registryAddress = "127.0.0.1:5000"

// rawInitData is CreateVM's annotation with the init-data, decoded (Kata src/runtime/virtcontainers/remote.go).
const rawInitData = "io.katacontainers.config.hypervisor.cc_init_data"

// Host runs guests.
type Host struct {
	parts   Parts
	scratch *Scratch
	dir     string
	tee     string
	daemon  *process
	conn    *ttrpc.Client
	vms     hypervisorpb.HypervisorService

	mu     sync.Mutex
	guests map[string]*Guest
}

// Guest is one that runs.
type Guest struct {
	// Address of its agent, for agentapi.Dial.
	Address string
	// Logs is the directory of its console and its agent's log.
	Logs string

	id       string
	host     *Host
	network  *network
	registry *process
}

// StartHost starts the pod VM daemon, whose guests have a TEE of a kind in
// Trustee's words, such as tpm. Close takes away all that it and its guests
// leave; their processes end with this one however it ends.
func StartHost(ctx context.Context, parts Parts, tee string) (*Host, error) {
	scratch, err := NewScratch()
	if err != nil {
		return nil, err
	}
	h := &Host{parts: parts, scratch: scratch, dir: scratch.Path, tee: tee, guests: map[string]*Guest{}}
	if err := h.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("host of lone guests: %w", err), h.Close())
	}
	return h, nil
}

func (h *Host) start(ctx context.Context) error {
	socket, config := filepath.Join(h.dir, "vm.sock"), filepath.Join(h.dir, "podvm.toml")
	roots := ""
	if h.tee != "tpm" {
		roots = filepath.Join(h.dir, "roots")
		if err := run(ctx, filepath.Join(h.parts.Dir, TEE), "make-roots", "--out", roots); err != nil {
			return err
		}
	}
	text := ""
	for _, line := range [][2]string{
		{"state_dir", filepath.Join(h.dir, "vm")},
		{"log_dir", filepath.Join(h.dir, "log")},
		{"guest_rootfs", filepath.Join(h.parts.Dir, Rootfs)},
		{"tee_program", filepath.Join(h.parts.Dir, TEE)},
		{"tee_roots", roots},
		{"registry_mirror", "http://" + registryAddress},
		{"agent_log", "debug"},
		{"cgroup_parent", "/" + filepath.Base(h.dir)},
	} {
		text += line[0] + " = " + strconv.Quote(line[1]) + "\n"
	}
	text += "[[class]]\nsocket = " + strconv.Quote(socket) + "\ntee = " + strconv.Quote(h.tee) + "\n"
	if h.tee == "tpm" {
		text += "pool = 2\n" // a TPM takes long to provision; other TEEs belong to their guest from the start
	}
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	var err error
	h.daemon, err = start(nil, filepath.Join(h.dir, "podvm.log"), filepath.Join(h.parts.Dir, VMDaemon), "--config", config)
	if err != nil {
		return err
	}
	conn, err := h.daemon.dial(ctx, "unix", socket)
	if err != nil {
		return err
	}
	h.conn = ttrpc.NewClient(conn)
	h.vms = hypervisorpb.NewHypervisorClient(h.conn)
	return nil
}

// Start starts a guest with the init-data document raw, or without one if that is "".
func (h *Host) Start(ctx context.Context, raw string) (*Guest, error) {
	g := &Guest{id: uuid.NewString(), host: h}
	h.mu.Lock()
	h.guests[g.id] = g
	h.mu.Unlock()
	err := g.create(ctx, raw)
	if err == nil {
		err = g.boot(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lone guest: %w", err), g.Stop())
	}
	return g, nil
}

// create makes all that is there before the guest runs, its TEE with what the host measures into it among that.
func (g *Guest) create(ctx context.Context, raw string) error {
	var err error
	if g.network, err = newNetwork(); err != nil {
		return err
	}
	log := filepath.Join(g.host.dir, "registry-"+g.id+".log")
	g.registry, err = start(g.network, log, g.host.parts.Registry, "serve", "--addr", registryAddress, "--layout", g.host.parts.Layout)
	if err != nil {
		return err
	}
	const namespace, name = "lone", "guest"
	vm, err := g.host.vms.CreateVM(ctx, &hypervisorpb.CreateVMRequest{
		Id: g.id, NetworkNamespacePath: g.network.path(), Annotations: map[string]string{
			rawInitData: raw, "io.kubernetes.cri.sandbox-name": name, "io.kubernetes.cri.sandbox-namespace": namespace,
		},
	})
	if err != nil {
		return err
	}
	g.Address = "unix://" + vm.AgentSocketPath
	g.Logs = filepath.Join(g.host.dir, "log", namespace+"_"+name+"_"+g.id)
	return nil
}

// boot runs the guest until its agent serves.
func (g *Guest) boot(ctx context.Context) error {
	_, err := g.host.vms.StartVM(ctx, &hypervisorpb.StartVMRequest{Id: g.id})
	return err
}

// Stop ends the guest. Its logs stay until the host is closed. Stopping it again is no error.
func (g *Guest) Stop() error {
	g.host.mu.Lock()
	_, known := g.host.guests[g.id]
	delete(g.host.guests, g.id)
	g.host.mu.Unlock()
	if !known {
		return nil
	}
	var errs []error
	if g.Address != "" {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		_, err := g.host.vms.StopVM(ctx, &hypervisorpb.StopVMRequest{Id: g.id})
		errs = append(errs, err)
	}
	g.registry.stop(syscall.SIGKILL)
	if g.network != nil {
		errs = append(errs, g.network.close())
	}
	return errors.Join(errs...)
}

// Close stops all guests and the daemon and removes what they left, logs included.
func (h *Host) Close() error {
	var errs []error
	h.mu.Lock()
	all := make([]*Guest, 0, len(h.guests))
	for _, g := range h.guests {
		all = append(all, g)
	}
	h.mu.Unlock()
	for _, g := range all {
		errs = append(errs, g.Stop())
	}
	if h.conn != nil {
		errs = append(errs, h.conn.Close())
	}
	// Told to end, the daemon takes its cgroups away.
	h.daemon.stop(syscall.SIGTERM)
	return errors.Join(append(errs, h.scratch.Remove())...)
}

// process is a program that runs for this one.
type process struct {
	name, log string
	cmd       *exec.Cmd
	exited    chan struct{}
	err       error // set when exited is closed
}

// start starts a program in a network, or in this process's for nil.
func start(n *network, log string, argv ...string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	p := &process{name: filepath.Base(argv[0]), log: log, cmd: exec.Command(argv[0], argv[1:]...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A Ctrl-C at the terminal is for who uses the guest and then stops this in order; a
	// death in the middle of it takes the program along.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		defer close(p.exited)
		defer out.Close()
		// The signal above comes when the starting thread ends: it is kept to the program's
		// end. A thread that has gone into a network is of no use to others, so it ends then.
		err := n.enter(p.cmd.Start)
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	return p, nil
}

// dial connects to where the program is going to serve.
func (p *process) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			return conn, nil
		}
		select {
		case <-p.exited:
			text, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("%s ended at once: %v\n%s", p.name, p.err, text)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not serve: %w", p.name, err)
		case <-tick.C:
		}
	}
}

// stop ends the program, by force when it does not go by itself. It is safe on a nil process.
func (p *process) stop(s syscall.Signal) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(s) // fails only when it has ended
	select {
	case <-p.exited:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}
