// Package stage is the first thing that runs in a guest's new namespaces: it makes the guest's mounts, leaves the
// node's root behind and becomes the agent.
//
// Everything is mounted inside the guest's own mount namespace, so the guest's end releases it all. It must not know the
// hypervisor protocol, TPM pools or cgroup clean-up, and it starts no process: it turns into the guest's PID 1.
package stage

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Command is the argument by which podvm, executed anew, is this stage.
const Command = "guest-init"

// Descriptors that the stage is started with, beside standard output and error, which are the guest's console.
// Standard input has the [Spec] in JSON.
const (
	// ReadyFD stays open in the agent, which writes "READY\n" or "ERROR <text>\n" to it.
	ReadyFD = 3
	// NetNSFD is the pod's network namespace, when Spec.NetNS is set.
	NetNSFD = 4
)

// Agent is the program that becomes the guest's PID 1, in the guest's root.
const Agent = "/usr/bin/kata-agent"

// Spec says what the guest is made of. Paths are the node's.
type Spec struct {
	// Rootfs is the guest image's root, which stays as it is.
	Rootfs string
	// Mountpoint is an empty directory on the node, on which the root is mounted for the guest alone.
	Mountpoint string
	// AgentDir becomes /run/agent-channel, LogDir /var/log/guest, both writable.
	AgentDir, LogDir string
	// TEE is the socket of the hardware root of trust, which becomes the device TEEDevice in /dev; "" when there is none.
	TEE, TEEDevice string
	// Metadata is the socket of the instance metadata service, which becomes /run/imds.sock; "" when there is none.
	Metadata string
	// InitData is the init-data image, which becomes /dev/vda, read-only; "" when the pod has none.
	InitData string
	// NetNS says that NetNSFD is open and is the guest's network namespace.
	NetNS bool
	// Env is the agent's environment.
	Env []string
}

// Main makes the guest and becomes its agent. It returns only when that fails, after having said so on ReadyFD; the
// result is the exit code.
func Main() int {
	// Namespaces belong to threads: the one that enters them must be the one that executes the agent.
	runtime.LockOSThread()
	err := run()
	_, _ = io.WriteString(os.NewFile(ReadyFD, "ready pipe"), "ERROR guest root: "+oneLine(err)+"\n")
	fmt.Fprintln(os.Stderr, "guest-init:", err)
	return 1
}

func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}

func run() error {
	var spec Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		return fmt.Errorf("read what to make from standard input: %w", err)
	}
	if spec.NetNS {
		if err := unix.Setns(NetNSFD, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the pod's network namespace: %w", err)
		}
		if err := unix.Close(NetNSFD); err != nil {
			return fmt.Errorf("close the pod's network namespace: %w", err)
		}
	}
	unix.Umask(0)
	if err := spec.mountRoot(); err != nil {
		return err
	}
	if err := spec.pivot(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("localhost")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	unix.Umask(0o022)
	if err := nullInput(); err != nil {
		return err
	}
	// Whatever podvm itself was started with would be the guest's too.
	if err := unix.CloseRange(ReadyFD+1, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close the node's descriptors (Linux 5.11 or later is needed): %w", err)
	}
	if err := unix.Exec(Agent, []string{Agent}, spec.Env); err != nil {
		return fmt.Errorf("execute %s of the guest image: %w", Agent, err)
	}
	return nil
}

// nullInput puts the guest's /dev/null in the place of the pipe that the spec came from.
func nullInput() error {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	if err := unix.Dup3(fd, 0, 0); err != nil {
		return fmt.Errorf("make /dev/null the standard input: %w", err)
	}
	return nil
}
