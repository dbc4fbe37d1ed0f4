package agent

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// children collects the exits of all processes of the guest: the agent is
// process 1, so the containers' first processes become its own when runc ends.
type children struct {
	mu sync.Mutex
	// waiting by pid; early holds exits that came before anybody waited,
	// kept only while a process is being started.
	waiting  map[int]chan int
	early    map[int]int
	starting int
}

// newChildren starts collecting. There is one in a process.
func newChildren() (*children, error) {
	// Adopt orphans also when this is not process 1.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	runc.Monitor = reaper.Default
	c := &children{waiting: map[int]chan int{}, early: map[int]int{}}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGCHLD)
	go func() {
		for range signals {
			_ = reaper.Reap()
		}
	}()
	exits := reaper.Default.Subscribe()
	go func() {
		for e := range exits {
			c.exited(e.Pid, e.Status)
		}
	}()
	return c, nil
}

func (c *children) exited(pid, code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting[pid]; w != nil {
		delete(c.waiting, pid)
		w <- code
		return
	}
	if c.starting > 0 {
		c.early[pid] = code
	}
}

// start runs f, which starts a process and returns its pid, and returns a
// channel that receives the exit code: 128+n for signal n.
func (c *children) start(f func() (int, error)) (int, <-chan int, error) {
	c.mu.Lock()
	c.starting++
	c.mu.Unlock()
	pid, err := f()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.starting--
	code, gone := c.early[pid]
	if c.starting == 0 {
		clear(c.early)
	}
	if err != nil {
		return 0, nil, err
	}
	w := make(chan int, 1)
	if gone {
		w <- code
	} else {
		c.waiting[pid] = w
	}
	return pid, w, nil
}

// command starts a program of the guest image, with its output in log.
func (c *children) command(log *os.File, env []string, argv ...string) (<-chan int, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), env...)
	exit, err := reaper.Default.Start(cmd)
	if err != nil {
		return nil, err
	}
	out := make(chan int, 1)
	go func() {
		code, err := reaper.Default.Wait(cmd, exit)
		if err != nil && code == 0 {
			code = -1
		}
		out <- code
	}()
	return out, nil
}

// result is what a program said, and its exit code.
type result struct {
	stdout, stderr []byte
	code           int
}

// run runs a program of the guest image to its end.
func (c *children) run(stdin []byte, argv ...string) (*result, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	exit, err := reaper.Default.Start(cmd)
	if err != nil {
		return nil, err
	}
	code, err := reaper.Default.Wait(cmd, exit)
	if err != nil {
		return nil, err
	}
	return &result{stdout.Bytes(), stderr.Bytes(), code}, nil
}

// drain is how long output is read on after a process ended while another
// still holds its pipe (Kata src/agent/src/rpc.rs, read_stream).
const drain = 500 * time.Millisecond
