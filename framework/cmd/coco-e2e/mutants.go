package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/mutants"
	"github.com/coco-e2e/coco-e2e/framework/guest"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

var errMutants = errors.New("not every defect failed exactly the requirements that it breaks")

func mutantsCommand() *cobra.Command {
	var only []string
	var noClusters, readme bool
	cmd := &cobra.Command{
		Use: "mutants", Short: "Give the simulators one defect after the other, and see that the suites fail exactly what it breaks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			catalogue, err := conformance.Load()
			if err != nil {
				return err
			}
			all, err := mutants.Load(catalogue)
			if err != nil {
				return err
			}
			if readme {
				return writeMutants(filepath.Join(o.Root, "README.md"), all)
			}
			chosen, err := chooseMutants(all, only, noClusters)
			if err != nil {
				return err
			}
			switch o.Provider {
			case "":
				o.Provider = testbed.Local
			case testbed.Local:
			default:
				return fmt.Errorf("CLUSTER=%s: defects are put into the simulators of a local cluster; use CLUSTER=local", o.Provider)
			}
			return runMutants(cmd.Context(), cmd.OutOrStdout(), o, chosen)
		},
	}
	cmd.Flags().StringSliceVar(&only, "only", nil, "run only these, by name, with commas between")
	cmd.Flags().BoolVar(&noClusters, "no-cluster", false, "run only those that need no cluster")
	cmd.Flags().BoolVar(&readme, "readme", false, "run nothing, write the table in README.md")
	return cmd
}

func writeMutants(path string, all []mutants.Mutant) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	written, err := mutants.Readme(string(text), all)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(written), 0o644)
}

// chooseMutants returns those of the names, all when none is named, and of
// them, where asked for, those whose suites need no cluster.
func chooseMutants(all []mutants.Mutant, names []string, noClusters bool) ([]mutants.Mutant, error) {
	for _, name := range names {
		if !slices.ContainsFunc(all, func(m mutants.Mutant) bool { return m.Name == name }) {
			return nil, fmt.Errorf("--only: no mutant is called %q: see manifests/conformance/mutants.yaml", name)
		}
	}
	chosen := slices.DeleteFunc(slices.Clone(all), func(m mutants.Mutant) bool {
		return len(names) > 0 && !slices.Contains(names, m.Name) || noClusters && onCluster(m)
	})
	if len(chosen) == 0 {
		return nil, errors.New("no mutant is left to run: drop --no-cluster or name others with --only")
	}
	// Those of a kind follow each other, so that the control of a kind runs once.
	slices.SortStableFunc(chosen, func(a, b mutants.Mutant) int {
		if onCluster(a) == onCluster(b) {
			return 0
		} else if onCluster(b) {
			return -1
		}
		return 1
	})
	return chosen, nil
}

func onCluster(m mutants.Mutant) bool {
	return slices.ContainsFunc(m.Suites, func(s string) bool { return !slices.Contains(noCluster, s) })
}

// mutation runs mutants. Its clusters are o's, its simulators are not: what has
// a defect is built where no other run looks.
type mutation struct {
	o        testbed.Options
	binaries map[string]string // of suites
	dir      string            // of the artefacts
}

// judged is what came of one mutant.
type judged struct {
	mutant mutants.Mutant
	failed []string
	err    error
	took   time.Duration
}

func runMutants(ctx context.Context, w io.Writer, o testbed.Options, chosen []mutants.Mutant) error {
	r, err := newMutation(o, chosen)
	if err != nil {
		return err
	}
	// A source that has changed under a mutant is found before anything runs.
	overlays := map[string]string{}
	for _, m := range chosen {
		if overlays[m.Name], err = m.Overlay(o.Root, filepath.Join(r.dir, m.Name)); err != nil {
			return err
		}
	}
	if err := r.control(ctx, chosen); err != nil {
		return err
	}
	var results []judged
	for i, m := range chosen {
		begin := time.Now()
		o.Progress.Printf("mutant %d of %d: %s: %s", i+1, len(chosen), m.Name, m.Breaks)
		var outcome mutants.Outcome
		runs, err := r.run(ctx, m.Name, overlays[m.Name], []mutants.Mutant{m})
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if err == nil {
			outcome = runs[0]
			err = m.Judge(outcome)
		}
		results = append(results, judged{m, outcome.Failed, err, time.Since(begin)})
	}
	return printMutants(w, results)
}

