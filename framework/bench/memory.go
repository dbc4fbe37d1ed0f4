package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// memory that a guest costs, in bytes.
type memory struct {
	// processes is the proportional set size of shim, agent, guest components,
	// TPM, and the containers' own processes.
	processes int64
	// files is what the guest's tmpfs hold: a guest keeps images in memory.
	files int64
}

// guestMemory starts guests and takes the difference that each makes.
func guestMemory(ctx context.Context, t *testbed.Testbed, ns string) (memory, error) {
	if !t.Simulated || t.NodeLogs == "" {
		return memory{}, errors.New("memory: the node's processes cannot be seen from this machine")
	}
	before, err := machineMemory()
	if err != nil {
		return memory{}, err
	}
	for i := range guests {
		if err := start(ctx, t, ns, fmt.Sprintf("memory-%d", i), &t.RuntimeClass); err != nil {
			return memory{}, err
		}
	}
	for i := range guests {
		if _, err := t.Pods.WaitReady(ctx, ns, pod.Named(fmt.Sprintf("memory-%d", i))); err != nil {
			return memory{}, err
		}
	}
	after, err := machineMemory()
	if err != nil {
		return memory{}, err
	}
	return memory{processes: (after.processes - before.processes) / guests, files: (after.files - before.files) / guests}, nil
}

// guestPrograms are the programs that exist once per guest, by the names of
// their executables, and what the measured pod runs.
var guestPrograms = map[string]bool{
	"containerd-shim-coco-sim-v2": true, "kata-agent": true, "attestation-agent": true, "confidential-data-hub": true,
	"api-server-rest": true, "tpm": true, "nginx": true, "pause": true, "runc": true,
}

func machineMemory() (memory, error) {
	var m memory
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return m, err
	}
	for _, p := range procs {
		exe, err := os.Readlink(filepath.Join(p, "exe"))
		if err != nil || !guestPrograms[filepath.Base(exe)] {
			continue // gone, a kernel thread, or none of a guest's
		}
		if pss, err := field(filepath.Join(p, "smaps_rollup"), "Pss:"); err == nil {
			m.processes += pss
		}
	}
	m.files, err = field("/proc/meminfo", "Shmem:")
	return m, err
}

// field reads a "Name:  123 kB" line of a file of /proc, in bytes.
func field(path, name string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), name); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("%s: no field %s", path, name)
}
