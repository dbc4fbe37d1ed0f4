package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// maxConnections bounds what a guest can make the host hold open. A guest uses a handful.
const maxConnections = 256

// Server serves one TPM to many connections. Connections share all of its state, as processes that open /dev/tpm0 one
// after another do: loaded objects and sessions are theirs to flush.
type Server struct {
	// Execute runs one command; the server never calls it twice at a time. On an error the client is told that the TPM
	// has failed.
	Execute func(command []byte) (response []byte, err error)
	// Name names a command by its code, for the log. Nil is TPM 2.0's commands.
	Name func(code uint32) string
	// Log gets one record for each connection that breaks and for each command, never with parameters.
	Log *slog.Logger

	turn        sync.Mutex // held while the TPM works
	connections sync.WaitGroup
	mutex       sync.Mutex // guards open
	open        map[net.Conn]struct{}
}

// Listen makes a unix socket at path that only its owner can connect to. The socket appears under path when it already
// takes connections; a stale one there is replaced. The caller removes it.
func Listen(path string) (net.Listener, error) {
	// The name of the forerunner is short, because the kernel bounds socket paths to 107 bytes.
	forerunner := path + "~"
	if err := os.Remove(forerunner); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("TPM socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: forerunner, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("TPM socket %s (%d bytes, limit 106): %w", path, len(path), err)
	}
	listener.SetUnlinkOnClose(false)
	err = os.Chmod(forerunner, 0o600)
	if err == nil {
		err = os.Rename(forerunner, path)
	}
	if err != nil {
		_ = listener.Close()
		_ = os.Remove(forerunner)
		return nil, fmt.Errorf("TPM socket: %w", err)
	}
	return listener, nil
}

// Serve accepts connections until ctx is done, then closes listener and all connections, waits for the command at work,
// and returns nil. It returns an error if accepting fails before.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	s.open = map[net.Conn]struct{}{}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	defer s.connections.Wait()
	defer s.closeAll()
	for number := 1; ; number++ {
		connection, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("TPM socket: accept: %w", err)
		}
		log := s.Log.With("connection", number)
		if !s.admit(connection) {
			log.Warn("connection refused", "open", maxConnections, "remedy", "close connections that are done")
			_ = connection.Close()
			continue
		}
		s.connections.Go(func() {
			defer s.dismiss(connection)
			if err := s.converse(connection, log); err != nil && ctx.Err() == nil {
				log.Warn("connection closed", "error", err.Error())
			}
		})
	}
}

// converse answers commands until the client hangs up, which is no error.
func (s *Server) converse(connection io.ReadWriter, log *slog.Logger) error {
	for {
		command, err := ReadCommand(connection)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := connection.Write(s.answer(command, log)); err != nil {
			return fmt.Errorf("write response: %w", err)
		}
	}
}

func (s *Server) answer(command []byte, log *slog.Logger) []byte {
	s.turn.Lock()
	defer s.turn.Unlock()
	start := time.Now()
	response, err := s.Execute(command)
	if err != nil {
		log.Error("TPM failed", "error", err.Error())
		response = failure()
	}
	log.Info("command", "code", s.name(code(command)), "rc", fmt.Sprintf("%#03x", code(response)),
		"duration_us", time.Since(start).Microseconds())
	return response
}

func (s *Server) name(code uint32) string {
	if s.Name != nil {
		return s.Name(code)
	}
	return commandName(code)
}

func (s *Server) admit(connection net.Conn) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.open) >= maxConnections {
		return false
	}
	s.open[connection] = struct{}{}
	return true
}

func (s *Server) dismiss(connection net.Conn) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.open, connection)
	_ = connection.Close()
}

func (s *Server) closeAll() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for connection := range s.open {
		_ = connection.Close()
	}
}
