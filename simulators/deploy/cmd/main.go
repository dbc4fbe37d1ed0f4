// Command deploy puts the simulated TEE on the node whose root it sees, keeps
// it there, and takes it away when it is told to end. A DaemonSet runs it:
//
//	deploy run --payload /payload --host /host --address $NODE_IP …
//	deploy ready --host /host
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation/config"
	"github.com/coco-e2e/coco-e2e/simulators/deploy"
)

func main() {
	root := &cobra.Command{Use: "deploy", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(runCommand(), readyCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		os.Exit(1)
	}
}

func runCommand() *cobra.Command {
	o := deploy.Options{Log: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
	cmd := &cobra.Command{
		Use: "run", Short: "Install, keep running, and remove on SIGTERM", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if net.ParseIP(o.Address) == nil {
				return fmt.Errorf("--address %q: name the node's IP address", o.Address)
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return deploy.Run(ctx, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Payload, "payload", "/payload", "directory with opt, bin and images")
	f.StringVar(&o.Host, "host", "/host", "where the node's root is mounted")
	f.StringVar(&o.Address, "address", "", "the node's address")
	f.BoolVar(&o.Kata, "kata-shim", false, "use Kata's shim, which the node has at "+config.KataShim)
	return cmd
}

func readyCommand() *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use: "ready", Short: "Succeed when the pod VM daemon serves", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			classes, err := config.Classes()
			if err != nil {
				return err
			}
			for _, class := range classes {
				c, err := net.Dial("unix", filepath.Join(host, class.Socket))
				if err != nil {
					return errors.Join(errors.New("podvm does not serve yet"), err)
				}
				if err := c.Close(); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&host, "host", "/host", "where the node's root is mounted")
	return cmd
}
