package stream

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// log collects records from many goroutines.
type log struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (l *log) Write(line []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(line)
}

func (l *log) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}

// serve starts a server until the test ends, or until stop is called, which waits for it to end.
func serve(t *testing.T, execute func([]byte) ([]byte, error)) (path string, logged *log, stop func()) {
	t.Helper()
	path, logged = filepath.Join(t.TempDir(), "tpm.sock"), &log{}
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	server := &Server{Execute: execute, Log: slog.New(slog.NewTextHandler(logged, nil))}
	go func() { done <- server.Serve(ctx, listener) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return path, logged, stop
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	connection, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

func ask(t *testing.T, connection net.Conn, command string) string {
	t.Helper()
	if _, err := connection.Write(fromHex(t, command)); err != nil {
		t.Fatal(err)
	}
	response := make([]byte, MaxSize)
	n, err := connection.Read(response)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(response[:n])
}

func echo(command []byte) ([]byte, error) { return bytes.Clone(command), nil }

func TestMalformedCommandClosesItsConnectionOnly(t *testing.T) {
	path, logged, stop := serve(t, echo)
	sound, broken := dial(t, path), dial(t, path)
	if got := ask(t, sound, getRandom); got != getRandom {
		t.Errorf("before: %s", got)
	}
	if _, err := broken.Write(fromHex(t, "8001000010010000017b")); err != nil {
		t.Fatal(err)
	}
	if n, err := broken.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the connection with a malformed command: %d bytes, %v", n, err)
	}
	if got := ask(t, sound, getRandom); got != getRandom {
		t.Errorf("after: %s", got)
	}
	stop()
	for _, want := range []string{"size field says 4097 bytes", "code=GetRandom", "connection=2"} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, logged)
		}
	}
}

func TestPipelinedCommandsAreAnsweredInOrder(t *testing.T) {
	path, _, _ := serve(t, echo)
	connection := dial(t, path)
	if _, err := connection.Write(fromHex(t, getRandom+"80010000000a00000144")); err != nil {
		t.Fatal(err)
	}
	both := make([]byte, 22)
	if _, err := io.ReadFull(connection, both); err != nil || hex.EncodeToString(both) != getRandom+"80010000000a00000144" {
		t.Errorf("%x, %v", both, err)
	}
}

func TestOneCommandAtATime(t *testing.T) {
	var working, executed atomic.Int32
	path, _, _ := serve(t, func(command []byte) ([]byte, error) {
		if working.Add(1) != 1 {
			t.Error("two commands at a time")
		}
		executed.Add(1)
		working.Add(-1)
		return command, nil
	})
	var clients sync.WaitGroup
	for range 8 {
		connection := dial(t, path)
		clients.Go(func() {
			for range 50 {
				if got := ask(t, connection, getRandom); got != getRandom {
					t.Errorf("got %s", got)
				}
			}
		})
	}
	clients.Wait()
	if executed.Load() != 400 {
		t.Errorf("%d commands executed", executed.Load())
	}
}

// A client that stalls within a command keeps nobody waiting.
func TestStalledClient(t *testing.T) {
	path, _, _ := serve(t, echo)
	stalled, other := dial(t, path), dial(t, path)
	if _, err := stalled.Write(fromHex(t, getRandom[:20])); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, other, getRandom); got != getRandom {
		t.Errorf("got %s", got)
	}
}

func TestFailedTPM(t *testing.T) {
	path, logged, _ := serve(t, func([]byte) ([]byte, error) { return nil, errors.New("internal failure") })
	// TPM_ST_NO_SESSIONS, 10 bytes, TPM_RC_FAILURE
	if got := ask(t, dial(t, path), getRandom); got != "80010000000a00000101" {
		t.Errorf("got %s", got)
	}
	if !strings.Contains(logged.String(), "internal failure") {
		t.Errorf("log: %s", logged)
	}
}

func TestTooManyConnections(t *testing.T) {
	path, _, _ := serve(t, echo)
	for range maxConnections {
		ask(t, dial(t, path), getRandom)
	}
	extra := dial(t, path)
	if n, err := extra.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("connection %d: %d bytes, %v", maxConnections+1, n, err)
	}
}

func TestStopClosesConnections(t *testing.T) {
	path, _, stop := serve(t, echo)
	connection := dial(t, path)
	ask(t, connection, getRandom)
	stop()
	if n, err := connection.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("the socket still takes connections")
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tpm.sock")
	for range 2 { // the second replaces what the first left
		listener, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
			t.Errorf("%v, %v", entries, err)
		}
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "limit 106") {
		t.Errorf("a path too long for a socket: %v", err)
	}
	if _, err := Listen("/nonexistent/tpm.sock"); err == nil {
		t.Error("a directory that is not there")
	}
}
