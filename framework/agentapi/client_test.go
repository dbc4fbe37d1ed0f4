package agentapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

type health struct{}

func (health) Check(context.Context, *agentpb.CheckRequest) (*agentpb.HealthCheckResponse, error) {
	return &agentpb.HealthCheckResponse{Status: agentpb.HealthCheckResponse_SERVING}, nil
}

func (health) Version(context.Context, *agentpb.CheckRequest) (*agentpb.VersionCheckResponse, error) {
	return &agentpb.VersionCheckResponse{AgentVersion: "4.1.0"}, nil
}

// listen serves Health on a unix socket, behind a VMM's CONNECT when answer is not "".
func listen(t *testing.T, answer string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if answer != "" {
		l = &vmm{l, answer}
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	agentpb.RegisterHealthService(s, health{})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(context.Background(), l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return path
}

type vmm struct {
	net.Listener
	answer string
}

func (v *vmm) Accept() (net.Conn, error) {
	c, err := v.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if line, err := bufio.NewReaderSize(oneByte{c}, 16).ReadString('\n'); err != nil || line != "CONNECT 1024\n" {
		_ = c.Close()
		return c, nil
	}
	_, err = c.Write([]byte(v.answer))
	return c, err
}

func TestDial(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, address := range []string{
		"unix://" + listen(t, ""), "hvsock://" + listen(t, "OK 5\n"), "hvsock://" + listen(t, "OK 5\n") + ":1024",
	} {
		c, err := Dial(ctx, address)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Health.Check(ctx, &agentpb.CheckRequest{})
		if err != nil || r.Status != agentpb.HealthCheckResponse_SERVING {
			t.Errorf("%s: %v, %v", address, r, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDialRefusals(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for address, want := range map[string]string{
		"tcp://127.0.0.1:1":                "unknown kind of address",
		"unix:///nowhere/at/all":           "no such file",
		"vsock://x:1024":                   "context id",
		"vsock://3:x":                      "port",
		"hvsock://" + listen(t, "NO\n"):    "CONNECT refused",
		"hvsock://" + listen(t, "") + ":x": "port",
	} {
		if _, err := Dial(ctx, address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", address, err, want)
		}
	}
}

// Who answers never is waited for as long as the caller wants, not longer.
func TestDialCancelled(t *testing.T) {
	silent, err := net.Listen("unix", filepath.Join(t.TempDir(), "vmm.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		c, err := silent.Accept()
		cancel()
		if err == nil {
			defer c.Close()
			_, _ = io.Copy(io.Discard, c)
		}
	}()
	if _, err := Dial(ctx, "hvsock://"+silent.Addr().String()); !errors.Is(err, context.Canceled) {
		t.Errorf("a VMM that does not answer: %v", err)
	}

	// Context id 1 is this machine, where the kernel can loop back; no agent is there.
	_, err = Dial(ctx, "vsock://1:15001")
	if errors.Is(err, unix.EAFNOSUPPORT) {
		t.Skip("the kernel has no vsock")
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("vsock: %v", err)
	}
}
