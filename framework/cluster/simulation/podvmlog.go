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
// it did more than once. logs is as for AgentLog.
func CreateVMTime(logs, namespace, podName string) (time.Time, error) {
	guests, err := filepath.Glob(GuestLogs(logs, namespace, podName))
	if err != nil {
		return time.Time{}, err
	}
	var last time.Time
	for _, guest := range guests {
		id := strings.TrimPrefix(filepath.Base(guest), namespace+"_"+podName+"_")
		at, err := createVMTime(filepath.Join(filepath.Dir(guest), "..", "podvm.log"), id)
		if err != nil {
			return time.Time{}, err
		}
		if at.After(last) {
			last = at
		}
	}
	if last.IsZero() {
		return time.Time{}, fmt.Errorf("%w of pod %s/%s below %s", ErrNoGuestLog, namespace, podName, logs)
	}
	return last, nil
}

// createVMTime is when the VM of an id was asked for; zero if the log, the pod
// VM daemon's, has no such VM.
func createVMTime(log, id string) (time.Time, error) {
	text, err := os.ReadFile(log)
	if err != nil {
		return time.Time{}, err
	}
	for _, line := range vmCreated.FindAllStringSubmatch(string(text), -1) {
		if line[2] != id {
			continue
		}
		answered, err := time.Parse(time.RFC3339Nano, line[1])
		if err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", log, err)
		}
		took, err := time.ParseDuration(line[3])
		if err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", log, err)
		}
		return answered.Add(-took), nil
	}
	return time.Time{}, nil
}
