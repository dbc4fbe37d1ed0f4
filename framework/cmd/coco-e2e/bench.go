package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/bench"
)

func benchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "bench", Short: "Measure pods, execs and memory on a fresh testbed, and print the phases' times", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			o, err := options()
			if err != nil {
				return err
			}
			t, err := up(cmd.Context(), o)
			if err != nil {
				return err
			}
			if os.Getenv("KEEP") == "" {
				defer func() { err = errors.Join(err, down(o)) }()
			}
			return bench.Run(cmd.Context(), t, o.Progress, os.Stdout)
		},
	}
}
