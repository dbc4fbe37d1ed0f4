package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
)

// machine is one node of a cluster. What it has of this machine's disk is in
// its directory below the cluster's.
type machine struct {
	c *Cluster
	// index is 0 for the control plane.
	index int
	state machineState
}

// machineState is what another process needs in order to reach a node.
type machineState struct {
	Name string `json:"name"`
	// PID is the node's first process as this machine numbers it.
	PID int `json:"pid"`
}

var _ cluster.Node = (*machine)(nil)

func (m *machine) path(elem ...string) string {
	return m.c.path(append([]string{"nodes", m.state.Name}, elem...)...)
}

func (m *machine) ip() net.IP { return m.c.state.node(m.index) }

// create makes the node's namespaces, without anything running in them.
func (m *machine) create(ctx context.Context) error {
	if err := m.layOut(); err != nil {
		return err
	}
	console, err := os.Create(m.path("console.log"))
	if err != nil {
		return err
	}
	defer console.Close()
	pidFile := m.path("init.pid")
	create := m.runc(ctx, "create", "--bundle", m.path("bundle"), "--pid-file", pidFile, m.state.Name)
	create.Stdout, create.Stderr = console, console
	if err := create.Run(); err != nil {
		return fmt.Errorf("runc create: %w: %s", err, lastOf(m.path("console.log")))
	}
	m.state.PID, err = readPID(pidFile)
	return err
}

// start starts the node's first process.
func (m *machine) start(ctx context.Context) error {
	if out, err := m.runc(ctx, "start", m.state.Name).CombinedOutput(); err != nil {
		return fmt.Errorf("runc start: %w: %s", err, out)
	}
	return nil
}

// runc returns a runc command on this cluster's own runc state.
func (m *machine) runc(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "runc", append([]string{"--root", m.c.path("runc")}, args...)...)
}

func (m *machine) delete(ctx context.Context) error {
	if _, err := os.Stat(m.c.path("runc", m.state.Name)); err != nil {
		return nil
	}
	if out, err := m.runc(ctx, "delete", "--force", m.state.Name).CombinedOutput(); err != nil {
		return fmt.Errorf("runc delete %s: %w: %s", m.state.Name, err, out)
	}
	return nil
}

// Name is the node's name in Kubernetes.
func (m *machine) Name() string { return m.state.Name }

// Logs is the node's /var/log as this machine sees it.
func (m *machine) Logs() string { return m.path("var/log") }

// Exec runs argv on the node and waits.
func (m *machine) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	// Of one writer each: os/exec writes both at the same time.
	var out, stderr bytes.Buffer
	cmd := m.runc(ctx, append([]string{"exec", m.state.Name}, argv...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &stderr
	if stdout != nil {
		cmd.Stdout = io.MultiWriter(stdout, &out)
	}
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String() + stderr.String())
		if len(text) > 2000 {
			text = "…" + text[len(text)-2000:]
		}
		return fmt.Errorf("%s on node %s: %w: %s", argv[0], m.state.Name, err, text)
	}
	return nil
}

// Start runs argv on the node, detached.
func (m *machine) Start(ctx context.Context, log string, argv ...string) error {
	script := `log=$1; shift; mkdir -p "${log%/*}"; exec "$@" >> "$log" 2>&1 < /dev/null`
	args := append([]string{"exec", "--detach", m.state.Name, "/bin/sh", "-c", script, "sh", log}, argv...)
	cmd := m.runc(ctx, args...)
	// A detached command keeps the caller's streams: it must get none of ours.
	console, err := os.OpenFile(m.path("console.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("start %s on node %s: %w", argv[0], m.state.Name, err)
	}
	return nil
}
