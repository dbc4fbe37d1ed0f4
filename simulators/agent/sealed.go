package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coco-e2e/coco-e2e/framework/sealedsecret"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// sealedMount is where containers have volumes with sealed secrets.
const sealedMount = "/sealed"

// unsealer is confidential-data-hub.
type unsealer interface {
	unseal(ctx context.Context, sealed string) ([]byte, error)
}

// unseal replaces the sealed secrets in a container's environment and in its volumes below /sealed by the secrets. What
// cannot be unsealed stays sealed, with a warning (Kata src/agent/src/rpc.rs, cdh_handler_sealed_secrets).
func unseal(ctx context.Context, s *specs.Spec) { unsealWith(ctx, dataHub{}, s) }

func unsealWith(ctx context.Context, hub unsealer, s *specs.Spec) {
	for i, variable := range s.Process.Env {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(value, sealedsecret.Prefix) {
			continue
		}
		plaintext, err := hub.unseal(ctx, value)
		if err == nil && !utf8.Valid(plaintext) {
			err = errors.New("it is not UTF-8")
		}
		if err != nil {
			slog.Warn("Failed to unseal secret", "variable", name, "error", err)
			continue
		}
		s.Process.Env[i] = name + "=" + string(plaintext)
	}
	for _, m := range s.Mounts {
		if m.Destination != sealedMount && !strings.HasPrefix(m.Destination, sealedMount+"/") {
			continue
		}
		if err := unsealFiles(ctx, hub, m.Source); err != nil {
			slog.Warn("Failed to unseal file", "source", m.Source, "error", err)
		}
	}
}

// unsealFiles goes through a volume as the kubelet lays it out: names are links into a directory of the present version.
func unsealFiles(ctx context.Context, hub unsealer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		if info, err := os.Stat(target); err != nil || !info.Mode().IsRegular() {
			continue
		}
		sealed, err := readSealed(target)
		if err != nil {
			return err
		}
		if sealed == "" {
			continue
		}
		plaintext, err := hub.unseal(ctx, sealed)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
		if err := os.WriteFile(target+".unsealed", plaintext, 0o644); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(filepath.Base(filepath.Dir(target)), e.Name()+".unsealed"), path); err != nil {
			return err
		}
	}
	return nil
}

// readSealed reads a file that begins as sealed secrets do; "" is another file.
func readSealed(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	begin := make([]byte, len(sealedsecret.Prefix))
	if _, err := io.ReadFull(f, begin); err != nil || string(begin) != sealedsecret.Prefix {
		return "", nil
	}
	rest, err := io.ReadAll(f)
	return string(begin) + string(rest), err
}

// dataHub asks confidential-data-hub.
type dataHub struct{}

func (dataHub) unseal(ctx context.Context, sealed string) ([]byte, error) {
	c, err := net.Dial("unix", cdhSocket)
	if err != nil {
		return nil, fmt.Errorf("confidential-data-hub: %w", err)
	}
	client := ttrpc.NewClient(c)
	defer client.Close()
	answer, err := guestpb.NewSealedSecretServiceClient(client).UnsealSecret(ctx, &guestpb.UnsealSecretInput{Secret: []byte(sealed)})
	return answer.GetPlaintext(), err
}