func newMutation(o testbed.Options, chosen []mutants.Mutant) (*mutation, error) {
	r := &mutation{o: o, binaries: map[string]string{}, dir: artifacts("mutants")}
	if err := errors.Join(os.RemoveAll(r.dir), os.MkdirAll(r.dir, 0o755)); err != nil {
		return nil, err
	}
	all, err := allSuites(o.Root)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range chosen {
		for _, suite := range m.Suites {
			if !slices.Contains(all, suite) {
				return nil, fmt.Errorf("mutant %s: suites: none is called %q; there are %s", m.Name, suite, strings.Join(all, ", "))
			}
			names = append(names, suite)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	binaries, err := compile(o, names)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		r.binaries[name] = binaries[i]
	}
	r.o.Cache = filepath.Join(o.Cache, "mutants")
	return r, shareCache(o.Cache, r.o.Cache)
}

// shareCache lets a cache of its own have the node image, Debian's packages and
// the clusters of another, so that those are not made twice and `make down`
// finds a cluster that was left behind.
func shareCache(cache, own string) error {
	for _, shared := range []string{"node", "clusters", "simulation/debs"} {
		target, link := filepath.Join(cache, shared), filepath.Join(own, shared)
		if err := errors.Join(os.MkdirAll(target, 0o755), os.MkdirAll(filepath.Dir(link), 0o755)); err != nil {
			return err
		}
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// control runs the specs of the mutants without any defect.
func (r *mutation) control(ctx context.Context, chosen []mutants.Mutant) error {
	for _, clusters := range []bool{false, true} {
		var selections []mutants.Mutant
		for _, m := range chosen {
			if onCluster(m) == clusters {
				selections = append(selections, m)
			}
		}
		if len(selections) == 0 {
			continue
		}
		runs, err := r.run(ctx, "control", "", selections)
		if err != nil {
			return fmt.Errorf("control without any defect: %w", err)
		}
		var errs []error
		for i, m := range selections {
			if err := m.Control(runs[i]); err != nil {
				errs = append(errs, fmt.Errorf("control of mutant %s: %w", m.Name, err))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// run builds the simulators with an overlay, or without one, and runs the specs
// of each selection, on one cluster where they need one. Equal selections run once.
func (r *mutation) run(ctx context.Context, name, overlay string, selections []mutants.Mutant) (outcomes []mutants.Outcome, err error) {
	if err := os.Setenv(guest.OverlayVariable, overlay); err != nil {
		return nil, err
	}
	if onCluster(selections[0]) {
		defer func() { err = errors.Join(err, down(r.o)) }()
		if _, err := testbed.Up(ctx, r.o); err != nil {
			return nil, err
		}
	}
	done := map[string]mutants.Outcome{}
	for _, m := range selections {
		key := strings.Join(m.Suites, ",") + " " + m.Focus
		outcome, ok := done[key]
		if !ok {
			dir := filepath.Join(r.dir, name, fmt.Sprintf("run%d", len(done)+1))
			if outcome, err = r.specs(ctx, name, dir, m); err != nil {
				return nil, err
			}
			done[key] = outcome
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes, nil
}

// specs runs those that a mutant asks for, and leaves what they print and
// report in dir.
func (r *mutation) specs(ctx context.Context, name, dir string, m mutants.Mutant) (o mutants.Outcome, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return o, err
	}
	log, err := os.Create(filepath.Join(dir, "ginkgo.log"))
	if err != nil {
		return o, err
	}
	defer log.Close()
	var binaries []string
	for _, suite := range m.Suites {
		binaries = append(binaries, r.binaries[suite])
	}
	err = r.o.Progress.Do(fmt.Sprintf("%s: suites %s", name, strings.Join(m.Suites, ", ")), func() error {
		err := ginkgo(ctx, r.o, binaries, dir, selection{focus: m.Focus, mark: leak.NewMark(), output: log})
		if errors.Is(err, errSpecsFailed) {
			return nil // which ones, the report says
		}
		return err
	})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return o, err
	}
	report, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		return o, fmt.Errorf("no report of the suites: %w; see %s", err, log.Name())
	}
	if o, err = mutants.Read(report); err != nil {
		return o, fmt.Errorf("%w; see %s", err, log.Name())
	}
	return o, nil
}

// shown is how many requirements the table names of one mutant.
const shown = 5

// printMutants prints a table, and below it what is wrong.
func printMutants(w io.Writer, results []judged) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nMUTANT\tWHAT IT BREAKS\tREQUIREMENTS THAT FAILED\tVERDICT\tSECONDS")
	var errs []error
	for _, r := range results {
		verdict, failed := "as expected", strings.Join(r.failed[:min(shown, len(r.failed))], " ")
		if more := len(r.failed) - shown; more > 0 {
			failed += fmt.Sprintf(" and %d more", more)
		}
		if r.err != nil {
			verdict = "WRONG"
			errs = append(errs, fmt.Errorf("mutant %s: %w", r.mutant.Name, r.err))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.0f\n", r.mutant.Name, r.mutant.Breaks, failed, verdict, r.took.Seconds())
	}
	if err := table.Flush(); err != nil || len(errs) == 0 {
		return err
	}
	return errors.Join(append(errs, errMutants)...)
}
