package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/mutation"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/framework/guest"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// mutantCluster is the name of the cluster that mutants run on.
const mutantCluster = "mutant"

func mutantsCommand() *cobra.Command {
	var only []string
	var readme string
	cmd := &cobra.Command{
		Use: "mutants", Short: "Put defects into the simulators, and see the suites find each of them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			catalogue, err := conformance.Load()
			if err != nil {
				return err
			}
			mutants, err := mutation.Load(catalogue)
			if err != nil {
				return err
			}
			if readme != "" {
				return writeTable(readme, mutation.Table(mutants))
			}
			if len(only) > 0 {
				for _, name := range only {
					if !slices.ContainsFunc(mutants, func(m mutation.Mutant) bool { return m.Name == name }) {
						return fmt.Errorf("--only %s: no such mutant in manifests/conformance/mutants.yaml", name)
					}
				}
				mutants = slices.DeleteFunc(mutants, func(m mutation.Mutant) bool { return !slices.Contains(only, m.Name) })
			}
			o, err := options()
			if err != nil {
				return err
			}
			return runMutants(cmd.Context(), o, mutants, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringSliceVar(&only, "only", nil, "only the mutants with these names")
	cmd.Flags().StringVar(&readme, "readme", "", "write the table of mutants into this file, and run none")
	return cmd
}

// tableBegin and tableEnd are around the table of mutants in a file.
const tableBegin, tableEnd = "<!-- mutants:begin -->\n", "<!-- mutants:end -->"

func withTable(text, table string) (string, error) {
	before, rest, found := strings.Cut(text, tableBegin)
	_, after, found2 := strings.Cut(rest, tableEnd)
	if !found || !found2 {
		return "", fmt.Errorf("no lines %q and %q to write the table between", strings.TrimSpace(tableBegin), tableEnd)
	}
	return before + tableBegin + table + tableEnd + after, nil
}

func writeTable(file, table string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed, err := withTable(string(text), table)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return report.WriteFile(file, []byte(changed))
}

// runMutants runs every mutant, and before them the simulators as they are, so
// that what fails is the mutant's doing.
func runMutants(ctx context.Context, o testbed.Options, mutants []mutation.Mutant, out io.Writer) error {
	sound := mutation.Mutant{Name: "none"}
	for _, m := range mutants {
		for _, s := range m.Suites {
			if !slices.Contains(sound.Suites, s) {
				sound.Suites = append(sound.Suites, s)
			}
		}
	}
	var wrong []string
	for _, m := range slices.Concat([]mutation.Mutant{sound}, mutants) {
		begin := time.Now()
		var v mutation.Verdict
		err := o.Progress.Do("mutant "+m.Name+": "+strings.Join(m.Suites, ", "), func() (err error) {
			v, err = runMutant(ctx, o, m)
			return err
		})
		if err != nil {
			return fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		verdict := "found"
		if !v.Killed() {
			wrong, verdict = append(wrong, m.Name), "WRONG"
		}
		fmt.Fprintf(out, "%s: %s, %d requirements broken, %.0f s\n", m.Name, verdict, len(v.Broke), time.Since(begin).Seconds())
		for what, ids := range map[string][]string{"should have failed": v.Survived, "failed and should not have": v.Overkill, "set-up failed": v.SetUp} {
			if len(ids) > 0 {
				fmt.Fprintf(out, "  %s: %s\n", what, strings.Join(ids, ", "))
			}
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not found, or not for what they are: %s; their reports are in %s", strings.Join(wrong, ", "), artifacts("mutants"))
	}
	fmt.Fprintf(out, "all %d mutants are found, each by the requirements that it breaks\n", len(mutants))
	return nil
}

// runMutant runs a mutant's suites in a process of their own, whose builds see
// the defect.
func runMutant(ctx context.Context, o testbed.Options, m mutation.Mutant) (mutation.Verdict, error) {
	dir, err := os.MkdirTemp("", "coco-e2e-mutant-")
	if err != nil {
		return mutation.Verdict{}, err
	}
	defer os.RemoveAll(dir)
	overlay := ""
	if len(m.Edits) > 0 {
		if overlay, err = m.Overlay(o.Root, dir); err != nil {
			return mutation.Verdict{}, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return mutation.Verdict{}, err
	}
	into := artifacts("mutants", m.Name)
	if err := os.MkdirAll(into, 0o755); err != nil {
		return mutation.Verdict{}, err
	}
	log, err := os.Create(filepath.Join(into, "..", m.Name+".log"))
	if err != nil {
		return mutation.Verdict{}, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, self, "run", "--suites", strings.Join(m.Suites, ","))
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.Root, log, log
	cmd.Env = append(os.Environ(), guest.OverlayVariable+"="+overlay, "CLUSTER_NAME="+mutantCluster, "ARTIFACTS_DIR="+into, "KEEP=", "FOCUS=", "LABELS=", "SUITES=")
	// The run takes its cluster away before it ends.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 3 * time.Minute
	runErr := cmd.Run()
	if ctx.Err() != nil {
		return mutation.Verdict{}, ctx.Err()
	}
	r, err := report.Read(filepath.Join(into, report.FileName))
	if err != nil {
		return mutation.Verdict{}, errors.Join(fmt.Errorf("the run left no report, see %s: %w", log.Name(), err), runErr)
	}
	return m.Judge(r), nil
}
