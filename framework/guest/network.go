package guest

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// network is a network namespace with nothing but a loopback interface. It
// lives as long as its file is open or a process is in it.
type network struct{ file *os.File }

func newNetwork() (*network, error) {
	type result struct {
		n   *network
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		n, err := unshareNetwork()
		made <- result{n, err}
	}()
	r := <-made
	if r.err != nil {
		return nil, fmt.Errorf("network namespace: %w", r.err)
	}
	return r.n, nil
}

// unshareNetwork puts the calling thread into a new network.
func unshareNetwork() (*network, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return nil, err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	return &network{f}, err
}

// path names the network to other processes of this machine.
func (n *network) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// enter runs f in the network and locks the calling goroutine to its thread for
// good; a nil network is the one that the caller is in.
func (n *network) enter(f func() error) error {
	runtime.LockOSThread()
	if n != nil {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network: %w", err)
		}
	}
	return f()
}

func (n *network) close() error { return n.file.Close() }
