package agent

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// ended is a process that has ended, and whose time to drain is over.
func ended(t *testing.T, stdout *os.File) *process {
	t.Helper()
	p := &process{exited: make(chan struct{}), stdout: newOutput(stdout)}
	exit := make(chan int, 1)
	exit <- 0
	p.watch(exit)
	<-p.exited
	if err := stdout.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	return p
}

func readAll(t *testing.T, o *output, limit int) string {
	t.Helper()
	var all []byte
	for len(all) < limit {
		b, err := o.read(32768)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 {
			return string(all)
		}
		all = append(all, b...)
	}
	t.Fatalf("no end after %d bytes", len(all))
	return ""
}

func TestLateReaderGetsAll(t *testing.T) {
	for name, orphan := range map[string]bool{"nobody writes any more": false, "another still holds the pipe": true} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			want := strings.Repeat("x", 60000)
			if _, err := w.WriteString(want); err != nil {
				t.Fatal(err)
			}
			if !orphan {
				w.Close()
			}
			p := ended(t, r)
			if got := readAll(t, p.stdout, 1<<21); got != want {
				t.Errorf("%d bytes, want %d", len(got), len(want))
			}
			if _, err := w.WriteString("more"); orphan && err != nil {
				t.Fatal(err)
			}
			if got, err := p.stdout.read(100); len(got) != 0 || err != nil {
				t.Errorf("after the end: %q, %v", got, err)
			}
		})
	}
}

func TestOrphanCannotKeepTheStreamOpen(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for chunk := make([]byte, 4096); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}()
	p := ended(t, r)
	readAll(t, p.stdout, 4*maxLeft)
	r.Close()
	<-done
	w.Close()
}

// A terminal that is full makes the writer wait; it loses nothing.
func TestTerminalTakesLongInput(t *testing.T) {
	master, slave, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	p := &process{exited: make(chan struct{})}
	attachMaster(t, p, int(master.Fd()))
	defer p.close()
	f, err := os.OpenFile(slave, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tty, err := console.ConsoleFromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := tty.SetRaw(); err != nil {
		t.Fatal(err)
	}
	const size = 1 << 18
	written := make(chan error, 1)
	go func() { written <- p.write([]byte(strings.Repeat("x", size))) }()
	got := 0
	for buf := make([]byte, 4096); got < size; {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
		select {
		case err := <-written:
			if err != nil {
				t.Fatalf("write: %v after %d bytes", err, got)
			}
			written <- nil
		default:
		}
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// attachMaster hands a terminal over as runc does.
func attachMaster(t *testing.T, p *process, fd int) {
	t.Helper()
	s, err := runc.NewTempConsoleSocket()
	if err != nil {
		t.Fatal(err)
	}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	if err := unix.Connect(sock, &unix.SockaddrUnix{Name: s.Path()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(sock, []byte("ptmx"), unix.UnixRights(fd), nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := (&streams{socket: s}).attach(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func TestEphemeralKeepsItsMode(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a tmpfs")
	}
	for _, c := range []struct {
		options []string
		want    os.FileMode
	}{
		// As recorded from Kata's shim for /dev/shm.
		{[]string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"}, 0o777 | os.ModeSticky},
		{nil, 0o777 | os.ModeSticky},
		{[]string{"fsgid=2000"}, 0o777 | os.ModeSticky | os.ModeSetgid},
	} {
		a, dir := &Agent{}, t.TempDir()
		if err := a.mountEphemeral(&pb.Storage{MountPoint: dir, Options: c.options}); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(dir)
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		if err != nil || st.Mode().Perm()|st.Mode()&(os.ModeSticky|os.ModeSetgid) != c.want {
			t.Errorf("%q: mode %v (%v), want %v", c.options, st.Mode(), err, c.want)
		}
	}
}
