package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/simulators/registry/server"
)

func serveCommand() *cobra.Command {
	var addr, dir string
	var upstream bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve a layout's images, read-only", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			s, err := server.New(dir, log)
			if err != nil {
				return err
			}
			s.Upstream = upstream
			return serve(cmd.Context(), addr, s, log)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:5000", "address to serve on")
	cmd.Flags().StringVar(&dir, "layout", "", "OCI layout with the images")
	cmd.Flags().BoolVar(&upstream, "upstream", false, "fetch images that the layout lacks from the registries that their names say")
	require(cmd, "layout")
	return cmd
}

func serve(ctx context.Context, addr string, handler http.Handler, log *slog.Logger) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	log.Info("serving", "addr", listener.Addr().String())
	s := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", addr, err)
	}
	return nil
}
