package sandbox

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync"

	"github.com/containerd/fifo"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// readSize is how much output is asked for at a time, and how much input is sent (Kata virtcontainers/iostream.go).
const readSize = 32768

// IO names a process's streams: fifos or files on the node, or nothing.
type IO struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// streams copies between the node's fifos and the guest.
type streams struct {
	process        *Process
	stdin          io.ReadCloser
	stdout, stderr *os.File
	readers        sync.WaitGroup
	stdinSent      chan struct{} // closed when all input has been sent, or could not be
	closeOnce      sync.Once
}

// openStreams opens what the process has. Output fifos are opened for reading too, so that a restart of containerd,
// which is their reader, does not break them.
func openStreams(p *Process) (_ *streams, err error) {
	s := &streams{process: p, stdinSent: make(chan struct{})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if p.io.Stdin != "" {
		// The fifo lives longer than any call: it must not hang on a call's context.
		s.stdin, err = fifo.OpenFifo(context.Background(), p.io.Stdin, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, fmt.Errorf("open stdin: %w", err)
		}
	}
	if s.stdout, err = openOutput(p.io.Stdout); err != nil {
		return nil, fmt.Errorf("open stdout: %w", err)
	}
	if s.stderr, err = openOutput(p.io.Stderr); err != nil {
		return nil, fmt.Errorf("open stderr: %w", err)
	}
	return s, nil
}

// openOutput opens a fifo's path, or a file that a URL names. Logging programs (binary://) are not supported.
func openOutput(name string) (*os.File, error) {
	if name == "" {
		return nil, nil
	}
	flags := os.O_RDWR
	location, err := url.Parse(name)
	if err != nil {
		return nil, err
	}
	switch location.Scheme {
	case "":
	case "fifo":
		name = location.Path
	case "file":
		name, flags = location.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE
	default:
		return nil, fmt.Errorf("%s: only fifos and file:// are supported", name)
	}
	return os.OpenFile(name, flags, 0o600)
}

// run starts the copying. A process without any stream is not read from.
func (s *streams) run() {
	service := s.process.container.sandbox.agent.service
	if s.stdin != nil {
		go s.copyInput()
	} else {
		close(s.stdinSent)
	}
	if s.stdout != nil {
		s.readers.Go(func() { s.copyOutput(service.ReadStdout, s.stdout) })
	}
	if s.stderr != nil {
		s.readers.Go(func() { s.copyOutput(service.ReadStderr, s.stderr) })
	}
}

// drained returns when all output has ended.
func (s *streams) drained() { s.readers.Wait() }

// close closes everything that is open.
func (s *streams) close() {
	s.closeOnce.Do(func() {
		if s.stdin != nil {
			s.stdin.Close()
		}
		if s.stdout != nil {
			s.stdout.Close()
		}
		if s.stderr != nil {
			s.stderr.Close()
		}
	})
}

// copyOutput copies until the guest says the end with empty data or an error. When nobody takes the output any more
// it goes on reading, so that the process does not block on a full pipe.
func (s *streams) copyOutput(read func(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error), to *os.File) {
	request := &agentpb.ReadStreamRequest{
		ContainerId: s.process.container.options.ID, ExecId: s.process.guestID, Len: readSize,
	}
	broken := false
	for {
		response, err := call(context.Background(), noTimeout, read, request)
		if err != nil || len(response.Data) == 0 {
			if err != nil {
				log.L.WithError(err).WithField("process", s.process.guestID).Debug("output ended")
			}
			return
		}
		if broken {
			continue
		}
		if _, err := to.Write(response.Data); err != nil {
			log.L.WithError(err).WithField("process", s.process.guestID).Warn("output cannot be written and is dropped")
			broken = true
		}
	}
}

// copyInput copies until the input ends. What the guest refuses is dropped, so that the writer does not block.
func (s *streams) copyInput() {
	defer close(s.stdinSent)
	buffer := make([]byte, readSize)
	refused := false
	for {
		n, err := s.stdin.Read(buffer)
		if n > 0 && !refused {
			if err := s.send(buffer[:n]); err != nil {
				log.L.WithError(err).WithField("process", s.process.guestID).Warn("input is refused and dropped")
				refused = true
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *streams) send(data []byte) error {
	for len(data) > 0 {
		response, err := call(context.Background(), noTimeout, s.process.container.sandbox.agent.service.WriteStdin,
			&agentpb.WriteStreamRequest{ContainerId: s.process.container.options.ID, ExecId: s.process.guestID, Data: data})
		if err != nil {
			return err
		}
		if response.Len == 0 || int(response.Len) > len(data) {
			return fmt.Errorf("the agent took %d bytes of %d", response.Len, len(data))
		}
		data = data[response.Len:]
	}
	return nil
}
