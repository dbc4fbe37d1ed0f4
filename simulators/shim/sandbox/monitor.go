package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// monitorSocket is the name of a sandbox's management socket (Kata
// src/runtime/pkg/containerd-shim-v2/shim_management.go).
const monitorSocket = "shim-monitor.sock"

// monitor serves the management socket of one sandbox. Of Kata's routes it has
// the one that tells where the agent listens.
type monitor struct {
	dir    string
	server *http.Server
}

// monitorDir is where the sandbox's management socket is, or "".
func monitorDir(options Options) string {
	if options.Config.MonitorDir == "" {
		return ""
	}
	return filepath.Join(options.Config.MonitorDir, options.ID)
}

// serveMonitor makes the socket in dir; without a dir there is none.
func serveMonitor(dir, agentSocket string) (*monitor, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("management socket: %w", err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, monitorSocket))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("management socket: %w", err), os.RemoveAll(dir))
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /agent-url", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "remote://"+agentSocket) })
	m := &monitor{dir: dir, server: &http.Server{Handler: routes, ReadHeaderTimeout: 10 * time.Second}}
	go func() { _ = m.server.Serve(listener) }() // ends with close
	return m, nil
}

// close takes the socket away.
func (m *monitor) close() error {
	if m == nil {
		return nil
	}
	return errors.Join(m.server.Close(), os.RemoveAll(m.dir))
}
