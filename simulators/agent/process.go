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
)

// process is a process of a container: its first one, or one that was execed.
type process struct {
	pid int
	// ready says that all that is here is set; the agent's mu guards it. Until
	// then nobody but who starts the process may look at it.
	ready bool
	// reaped says that somebody was told of its end; the agent's mu guards it.
	reaped         bool
	stdin          io.WriteCloser // nil with a terminal
	stdout, stderr *output        // with a terminal there is only stdout, the console's
	console        console.Console

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
		for _, o := range []*output{p.stdout, p.stderr} {
			if o != nil {
				_ = o.file.SetReadDeadline(time.Now().Add(drain))
			}
		}
	}()
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
		// Not through p.console, whose descriptor shares its non-blocking state
		// with this one but does not wait when the terminal's buffer is full.
		_, err := p.stdout.file.Write(data)
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
		return said(codes.Unavailable, "no tty")
	}
	return p.console.Resize(console.WinSize{Height: uint16(rows), Width: uint16(columns)})
}

func (p *process) close() {
	p.closeStdin()
	for _, o := range []*output{p.stdout, p.stderr} {
		if o != nil {
			_ = o.file.Close()
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
		p.stdout = newOutput(os.NewFile(uintptr(fd), "console"))
		return s.socket.Close()
	}
	p.stdin = s.io.Stdin()
	p.stdout, p.stderr = newOutput(s.io.Stdout()), newOutput(s.io.Stderr())
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
