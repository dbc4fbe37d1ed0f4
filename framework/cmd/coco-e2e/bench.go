package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/bench"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

func benchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "bench", Short: "Run the suite, measure pods, execs and memory, and print that with the phases' times", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			var result *bench.Result
			err = runSuites(cmd, o, selection{suites: []string{"walkthrough"}, keep: os.Getenv("KEEP") != ""}, func(t *testbed.Testbed) (err error) {
				result, err = bench.Run(cmd.Context(), t, o.Progress)
				return err
			})
			if result == nil {
				return err
			}
			return errors.Join(err, result.Write(os.Stdout, append([]bench.Phases{{Run: "this run", Phases: neutral(o, o.Progress.Phases())}}, otherPhases(o)...)...))
		},
	}
}
