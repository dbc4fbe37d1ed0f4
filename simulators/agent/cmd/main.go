// Command kata-agent is the first process of a simulated guest.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coco-e2e/coco-e2e/simulators/agent"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	// podvm waits for one line here: READY, or ERROR and why.
	syscall.CloseOnExec(3)
	boot := os.NewFile(3, "boot")
	err := agent.Run(ctx, func() {
		fmt.Fprintln(boot, "READY")
		boot.Close()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "kata-agent:", err)
		fmt.Fprintf(boot, "ERROR %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		stop()
		os.Exit(1)
	}
}
