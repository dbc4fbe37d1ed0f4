package teepool

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fake is a TEE as far as a pool knows: a file at the socket's path and a line on standard output.
const fake = `#!/bin/sh
[ ! -e "$0.broken" ] || { echo "no luck" >&2; exit 1; }
[ ! -e "$0.gate" ] || read x < "$0.gate"
: > "$2"; echo log > "$4"; echo key > "$6"; echo READY
exec sleep 1000
`

func newPool(t *testing.T, size int) (pool *Pool, started *atomic.Int32) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "tpm")
	if err := os.WriteFile(program, []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	started = new(atomic.Int32)
	pool = &Pool{
		Program: program, Size: size, SocketDir: filepath.Join(dir, "s"), LogDir: filepath.Join(dir, "l"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Spawn: func(argv []string, files *Files) (*os.Process, error) {
			started.Add(1)
			return os.StartProcess(argv[0], argv, &os.ProcAttr{Files: []*os.File{nil, files.Stdout, files.Stderr}})
		},
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
		for _, path := range []string{pool.SocketDir, pool.LogDir} {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", path, err)
			}
		}
		if _, err := pool.Take(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("Take of a closed pool: %v", err)
		}
	})
	return pool, started
}

func (p *Pool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ready)
}

func poll(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not seen in 10 s", what)
		}
	}
}

func TestTakeAndRefill(t *testing.T) {
	p, started := newPool(t, 2)
	p.Fill()
	poll(t, "a full pool", func() bool { return p.count() == 2 })
	tpm, err := p.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	poll(t, "a pool full again", func() bool { return p.count() == 2 })
	if n := started.Load(); n != 3 {
		t.Errorf("%d TEEs were started, want 3", n)
	}
	socket, log := filepath.Join(t.TempDir(), "socket"), filepath.Join(t.TempDir(), "log")
	if err := tpm.Move(socket, log); err != nil {
		t.Fatal(err)
	}
	tpm.Kill()
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if text, err := os.ReadFile(log); err != nil || string(text) != "log\n" {
		t.Errorf("the log that was moved: %q %v", text, err)
	}
}

func TestDeadTPMIsReplaced(t *testing.T) {
	p, _ := newPool(t, 1)
	p.Fill()
	poll(t, "a full pool", func() bool { return p.count() == 1 })
	p.mu.Lock()
	dead := p.ready[0]
	p.mu.Unlock()
	if err := dead.process.Kill(); err != nil {
		t.Fatal(err)
	}
	poll(t, "an empty pool", func() bool { return p.count() == 0 })
	tpm, err := p.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if tpm == dead {
		t.Error("got the dead one")
	}
	tpm.Kill()
}

func TestEmptyPool(t *testing.T) {
	p, started := newPool(t, 0)
	p.Fill()
	if n := started.Load(); n != 0 {
		t.Errorf("%d TEEs were started for a pool of none", n)
	}
	tpm, err := p.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tpm.Kill()
	if n := started.Load(); n != 1 {
		t.Errorf("%d TEEs were started, want 1", n)
	}
}

func TestFailure(t *testing.T) {
	p, _ := newPool(t, 1)
	broken := p.Program + ".broken"
	if err := os.WriteFile(broken, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.Fill()
	if _, err := p.Take(t.Context()); err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("got %v, want the TEE's words", err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	tpm, err := p.Take(t.Context())
	if err != nil {
		t.Fatalf("after the repair: %v", err)
	}
	tpm.Kill()
}

// TestAbandoned has nothing lost when a caller stops waiting.
func TestAbandoned(t *testing.T) {
	p, started := newPool(t, 0)
	// Opening a FIFO waits for its other end.
	gate := p.Program + ".gate"
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := p.Take(ctx); gone <- err }()
	poll(t, "a start", func() bool { return started.Load() == 1 })
	why := errors.New("the pod was deleted")
	cancel(why)
	if err := <-gone; !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	poll(t, "the TEE in the pool", func() bool { return p.count() == 1 })
	tpm, err := p.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tpm.Kill()
	if n := started.Load(); n != 1 {
		t.Errorf("%d TEEs were started, want 1", n)
	}
}
