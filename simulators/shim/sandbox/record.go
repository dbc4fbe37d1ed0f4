package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// recordName is the file in a sandbox container's bundle that says that a VM runs for it.
const recordName = "coco-sim-vm.json"

// Record says how to stop the VM of a shim that died.
type Record struct {
	HypervisorSocket string `json:"hypervisorSocket"`
	ID               string `json:"id"`
	// Monitor is the directory of the management socket, or "".
	Monitor string `json:"monitor,omitempty"`
}

func writeRecord(bundle string, record Record) error {
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("record of the pod VM: %w", err)
	}
	if err := os.WriteFile(filepath.Join(bundle, recordName), text, 0o600); err != nil {
		return fmt.Errorf("record of the pod VM: %w", err)
	}
	return nil
}

// ReadRecord reads the record in a bundle. It is nil when no VM runs for the bundle.
func ReadRecord(bundle string) (*Record, error) {
	text, err := os.ReadFile(filepath.Join(bundle, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record of the pod VM: %w", err)
	}
	var record Record
	if err := json.Unmarshal(text, &record); err != nil {
		return nil, fmt.Errorf("record of the pod VM %s: %w", filepath.Join(bundle, recordName), err)
	}
	return &record, nil
}

func removeRecord(bundle string) { _ = os.Remove(filepath.Join(bundle, recordName)) }
