// Command hostprobe is package hostprobe's program on a node. "wait" keeps its
// pod running; "connect CONTAINER" joins its standard streams to the agent of
// the guest that runs the container.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/coco-e2e/coco-e2e/framework/hostprobe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 1 && args[0] == "wait":
		<-ctx.Done()
	case len(args) == 2 && args[0] == "url":
		var url string
		if url, err = hostprobe.AgentURL(ctx, "/", args[1]); err == nil {
			fmt.Println(url)
		}
	case len(args) == 2 && args[0] == "connect":
		err = hostprobe.Connect(ctx, "/", args[1], os.Stdin, os.Stdout)
	default:
		err = fmt.Errorf("usage: hostprobe wait | url CONTAINER | connect CONTAINER")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostprobe:", err)
		os.Exit(1)
	}
}
