// Package interrupt has the processes of a run's suites end when the run does:
// in order, with their specs' clean-up, when the run was told to end; at once,
// when the run is gone.
//
// At a terminal Ctrl-C reaches all of them, but a signal to the run alone (a Job
// that is deleted, `kill`) does not, and Ginkgo skips clean-up when it is told
// twice. So each process waits for its own signal, and goes without it only when
// none came.
package interrupt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Variable names, to a suite's process, the run and the file that says that the
// run was told to end: "PID PATH".
const Variable = "COCO_E2E_INTERRUPT"

// How often a suite's process looks, and how long it waits for a signal of its own.
const (
	interval = 250 * time.Millisecond
	patience = 500 * time.Millisecond
	// early is how long a process may take before Ginkgo heeds signals.
	early = time.Second
)

// Command is a command that starts suites. When ctx ends they are told, and have
// grace to end; then the command is killed, and they end with this process.
// dir is for the file; remove takes it away.
func Command(ctx context.Context, grace time.Duration, dir, name string, args ...string) (cmd *exec.Cmd, remove func()) {
	file := filepath.Join(dir, ".interrupted")
	cmd = exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return err
		}
		return cmd.Process.Signal(os.Interrupt)
	}
	cmd.WaitDelay = grace
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", Variable, os.Getpid(), file))
	return cmd, func() { _ = os.Remove(file) }
}

// Follow has this process end with its run, if it is a part of one.
func Follow() {
	pid, file, ok := strings.Cut(os.Getenv(Variable), " ")
	if !ok {
		return
	}
	n, err := strconv.Atoi(pid)
	if err != nil {
		return
	}
	run, err := unix.PidfdOpen(n, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		gone()
	case err != nil:
		run = -1 // an old kernel: only what it is told counts; poll passes this over
	}
	began, told := time.Now(), make(chan os.Signal, 1)
	signal.Notify(told, os.Interrupt, syscall.SIGTERM)
	go func() {
		for range time.Tick(interval) {
			if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(run), Events: unix.POLLIN}}, 0); n > 0 {
				gone()
			}
			if _, err := os.Stat(file); err != nil {
				continue
			}
			time.Sleep(patience)
			if len(told) == 0 || time.Since(began) < early+patience {
				_ = syscall.Kill(os.Getpid(), syscall.SIGINT)
			}
			file = "" // once is enough
		}
	}()
}

// gone ends the process. What it made is for `coco-e2e down` to remove.
func gone() {
	fmt.Fprintln(os.Stderr, "the run that this suite is a part of is gone")
	os.Exit(1)
}
