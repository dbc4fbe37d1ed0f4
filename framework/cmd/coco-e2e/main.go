// Command coco-e2e brings up a testbed for confidential pods, runs the suites
// on it, measures it and takes it away. It is thin: what it does is in the
// packages of framework/.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// teardownTimeout bounds what is removed after a run was interrupted.
const teardownTimeout = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "coco-e2e", Short: "End-to-end tests for confidential pods",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(prepareCommand(), upCommand(), downCommand(), runCommand(), benchCommand(), initDataCommand(), evidenceCommand(), kbsCommand(), reportCommand(), policyCommand(), requirementsCommand(), mutantsCommand(), imageCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errSpecsFailed) && !errors.Is(err, errNotAllowed) {
			fmt.Fprintln(os.Stderr, "coco-e2e:", err)
		}
		stop()
		if wrong := (misuse{}); errors.As(err, &wrong) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// options reads the environment; progress goes to standard output.
func options() (testbed.Options, error) {
	// Without a checkout the directory of the prebuilt parts stands for it.
	if dir := prebuilt(); dir != "" && os.Getenv("COCO_E2E_ROOT") == "" {
		if err := os.Setenv("COCO_E2E_ROOT", dir); err != nil {
			return testbed.Options{}, err
		}
	}
	o, err := testbed.FromEnvironment()
	o.Progress = progress.New(os.Stdout)
	return o, err
}

func prepareCommand() *cobra.Command {
	return &cobra.Command{
		Use: "prepare", Short: "Build the node image, the simulators and the workload images", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			_, _, err = testbed.Prepare(cmd.Context(), o)
			return err
		},
	}
}

func upCommand() *cobra.Command {
	return &cobra.Command{
		Use: "up", Short: "Bring up a testbed and keep it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			if o.KBS.Chart != "" {
				return errors.New("KBS_CHART is for `make e2e`: its KBS is reached for as long as a run lasts; install the chart yourself, and use KBS_URL")
			}
			t, err := up(cmd.Context(), o)
			if err != nil {
				return err
			}
			fmt.Printf("\nexport KUBECONFIG=%s\n", t.Kubeconfig)
			return nil
		},
	}
}

// up brings up a testbed, and takes away what a failed or interrupted attempt left.
func up(ctx context.Context, o testbed.Options) (*testbed.Testbed, error) {
	t, err := testbed.Kept(o)
	if t != nil || err != nil {
		if err == nil {
			o.Progress.Printf("cluster %s: kept by an earlier run, used again", o.Name)
		}
		return t, err
	}
	t, err = testbed.Up(ctx, o)
	if err != nil && os.Getenv("KEEP") == "" {
		saveNodeLogs(o)
		return nil, errors.Join(err, down(o))
	}
	return t, err
}

// saveNodeLogs keeps the logs of a node that did not come up.
func saveNodeLogs(o testbed.Options) {
	dir := artifacts("node-logs")
	if err := testbed.SaveLogs(context.Background(), o, dir); err == nil {
		fmt.Printf("the node's logs: %s\n", dir)
	}
}

func down(o testbed.Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
	defer cancel()
	return testbed.Down(ctx, o)
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove every cluster that a run kept or left behind", Args: cobra.NoArgs,
		RunE: func(_ *cobra.Command, _ []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			names, err := testbed.Clusters(o)
			if err != nil {
				return err
			}
			if len(names) == 0 {
				fmt.Println("no cluster to remove")
			}
			var errs []error
			for _, n := range names {
				o.Name = n
				errs = append(errs, down(o))
			}
			return errors.Join(errs...)
		},
	}
}
