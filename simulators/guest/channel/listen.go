// Package channel is how the guest's programs talk to each other: ttrpc over unix sockets named unix:///path.
//
// It must not know what is said over a channel.
package channel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/ttrpc"
)

// Sockets where the guest's programs meet unless told otherwise (guest-components).
const (
	AttestationAgent    = "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"
	ConfidentialDataHub = "unix:///run/confidential-containers/cdh.sock"
)

const (
	scheme = "unix://"
	// maxPath is what the kernel leaves of sun_path after the terminating zero and the forerunner's suffix.
	maxPath = 106
)

// Path gives the path in an address of the form unix:///path.
func Path(address string) (string, error) {
	path, ok := strings.CutPrefix(address, scheme)
	if !ok || !filepath.IsAbs(path) {
		return "", fmt.Errorf("socket address %q: want unix:///absolute/path", address)
	}
	if len(path) > maxPath {
		return "", fmt.Errorf("socket address %q: path of %d bytes, limit %d", address, len(path), maxPath)
	}
	return path, nil
}

// Listen makes the socket at address, and the directories above it. The socket appears under its name only when it
// takes connections, so that waiting for the file is waiting for the service; a stale one there is replaced. Only its
// owner can connect. [Serve] removes it.
func Listen(address string) (net.Listener, error) {
	path, err := Path(address)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket directory: %w", err)
	}
	forerunner := path + "~"
	if err := os.Remove(forerunner); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("stale socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: forerunner, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	err = os.Chmod(forerunner, 0o600)
	if err == nil {
		err = os.Rename(forerunner, path)
	}
	if err != nil {
		_ = listener.Close()
		_ = os.Remove(forerunner)
		return nil, fmt.Errorf("socket: %w", err)
	}
	return &removing{Listener: listener, path: path}, nil
}

// removing removes the socket's name when the listener closes.
type removing struct {
	net.Listener
	path string
}

func (r *removing) Close() error {
	err := r.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil // ttrpc closes listeners twice
	}
	if removed := os.Remove(r.path); err == nil && !errors.Is(removed, os.ErrNotExist) {
		err = removed
	}
	return err
}

// Serve answers on listener with the services that register adds, until ctx is done: then it closes the listener and
// all connections, cancels requests at work and returns nil.
func Serve(ctx context.Context, listener net.Listener, register func(*ttrpc.Server)) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return errors.Join(fmt.Errorf("ttrpc server: %w", err), listener.Close())
	}
	register(server)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(ctx, listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("ttrpc server: %w", err)
	}
	return nil
}
