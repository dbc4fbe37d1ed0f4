// Command tpm is one simulated TPM 2.0 in a process of its own: manufactured, started, provisioned, and served as a raw
// command stream on a unix socket.
//
//	tpm --socket PATH [--log PATH] [--ak-public PATH] [--die-with-parent]
//
// It prints READY when the socket takes connections, and ends on SIGTERM or SIGINT. It keeps nothing: another start is
// another TPM. Build it static:
//
//	CGO_ENABLED=1 go build -tags osusergo,netgo -ldflags '-linkmode external -extldflags "-static"' ./simulators/tee/cmd
package main

import (
	"context"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/tee"
	"github.com/coco-e2e/coco-e2e/simulators/tee/stream"
)

func main() {
	var options options
	flag.StringVar(&options.socket, "socket", "", "unix socket to serve TPM commands on (required, mode 0600)")
	flag.StringVar(&options.log, "log", "", "file to append the log to (default standard error)")
	flag.StringVar(&options.akPublic, "ak-public", "", "file to write the attestation key's public part to, in PEM")
	flag.BoolVar(&options.dieWithParent, "die-with-parent", false, "end when the process that started this one ends")
	flag.Parse()
	if options.socket == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(options); err != nil {
		fmt.Fprintln(os.Stderr, "tpm:", err)
		os.Exit(1)
	}
}

type options struct {
	socket, log, akPublic string
	dieWithParent         bool
}

func run(options options) error {
	if options.dieWithParent {
		if err := dieWithParent(); err != nil {
			return fmt.Errorf("--die-with-parent: %w", err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log, closeLog, err := openLog(options.log)
	if err != nil {
		return err
	}
	defer closeLog()

	start := time.Now()
	tpm, err := tee.PowerOn()
	if err != nil {
		return err
	}
	if options.akPublic != "" {
		if err := writeAK(options.akPublic, tpm); err != nil {
			return errors.Join(err, tpm.Close())
		}
	}
	listener, err := stream.Listen(options.socket)
	if err != nil {
		return errors.Join(err, tpm.Close())
	}
	log.Info("ready", "socket", options.socket, "provisioned_ms", time.Since(start).Milliseconds())
	fmt.Println("READY")
	server := &stream.Server{Execute: tpm.Execute, Log: log}
	err = server.Serve(ctx, listener)
	if removed := os.Remove(options.socket); removed != nil && !errors.Is(removed, os.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return errors.Join(err, tpm.Close())
}

func writeAK(path string, tpm *tee.TPM) error {
	der, err := tpm.AKPublicDER()
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if err := os.WriteFile(path, block, 0o644); err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	return nil
}

// maxLog bounds the log file, which a guest can fill by sending commands.
const maxLog = 16 << 20

func openLog(path string) (*slog.Logger, func(), error) {
	if path == "" {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil)), func() {}, nil
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(&bounded{file, maxLog}, nil)), func() { _ = file.Close() }, nil
}

// bounded writes until it has written its fill, then says so once and drops the rest. slog's handlers serialise writes.
type bounded struct {
	io.Writer
	left int
}

func (b *bounded) Write(line []byte) (int, error) {
	if b.left <= 0 {
		return len(line), nil
	}
	if b.left -= len(line); b.left <= 0 {
		_, err := fmt.Fprintf(b.Writer, `{"level":"WARN","msg":"log is full, nothing more is logged","limit_bytes":%d}`+"\n", maxLog)
		return len(line), err
	}
	return b.Writer.Write(line)
}
