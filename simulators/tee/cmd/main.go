// Command tee is one simulated hardware root of trust in a process of its own, made for one guest and reached through a
// unix socket:
//
//	tee --socket PATH [--kind KIND] [--roots DIR] [--host-data HEX] [--log PATH] [--ak-public PATH] [--die-with-parent]
//	tee make-roots --out DIR
//
// KIND is tpm (default), az-snp-vtpm, az-tdx-vtpm, snp or tdx. A TPM serves its raw command stream; SNP and TDX hardware
// serve the frames of package message. The az kinds serve the instance metadata that their guests need, over HTTP, on
// PATH.imds. --host-data is what the host measured at launch: HOST_DATA of snp, MRCONFIGID of tdx.
//
// It prints READY when the sockets take connections, and ends on SIGTERM or SIGINT. It keeps nothing: another start is
// another machine. make-roots makes the test roots that certify all hardware but plain TPMs; no vendor's root does.
//
// Build it static:
//
//	CGO_ENABLED=1 go build -tags osusergo,netgo -ldflags '-linkmode external -extldflags "-static"' ./simulators/tee/cmd
package main

import (
	"context"
	"encoding/hex"
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

	"golang.org/x/sync/errgroup"

	"github.com/coco-e2e/coco-e2e/simulators/tee"
	"github.com/coco-e2e/coco-e2e/simulators/tee/authority"
	"github.com/coco-e2e/coco-e2e/simulators/tee/stream"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "tee:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func command(args []string) error {
	if len(args) > 0 && args[0] == "make-roots" {
		flags := flag.NewFlagSet("make-roots", flag.ContinueOnError)
		out := flags.String("out", "", "directory to make (required)")
		if err := parse(flags, args[1:], out); err != nil {
			return err
		}
		return authority.Make(*out)
	}
	var options options
	flags := flag.NewFlagSet("tee", flag.ContinueOnError)
	flags.StringVar(&options.socket, "socket", "", "unix socket to serve (required, mode 0600)")
	flags.StringVar(&options.kind, "kind", "tpm", "tpm, az-snp-vtpm, az-tdx-vtpm, snp or tdx")
	flags.StringVar(&options.roots, "roots", "", "directory of test roots (for all kinds but tpm)")
	flags.StringVar(&options.hostData, "host-data", "", "HOST_DATA of snp or MRCONFIGID of tdx, in hex; cut or padded to fit")
	flags.StringVar(&options.log, "log", "", "file to append the log to (default standard error)")
	flags.StringVar(&options.akPublic, "ak-public", "", "file to write a TPM's attestation key's public part to, in PEM")
	flags.BoolVar(&options.dieWithParent, "die-with-parent", false, "end when the process that started this one ends")
	if err := parse(flags, args, &options.socket); err != nil {
		return err
	}
	return run(options)
}

func parse(flags *flag.FlagSet, args []string, required *string) error {
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if *required == "" || flags.NArg() > 0 {
		flags.Usage()
		return errUsage
	}
	return nil
}

type options struct {
	socket, kind, roots, hostData, log, akPublic string
	dieWithParent                                bool
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
	machine, err := powerOn(options)
	if err != nil {
		return err
	}
	err = machine.serve(ctx, options, log, start)
	return errors.Join(err, machine.off())
}

func (m *machine) serve(ctx context.Context, options options, log *slog.Logger, start time.Time) error {
	if options.akPublic != "" && m.tpm != nil {
		if err := writeAK(options.akPublic, m.tpm); err != nil {
			return err
		}
	}
	listener, err := stream.Listen(options.socket)
	if err != nil {
		return err
	}
	defer removeSocket(options.socket)
	group, ctx := errgroup.WithContext(ctx)
	if m.metadata != nil {
		path := options.socket + metadataSuffix
		metadata, err := stream.Listen(path)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		defer removeSocket(path)
		group.Go(func() error { return serveMetadata(ctx, metadata, m.metadata) })
	}
	log.Info("ready", "kind", options.kind, "socket", options.socket, "provisioned_ms", time.Since(start).Milliseconds())
	fmt.Println("READY")
	server := &stream.Server{Execute: m.execute, Name: m.name, Log: log}
	group.Go(func() error { return server.Serve(ctx, listener) })
	return group.Wait()
}

func removeSocket(path string) { _ = os.Remove(path) }

func hostData(text string) ([]byte, error) {
	raw, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("--host-data %q: want hex: %w", text, err)
	}
	return raw, nil
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
