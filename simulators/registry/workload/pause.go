package workload

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
)

// Sticky, on a directory, keeps users from removing each other's files.
const Sticky = fs.ModeSticky

// WritePauseBundle makes the bundle of the sandbox's container, which a guest image has at /pause_bundle: Kata's agent
// takes it instead of pulling an image (src/agent/src/confidential_data_hub/image.rs).
func WritePauseBundle(dir, program string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("pause program: %w", err)
	}
	spec := specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			User: specs.User{UID: 65535, GID: 65535}, Args: []string{"/pause"}, Env: []string{"PATH=" + image.DefaultPath}, Cwd: "/",
		},
		Root: &specs.Root{Path: "rootfs", Readonly: true},
	}
	config, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		return fmt.Errorf("pause bundle: %w", err)
	}
	for name, f := range map[string]struct {
		content []byte
		mode    fs.FileMode
	}{"rootfs/pause": {content, 0o755}, "config.json": {config, 0o644}} {
		if err := replace(filepath.Join(dir, name), f.content, f.mode); err != nil {
			return fmt.Errorf("pause bundle: %w", err)
		}
	}
	return nil
}

// replace puts a new file in the place of path: guests that run may have the old one, also through hard links.
func replace(path string, content []byte, mode fs.FileMode) error {
	temporary := path + ".tmp"
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return err
	}
	if err := os.Chmod(temporary, mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
