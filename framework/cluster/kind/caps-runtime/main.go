// Command caps-runtime is an OCI runtime for a container engine on a machine
// that lacks capabilities, such as a container itself: it takes out of what
// the engine asks for whatever this process may not give, and then is runc.
//
// Engines before Docker 24 ask for every capability that the kernel knows when a
// container is privileged, and runc refuses those that it cannot give. Register it with
// `dockerd --add-runtime caps=PATH --default-runtime caps`. Nobody needs it on a
// machine whose root has all capabilities.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/cap"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "caps-runtime:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	own, err := cap.Current()
	if err != nil {
		return fmt.Errorf("own capabilities: %w", err)
	}
	bundle, process := documents(args)
	for file, in := range map[string]func(map[string]any) map[string]any{
		bundle:  func(spec map[string]any) map[string]any { p, _ := spec["process"].(map[string]any); return p },
		process: func(p map[string]any) map[string]any { return p },
	} {
		if file == "" {
			continue
		}
		if err := rewrite(file, in, own, ownScore()); err != nil {
			return err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	return syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ())
}

// documents finds in runc's arguments the bundle's configuration, for create and
// run, and the process's, for exec. What there is not is "".
func documents(args []string) (bundle, process string) {
	verb := ""
	for i, a := range args {
		if verb == "" && slices.Contains([]string{"create", "run", "exec"}, a) {
			verb = a
		}
		name, value, joined := strings.Cut(a, "=")
		if !joined && i+1 < len(args) {
			value = args[i+1]
		}
		switch {
		case verb == "exec" && (name == "--process" || name == "-p"):
			process = value
		case verb != "exec" && verb != "" && (name == "--bundle" || name == "-b"):
			bundle = filepath.Join(value, "config.json")
		}
	}
	if bundle == "" && (verb == "create" || verb == "run") {
		bundle = "config.json"
	}
	return bundle, process
}

// rewrite changes the process of the JSON document in file.
func rewrite(file string, in func(map[string]any) map[string]any, own []string, score int) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var document map[string]any
	if err := json.Unmarshal(b, &document); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	process := in(document)
	if process == nil {
		return nil
	}
	restrict(process, own, score)
	if b, err = json.Marshal(document); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// restrict takes out of an OCI process the capabilities that are not among own,
// and raises an OOM score adjustment below score to it.
func restrict(process map[string]any, own []string, score int) {
	sets, _ := process["capabilities"].(map[string]any)
	for set, names := range sets {
		list, _ := names.([]any)
		sets[set] = slices.DeleteFunc(list, func(n any) bool {
			name, _ := n.(string)
			return !slices.Contains(own, name)
		})
	}
	if asked, ok := process["oomScoreAdj"].(float64); ok && int(asked) < score && !slices.Contains(own, "CAP_SYS_RESOURCE") {
		process["oomScoreAdj"] = score
	}
}

// ownScore is this process's OOM score adjustment, below which it may not go
// without CAP_SYS_RESOURCE.
func ownScore() int {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}
