// Command api-server-rest is the guest's HTTP server for containers, on the pod's loopback interface.
//
//	api-server-rest [--bind 127.0.0.1:8006] [--features resource|attestation|all] [--cdh_addr unix:///PATH] [--aa_addr unix:///PATH]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/program"
	"github.com/coco-e2e/coco-e2e/simulators/guest/rest"
)

type options struct {
	bind, features, cdh, aa string
}

func main() {
	var options options
	flag.StringVar(&options.bind, "bind", "127.0.0.1:8006", "address to serve on")
	flag.StringVar(&options.features, "features", rest.Resource, "what to serve: resource, attestation or all")
	flag.StringVar(&options.cdh, "cdh_addr", channel.ConfidentialDataHub, "socket of the confidential-data-hub")
	flag.StringVar(&options.aa, "aa_addr", channel.AttestationAgent, "socket of the attestation-agent")
	flag.Parse()
	program.Main("api-server-rest", func(ctx context.Context, log *slog.Logger) error {
		if flag.NArg() > 0 {
			return fmt.Errorf("unexpected argument %q", flag.Arg(0))
		}
		return run(ctx, log, options)
	})
}

func run(ctx context.Context, log *slog.Logger, options options) error {
	aa := &channel.Client{Peer: "AA", Address: options.aa}
	cdh := &channel.Client{Peer: "CDH", Address: options.cdh}
	defer func() { _, _ = aa.Close(), cdh.Close() }()
	handler, err := rest.New(options.features, aa, cdh, log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", options.bind)
	if err != nil {
		return fmt.Errorf("--bind: %w", err)
	}
	log.Info("serving", "address", listener.Addr().String(), "features", options.features)
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("HTTP server: %w", err)
	}
	return nil
}
