package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets the test binary stand in for the program: tests start it again with this variable set.
func TestMain(m *testing.M) {
	if os.Getenv("TPM_TEST_RUN_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func start(t *testing.T, name string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Env = append(os.Environ(), "TPM_TEST_RUN_MAIN=1")
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(stdout)
	if line, err := reader.ReadString('\n'); err != nil || line != "READY\n" {
		t.Fatalf("first line of output: %q, %v", line, err)
	}
	return command, reader
}

func TestReadyThenSIGTERM(t *testing.T) {
	dir := t.TempDir()
	socket, log, key := filepath.Join(dir, "tpm.sock"), filepath.Join(dir, "tpm.log"), filepath.Join(dir, "ak.pem")
	command, stdout := start(t, os.Args[0], "--socket", socket, "--log", log, "--ak-public", key)
	if info, err := os.Stat(socket); err != nil || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("socket after READY: %v, %v", info, err)
	}
	content, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		t.Fatalf("attestation key is not PEM: %s", content)
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		t.Error(err)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(stdout); err != nil || len(rest) > 0 {
		t.Errorf("output after READY: %q, %v", rest, err)
	}
	if err := command.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket after the end: %v", err)
	}
	if content, err := os.ReadFile(log); err != nil || !strings.Contains(string(content), `"msg":"ready"`) {
		t.Errorf("log: %s, %v", content, err)
	}
}

// The shell is the parent; the TPM holds the other end of the pipe, which closes when both are gone.
func TestDieWithParent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "tpm.sock")
	shell, stdout := start(t, "sh", "-c", `"$0" --socket "$1" --die-with-parent & wait`, os.Args[0], socket)
	if err := shell.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(stdout); err != nil {
		t.Error(err)
	}
	if err := shell.Wait(); err == nil {
		t.Error("the shell was not killed")
	}
}

func TestBadUse(t *testing.T) {
	for name, args := range map[string][]string{
		"no socket":        nil,
		"stray argument":   {"--socket", filepath.Join(t.TempDir(), "s"), "more"},
		"no such log dir":  {"--socket", filepath.Join(t.TempDir(), "s"), "--log", "/nonexistent/log"},
		"no such dir":      {"--socket", "/nonexistent/tpm.sock"},
		"key not writable": {"--socket", filepath.Join(t.TempDir(), "s"), "--ak-public", "/nonexistent/ak.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.CommandContext(t.Context(), os.Args[0], args...)
			command.Env = append(os.Environ(), "TPM_TEST_RUN_MAIN=1")
			output, err := command.Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || len(output) > 0 || len(exit.Stderr) == 0 {
				t.Errorf("output %q, error %v", output, err)
			}
		})
	}
}

func TestBoundedLog(t *testing.T) {
	var file bytes.Buffer
	log := &bounded{&file, 25}
	for range 5 {
		if n, err := log.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
	}
	if got := file.String(); !strings.HasPrefix(got, "01234567890123456789{") || strings.Count(got, "log is full") != 1 || strings.Count(got, "\n") != 1 {
		t.Errorf("log: %q", got)
	}
}
