package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// process is a process of a container: its first one, or one that was execed.
type process struct {
	pid int
	// ready says that all that is here is set; the agent's mu guards it. Until
	// then nobody but who starts the process may look at it.
	ready bool
	// Of a process without a terminal.
	stdin          io.WriteCloser
	stdout, stderr *os.File
	// Of one with a terminal; stdout is then the console's too.
	console console.Console

	// exited is closed when code is known.
	exited chan struct{}
	code   int

	stdinOnce sync.Once
}

// watch waits for the exit; the streams then end soon, whoever still holds them.
func (p *process) watch(exit <-chan int) {
	go func() {
		p.code = <-exit
		close(p.exited)
		for _, f := range []*os.File{p.stdout, p.stderr} {
			if f != nil {
				_ = f.SetReadDeadline(time.Now().Add(drain))
			}
		}
	}()
}

// read returns what the stream has, at most n bytes; nothing at its end.
func read(f *os.File, n uint32) ([]byte, error) {
	if f == nil {
		return nil, nil
	}
	buf := make([]byte, min(n, 1<<20))
	got, err := f.Read(buf)
	if got > 0 {
		return buf[:got], nil
	}
	// A terminal whose last process is gone answers EIO.
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EIO) || errors.Is(err, os.ErrClosed) {
		return nil, nil
	}
	return nil, err
}

func (p *process) closeStdin() {
	p.stdinOnce.Do(func() {
		if p.stdin != nil {
			_ = p.stdin.Close()
		}
	})
}

func (p *process) write(data []byte) error {
	switch {
	case p.console != nil:
		_, err := p.console.Write(data)
		return err
	case len(data) == 0:
		p.closeStdin()
		return nil
	case p.stdin == nil:
		return errors.New("no stdin")
	}
	_, err := p.stdin.Write(data)
	return err
}

func (p *process) resize(rows, columns uint32) error {
	if p.console == nil {
		return status.Error(codes.Unavailable, "no tty")
	}
	return p.console.Resize(console.WinSize{Height: uint16(rows), Width: uint16(columns)})
}

func (p *process) close() {
	p.closeStdin()
	for _, c := range []io.Closer{p.stdout, p.stderr} {
		if f, ok := c.(*os.File); ok && f != nil {
			_ = f.Close()
		}
	}
	if p.console != nil {
		_ = p.console.Close()
	}
}

// streams are what a process is started with.
type streams struct {
	io     runc.IO
	socket *runc.Socket
}

func newStreams(terminal bool, uid, gid int) (*streams, error) {
	if terminal {
		s, err := runc.NewTempConsoleSocket()
		return &streams{socket: s}, err
	}
	p, err := runc.NewPipeIO(uid, gid)
	return &streams{io: p}, err
}

// attach gives p its ends of the streams once it was started.
func (s *streams) attach(_ context.Context, p *process) error {
	if s.socket != nil {
		master, err := s.socket.ReceiveMaster()
		if err != nil {
			return err
		}
		p.console = master
		// Read through a descriptor of its own that can time out.
		fd, err := unix.Dup(int(master.Fd()))
		if err != nil {
			return err
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		p.stdout = os.NewFile(uintptr(fd), "console")
		return s.socket.Close()
	}
	p.stdin = s.io.Stdin()
	p.stdout, _ = s.io.Stdout().(*os.File)
	p.stderr, _ = s.io.Stderr().(*os.File)
	return nil
}

func (s *streams) close() {
	if s.socket != nil {
		_ = s.socket.Close()
	}
	if s.io != nil {
		_ = s.io.Close()
	}
}
