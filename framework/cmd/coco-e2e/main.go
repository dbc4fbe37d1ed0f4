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
	"slices"
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
	t, err := testbed.Kept(ctx, o)
	if t != nil || err != nil {
		if err == nil {
			o.Progress.Printf("cluster %s: kept by an earlier run, used again", o.Name)
		}
		return t, err
	}
	t, err = testbed.Up(ctx, o)
	if err != nil {
		return nil, giveUp(o, os.Getenv("KEEP") != "", err)
	}
	return t, nil
}

// giveUp keeps the logs of a testbed that did not come up, and takes it away
// unless it is to be looked at.
func giveUp(o testbed.Options, keep bool, err error) error {
	saveNodeLogs(o)
	if keep {
		return err
	}
	return errors.Join(err, down(o))
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
	var run string
	cmd := &cobra.Command{
		Use: "down", Short: "Remove every cluster that a run kept or left behind, and what runs made on clusters that stay", Args: cobra.NoArgs,
		Long: "Remove every cluster that a run kept or left behind, or the one that CLUSTER_NAME names; of a cluster that was there, what the run made on it.\n\n" +
			"Where nothing is known here of a run on a cluster that was there (another machine, a Job), KUBECONFIG=… coco-e2e down --run ID removes what is\n" +
			"labelled " + testbed.RunLabel + "=ID; CLUSTER=existing KUBECONFIG=… coco-e2e down lists the runs of which something is there.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if run != "" {
				ctx, cancel := context.WithTimeout(cmd.Context(), teardownTimeout)
				defer cancel()
				return progress.New(os.Stdout).Do("run "+run+": remove what it made", func() error { return testbed.DownRun(ctx, os.Getenv("KUBECONFIG"), run) })
			}
			there := os.Getenv("CLUSTER") == testbed.Existing
			// What a new run would need is not needed here.
			if err := os.Setenv("CLUSTER", ""); err != nil {
				return err
			}
			o, err := options()
			if err != nil {
				return err
			}
			names, err := testbed.Clusters(o)
			if err != nil {
				return err
			}
			if one := os.Getenv("CLUSTER_NAME"); one != "" {
				names = slices.DeleteFunc(names, func(name string) bool { return name != one })
			}
			if len(names) == 0 {
				fmt.Println("no cluster to remove")
			}
			var errs []error
			for _, n := range names {
				o.Name = n
				errs = append(errs, down(o))
			}
			if there {
				errs = append(errs, listRuns(cmd.Context()))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "remove what the run of this name made on the cluster of KUBECONFIG, and nothing else")
	return cmd
}

// listRuns says of which runs something is on the cluster of KUBECONFIG. They may
// be going on elsewhere, so nothing is removed unasked.
func listRuns(ctx context.Context) error {
	runs, err := testbed.Runs(ctx, os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	for _, r := range runs {
		fmt.Printf("run %s, since %s: %d namespaces; when it does not go on anywhere, remove them with coco-e2e down --run %s\n",
			r.ID, r.Since.UTC().Format(time.RFC3339), r.Namespaces, r.ID)
	}
	return nil
}
