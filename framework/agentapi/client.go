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
	"strconv"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/mdlayher/socket"
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
		return dialVsock(ctx, uint32(n), port)
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
	// A VMM answers when the guest does, which may be never.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	if err := connectHybrid(conn, port); err != nil {
		stop()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, errors.Join(err, conn.Close())
	}
	if !stop() {
		return nil, errors.Join(context.Cause(ctx), conn.Close())
	}
	return conn, nil
}

func connectHybrid(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	// One byte at a time: what follows the line belongs to the protocol.
	line, err := bufio.NewReaderSize(oneByte{conn}, 16).ReadString('\n')
	if err != nil {
		return fmt.Errorf("no answer to CONNECT: %w", err)
	}
	if !strings.HasPrefix(line, "OK ") {
		return fmt.Errorf("CONNECT refused: %q", strings.TrimSpace(line))
	}
	return nil
}

type oneByte struct{ net.Conn }

func (o oneByte) Read(b []byte) (int, error) { return o.Conn.Read(b[:1]) }

// dialVsock connects to a port of the virtual machine with the context id.
func dialVsock(ctx context.Context, cid, port uint32) (net.Conn, error) {
	conn, err := socket.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0, "vsock", nil)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Connect(ctx, &unix.SockaddrVM{CID: cid, Port: port}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return vsockConn{conn}, nil
}

// vsockConn gives a socket the addresses that package net wants; it knows none of vsock's.
type vsockConn struct{ *socket.Conn }

func (vsockConn) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "vsock", Net: "vsock"} }
func (vsockConn) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "vsock", Net: "vsock"} }
