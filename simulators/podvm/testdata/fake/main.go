// Command fake is, for podvm's tests, a guest's agent or a TEE. The agent does what its init-data says and writes down
// what it sees of its world.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
)

func main() {
	switch {
	case len(os.Args) > 6 && os.Args[1] == "--socket":
		tee(os.Args[2], os.Args[4], os.Args[6], os.Args[7:])
	case len(os.Args) == 2 && os.Args[1] == "child":
		wait()
	default:
		agent()
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake:", err)
		os.Exit(3)
	}
	return v
}

func wait() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
}

// tee answers every line with what it was started with and the line.
func tee(socket, log, key string, args []string) {
	if _, err := os.Stat(filepath.Join(filepath.Dir(os.Args[0]), "break-tee")); err == nil {
		fmt.Fprintln(os.Stderr, "the fake TEE is broken")
		os.Exit(1)
	}
	must(0, os.WriteFile(log, []byte("tee log\n"), 0o644))
	must(0, os.WriteFile(key, []byte("tee key\n"), 0o644))
	l := must(net.Listen("unix", socket))
	if strings.Contains(strings.Join(args, " "), "az-") {
		must(net.Listen("unix", socket+".imds"))
	}
	fmt.Println("READY")
	for {
		c := must(l.Accept())
		go func() {
			s := bufio.NewScanner(c)
			for s.Scan() {
				fmt.Fprintln(c, strings.Join(args, " "), s.Text())
			}
			c.Close()
		}()
	}
}

func agent() {
	ready := os.NewFile(3, "ready")
	fds := map[string]string{}
	for _, e := range must(os.ReadDir("/proc/self/fd")) {
		fds[e.Name()], _ = os.Readlink("/proc/self/fd/" + e.Name())
	}
	fmt.Println("fake agent boots")
	order := "ready"
	if f, err := os.Open("/dev/vda"); err == nil {
		order = string(must(initdata.ReadImage(f)))
		f.Close()
	}
	verb, rest, _ := strings.Cut(order, " ")
	switch verb {
	case "error":
		fmt.Fprintln(ready, "ERROR "+rest)
		os.Exit(1)
	case "exit":
		fmt.Fprintln(os.Stderr, rest)
		os.Exit(7)
	case "hang":
		fmt.Println(rest)
		wait()
	case "mumble":
		fmt.Fprintln(ready, rest)
		wait()
	}
	must(0, os.WriteFile("/var/log/guest/seen.json", must(json.Marshal(look(fds))), 0o644))
	must(net.Listen("unix", "/run/agent-channel/agent.sock"))
	// A process of the guest's that a mere kill of the agent would leave.
	child := exec.Command("/proc/self/exe", "child")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	must(0, child.Start())
	must(0, cgroups(child.Process.Pid))
	fmt.Fprintln(ready, "READY")
	wait()
}

// cgroups moves the child into a cgroup of the guest's in each hierarchy, as runc does with containers.
func cgroups(pid int) error {
	hierarchies := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		hierarchies = []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup/freezer"}
	}
	for _, h := range hierarchies {
		dir := filepath.Join(h, os.Getenv("KATA_AGENT_CGROUP_PARENT"), "container")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
			return err
		}
		// A frozen container must not keep the guest from ending.
		if filepath.Base(h) == "freezer" {
			if err := os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("FROZEN"), 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func look(fds map[string]string) map[string]any {
	seen := map[string]any{
		"pid": os.Getpid(), "hostname": must(os.Hostname()), "env": os.Environ(),
		"netns": must(os.Readlink("/proc/self/ns/net")), "fds": fds,
		"mounts": string(must(os.ReadFile("/proc/self/mountinfo"))),
	}
	for _, dir := range []string{"/", "/dev", "/sys/class/net", "/run/agent-channel"} {
		names := []string{}
		for _, e := range must(os.ReadDir(dir)) {
			names = append(names, e.Name())
		}
		seen[dir] = names
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	seen["processes"] = len(procs)
	for _, device := range []string{"/dev/tpm0", "/dev/sev-guest"} {
		c, err := net.Dial("unix", device)
		if err != nil {
			continue
		}
		fmt.Fprintln(c, "hello")
		seen["tee"] = must(bufio.NewReader(c).ReadString('\n'))
		c.Close()
	}
	refused := []string{}
	for _, path := range []string{"/dev/vda", "/sys/kernel/uevent_seqnum"} {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if errors.Is(err, syscall.EROFS) {
			refused = append(refused, path)
		} else if err == nil {
			f.Close()
		}
	}
	seen["read-only"] = refused
	must(0, os.WriteFile("/etc/written", []byte("by the guest"), 0o644))
	must(0, os.WriteFile("/dev/null", []byte("nothing"), 0))
	return seen
}
