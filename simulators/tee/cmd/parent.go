package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// dieWithParent ends this process as soon as its parent process has ended. It watches a pidfd rather than rely on
// PR_SET_PDEATHSIG, which fires already when the parent's starting thread ends, as threads of Go programs do; that is
// for kernels before 5.3 and for a parent in another PID namespace.
func dieWithParent() error {
	parent := os.Getppid()
	pidfd, err := unix.PidfdOpen(parent, 0)
	switch {
	case err == nil:
	case parent == 0 || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM):
		return signalOnParentDeath()
	default:
		return fmt.Errorf("parent process %d: %w", parent, err)
	}
	if os.Getppid() != parent {
		return errors.New("the parent process has ended already")
	}
	go func() {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
			if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
				os.Exit(1)
			}
		}
	}()
	return nil
}

// signalOnParentDeath must be called by the main goroutine; it keeps the thread that has the setting alive.
func signalOnParentDeath() error {
	runtime.LockOSThread()
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}
