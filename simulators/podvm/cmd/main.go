// Command podvm is a node's pod VM daemon: it serves Kata's remote-hypervisor protocol and makes a guest of namespaces
// for each VM.
//
//	podvm --config /etc/coco-sim/podvm.toml
//
// It ends on SIGTERM or SIGINT, and with it, also when it is killed, all guests end. `podvm guest-init` is how it starts
// a guest and is not for people. Build it static: CGO_ENABLED=0.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/coco-e2e/coco-e2e/simulators/podvm"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/config"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/stage"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == stage.Command {
		os.Exit(stage.Main())
	}
	path := flag.String("config", "/etc/coco-sim/podvm.toml", "configuration file; simulators/podvm/testdata/podvm.toml explains the keys")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *path); err != nil {
		fmt.Fprintln(os.Stderr, "podvm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string) error {
	c, err := config.Load(path)
	if err != nil {
		return err
	}
	return podvm.Serve(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}
