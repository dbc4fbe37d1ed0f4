package simulation

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

var vmCreated = regexp.MustCompile(`(?m)^time=(\S+) level=INFO msg="VM created" id=(\S+) .*\bduration=(\S+)$`)

// CreateVMTime reads when a pod's shim asked for the pod's VM, the last time if
// it did more than once. logs is a node's /var/log (see cluster.Node).
func CreateVMTime(logs, namespace, podName string) (time.Time, error) {
	prefix := namespace + "_" + podName + "_"
	guests, err := filepath.Glob(filepath.Join(logs, LogDir, prefix+"*"))
	if err != nil {
		return time.Time{}, err
	}
	own := map[string]bool{}
	for _, g := range guests {
		own[strings.TrimPrefix(filepath.Base(g), prefix)] = true
	}
	path := filepath.Join(logs, "podvm.log")
	text, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, err
	}
	var last time.Time
	for _, line := range vmCreated.FindAllStringSubmatch(string(text), -1) {
		if !own[line[2]] {
			continue
		}
		answered, err := time.Parse(time.RFC3339Nano, line[1])
		if err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", path, err)
		}
		took, err := time.ParseDuration(line[3])
		if err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", path, err)
		}
		last = answered.Add(-took)
	}
	if last.IsZero() {
		return time.Time{}, fmt.Errorf("%s has no VM of pod %s/%s", path, namespace, podName)
	}
	return last, nil
}
