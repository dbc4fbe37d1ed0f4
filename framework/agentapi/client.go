// Package agentapi reaches a Kata agent by its own protocol, past Kubernetes
// and containerd, as whoever controls the host can. The messages are in
// agentpb, generated from the protocol's definitions.
//
// It must not know what a request is for, nor what a policy says of it.
package agentapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// VsockPort is where an agent listens in a virtual machine (Kata
// DEFAULT_AGENT_VSOCK_PORT).
const VsockPort = 1024

// Client is a connection to an agent. It is safe for concurrent use.
type Client struct {
	// Agent and Health are the agent's two services.
	Agent  agentpb.AgentServiceService
	Health agentpb.HealthService

	ttrpc *ttrpc.Client
}

// Dial connects to the agent at address:
//
//	unix:///path            a unix socket, as peer pods and simulated guests have
//	vsock://cid:port        a virtual machine's socket; port defaults to 1024
//	remote:///path          the same, as Kata's shim names that of peer pods
//	hvsock:///path:port     hybrid vsock: a unix socket of the VMM that forwards to a port
//
// An address of another form is an error that says so; one where nobody
// listens is the system's error.
func Dial(ctx context.Context, address string) (*Client, error) {
	conn, err := DialConn(ctx, address)
	if err != nil {
		return nil, err
	}
	return NewClient(conn), nil
}

// NewClient speaks to the agent at the other end of conn, which it takes over.
func NewClient(conn net.Conn) *Client {
	c := ttrpc.NewClient(conn)
	return &Client{Agent: agentpb.NewAgentServiceClient(c), Health: agentpb.NewHealthClient(c), ttrpc: c}
}

// DialConn connects as Dial does and leaves what is said to the caller: for
// whoever wants to say what no client would.
func DialConn(ctx context.Context, address string) (net.Conn, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("agent at %s: %w", address, err)
	}
	return conn, nil
}

// Call calls a method of a service by their names, such as grpc.AgentService
// and GetMetrics, for callers that choose them at run time.
func (c *Client) Call(ctx context.Context, service, method string, in, out any) error {
	return c.ttrpc.Call(ctx, service, method, in, out)
}

// Close ends the connection and all calls on it.
func (c *Client) Close() error { return c.ttrpc.Close() }

func dial(ctx context.Context, address string) (net.Conn, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "unix", "remote":
		return (&net.Dialer{}).DialContext(ctx, "unix", rest)
	case "hvsock":
		path, port, err := splitPort(rest)
		if err != nil {
			return nil, err
		}
		return dialHybrid(ctx, path, port)
	case "vsock":
		cid, port, err := splitPort(rest)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(cid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("context id %q: give a number", cid)
		}
		return dialVsock(uint32(n), port)
	}
	return nil, errors.New("unknown kind of address: use unix:///path, vsock://cid:port or hvsock:///path:port")
}

func splitPort(s string) (string, uint32, error) {
	at, text, ok := strings.Cut(s, ":")
	if !ok {
		return at, VsockPort, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return "", 0, fmt.Errorf("port %q: give a number", text)
	}
	return at, uint32(n), nil
}

// dialHybrid asks the VMM at path for the guest's port: "CONNECT port", and
// "OK n" in return (Cloud Hypervisor, Firecracker, Dragonball).
func dialHybrid(ctx context.Context, path string, port uint32) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// One byte at a time: what follows the line belongs to the protocol.
	line, err := bufio.NewReaderSize(oneByte{conn}, 16).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("no answer to CONNECT: %w", err), conn.Close())
	}
	if !strings.HasPrefix(line, "OK ") {
		return nil, errors.Join(fmt.Errorf("CONNECT refused: %q", strings.TrimSpace(line)), conn.Close())
	}
	return conn, conn.SetDeadline(time.Time{})
}

type oneByte struct{ net.Conn }

func (o oneByte) Read(b []byte) (int, error) { return o.Conn.Read(b[:1]) }

// dialVsock connects to a port of the virtual machine with the context id.
func dialVsock(cid, port uint32) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "vsock")
	// The net package knows no vsock; a file that can time out is enough of a connection.
	return fileConn{f}, nil
}

// fileConn is a connection over a file.
type fileConn struct{ *os.File }

func (fileConn) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "vsock", Net: "vsock"} }
func (fileConn) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "vsock", Net: "vsock"} }
