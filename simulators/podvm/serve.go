package podvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/config"
)

// closeTimeout bounds stopping all VMs when the daemon ends.
const closeTimeout = 30 * time.Second

// Serve is the daemon: it serves until ctx ends, then stops all VMs and removes everything but logs.
func Serve(ctx context.Context, c config.Config, log *slog.Logger) error {
	s, err := New(c, log)
	if err != nil {
		return err
	}
	err = s.serve(ctx)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, s.Close(closing))
}

// serve answers on the sockets of all classes; the first that fails ends all.
func (s *Service) serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range s.classes {
		group.Go(func() error { return c.serve(ctx) })
	}
	return group.Wait()
}

func (c *class) serve(ctx context.Context) error {
	listener, err := listen(c.Socket)
	if err != nil {
		return err
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	hypervisorpb.RegisterHypervisorService(server, c)
	c.log.Info("serving", "socket", c.Socket, "tee", c.TEE, "pool", c.Pool, "event_log", c.EventLog)
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	// Closing the server closes the listener, which removes the socket.
	if err := server.Serve(context.WithoutCancel(ctx), listener); err != nil && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("serve %s: %w", c.Socket, err), server.Close())
	}
	return nil
}

// listen makes the socket, in the place of one that a killed daemon left.
func listen(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s is served by another process: stop it, or set another socket", path)
	} else if errors.Is(err, unix.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("socket left by an earlier podvm: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), listener.Close())
	}
	return listener, nil
}
