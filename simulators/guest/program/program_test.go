package program

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
)

func TestFailureIsOneLastLine(t *testing.T) {
	var stderr bytes.Buffer
	code := Run("attestation-agent", &stderr, func(_ context.Context, log *slog.Logger) error {
		log.Info("two\nlines")
		return errors.New("toml: line 3:\n\n  | a = \r\n  | ^ expected")
	})
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
	if len(lines) != 2 || lines[1] != "attestation-agent: toml: line 3:   | a =    | ^ expected" {
		t.Errorf("%q", lines)
	}
}

func TestSIGTERMIsACleanEnd(t *testing.T) {
	var stderr bytes.Buffer
	code := Run("x", &stderr, func(ctx context.Context, _ *slog.Logger) error {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	if code != 0 || stderr.Len() > 0 {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
}
