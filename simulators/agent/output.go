package agent

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxRead bounds one answer to ReadStdout or ReadStderr, in bytes.
	maxRead = 1 << 20
	// maxLeft bounds what is read after the time to drain: more than a pipe or
	// a terminal holds.
	maxLeft = 1 << 20
)

// output is a stream that a process writes and the agent reads.
type output struct {
	file *os.File

	mu   sync.Mutex
	left int // bytes that may still be read after the time to drain
}

// newOutput is nil when from is no file, as for a stream that is not there.
func newOutput(from io.Reader) *output {
	f, ok := from.(*os.File)
	if !ok || f == nil {
		return nil
	}
	return &output{file: f, left: maxLeft}
}

// read returns what the stream has, at most n bytes; nothing at its end.
func (o *output) read(n uint32) ([]byte, error) {
	if o == nil {
		return nil, nil
	}
	buf := make([]byte, min(n, maxRead))
	got, err := o.file.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		got, err = o.leftover(buf)
	}
	if got > 0 {
		return buf[:got], nil
	}
	// A terminal whose last process is gone answers EIO.
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) || errors.Is(err, os.ErrClosed) {
		return nil, nil
	}
	return nil, err
}

// leftover reads what a process left in its stream, however late the reader
// comes: time ends the wait for more, it does not take away what was said. The
// first time that there is nothing, or too much, is the end, so that a writer
// which outlives the process cannot keep the stream open.
func (o *output) leftover(buf []byte) (got int, err error) {
	conn, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	buf = buf[:min(len(buf), o.left)]
	if len(buf) == 0 {
		return 0, nil
	}
	// Control, not Read: the deadline has passed for that one too. The
	// descriptor does not block.
	if controlErr := conn.Control(func(fd uintptr) { got, err = unix.Read(int(fd), buf) }); controlErr != nil {
		return 0, controlErr
	}
	if got <= 0 {
		o.left, got = 0, 0
	}
	o.left -= got
	if errors.Is(err, unix.EAGAIN) {
		err = nil
	}
	return got, err
}
