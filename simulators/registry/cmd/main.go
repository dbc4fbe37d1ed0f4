// Command registry makes the images of a run and serves them, for machines without an image registry.
//
//	registry build --out LAYOUT --debs-cache DIR          images from Debian's packages, described on standard output
//	registry archive --out FILE --reference NAME:TAG …    an image of static programs, for `ctr images import`
//	registry pause-bundle --pause PROGRAM --out DIR       the sandbox's container, for a guest image
//	registry serve --addr IP:PORT --layout LAYOUT         the images, read-only
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use: "registry", Short: "Make the images of a run and serve them", SilenceUsage: true, SilenceErrors: true,
	}
	cmd.AddCommand(buildCommand(), archiveCommand(), pauseBundleCommand(), serveCommand())
	return cmd
}

// require marks flags that a command cannot do without.
func require(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // a flag that the command does not have
		}
	}
}
