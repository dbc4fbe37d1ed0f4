package teepool

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// startTimeout bounds making a TEE, which takes some 50 ms.
const startTimeout = 30 * time.Second

// MetadataSuffix makes the path of the metadata service's socket of a TEE's, where the TEE has one.
const MetadataSuffix = ".imds"

// TEE is one running TEE.
type TEE struct {
	// Socket and Log are the paths of its socket and log. Beside the log of a TEE that signs with an attestation key
	// (a TPM) stands that key's public half (PEM): what the host side knows of this TEE, for whoever wants to tell its quotes from another's.
	Socket, Log string

	process *os.Process
	stdout  *os.File // its read end is kept so that a write does not end the TEE
	ended   chan struct{}
	state   *os.ProcessState // set when ended is closed
}

func (p *Pool) start(name string, args []string) (*TEE, error) {
	t, err := p.launch(name, args)
	if err != nil {
		return nil, fmt.Errorf("start TEE %s: %w", p.Program, err)
	}
	return t, nil
}

func (p *Pool) launch(name string, args []string) (*TEE, error) {
	if err := errors.Join(os.MkdirAll(p.SocketDir, 0o700), os.MkdirAll(p.LogDir, 0o700)); err != nil {
		return nil, err
	}
	t := &TEE{ended: make(chan struct{})}
	t.Socket, t.Log = p.paths(name)
	log, err := os.OpenFile(t.Log, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	argv := slices.Concat([]string{p.Program, "--socket", t.Socket, "--log", t.Log, "--ak-public", akPath(t.Log)}, p.Args, args)
	t.process, err = p.Spawn(argv, &Files{Stdout: write, Stderr: log})
	write.Close()
	if err != nil {
		read.Close()
		return nil, errors.Join(err, os.Remove(t.Log))
	}
	t.stdout = read
	go func() {
		// Wait fails only for a process that is not a child or was waited for: neither can be.
		t.state, _ = t.process.Wait()
		close(t.ended)
	}()
	if err := t.awaitReady(); err != nil {
		t.Kill()
		return nil, err
	}
	return t, nil
}

func (t *TEE) awaitReady() error {
	if err := t.stdout.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	line, err := bufio.NewReader(t.stdout).ReadString('\n')
	if err == nil && line == "READY\n" {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("not ready after %s", startTimeout)
	}
	last := "nothing was logged"
	if text, err := os.ReadFile(t.Log); err == nil && len(text) > 0 {
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		last = lines[len(lines)-1]
	}
	return fmt.Errorf("it ended or wrote %q instead of READY: %s", strings.TrimSpace(line), last)
}

// akPath is where the attestation key's public half stands beside a log.
func akPath(log string) string { return strings.TrimSuffix(log, ".log") + "-ak.pem" }

// Move gives the TEE's socket and log new paths, where they stay connected to it.
func (t *TEE) Move(socket, log string) error {
	if err := os.Rename(t.Socket, socket); err != nil {
		return fmt.Errorf("move the TEE's socket: %w", err)
	}
	if err := os.Rename(t.Socket+MetadataSuffix, socket+MetadataSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("move the TEE's metadata socket: %w", err)
	}
	t.Socket = socket
	if err := os.Rename(t.Log, log); err != nil {
		return fmt.Errorf("move the TEE's log: %w", err)
	}
	if err := os.Rename(akPath(t.Log), akPath(log)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("move the TEE's key: %w", err)
	}
	t.Log = ""
	return nil
}

// Kill ends the TEE and returns when it is gone, with its socket, and with its log if that was never moved.
func (t *TEE) Kill() {
	_ = t.process.Kill() // fails only when it has ended
	<-t.ended
	t.removeFiles()
	t.stdout.Close()
}

func (t *TEE) removeFiles() {
	paths := []string{t.Socket, t.Socket + MetadataSuffix}
	if t.Log != "" {
		paths = append(paths, t.Log, akPath(t.Log))
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue // its directory is removed as a whole later
		}
	}
}
