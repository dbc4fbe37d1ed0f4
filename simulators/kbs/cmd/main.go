// Command kbs is coco-e2e's simulator of Trustee's key broker service, for tests only.
//
//	kbs --config-file /etc/kbs/kbs-config.toml
//
// It logs to standard output and ends on SIGTERM or SIGINT. All state is in memory.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/coco-e2e/coco-e2e/simulators/kbs"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/config"
)

func main() {
	path := flag.String("config-file", "/etc/kbs/kbs-config.toml", "configuration, in the form of Trustee's")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*path); err != nil {
		fmt.Fprintln(os.Stderr, "kbs:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	configuration, err := config.Load(path)
	if err != nil {
		return err
	}
	server, err := kbs.New(configuration, os.Stdout, kbs.Options{})
	if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return server.Run(ctx)
}
