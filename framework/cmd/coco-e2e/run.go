package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2/types"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/framework/interrupt"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

var errSpecsFailed = errors.New("specs failed")

// artifacts is where a run leaves its reports: ARTIFACTS_DIR, or artifacts/ in
// the working directory.
func artifacts(elem ...string) string {
	dir := os.Getenv("ARTIFACTS_DIR")
	if dir == "" {
		dir = "artifacts"
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return filepath.Join(append([]string{dir}, elem...)...)
}

func runCommand() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use: "run", Short: "Bring up a testbed, run the suites on it, write the reports, take it away", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := options()
			if s.seed == 0 {
				var seedErr error
				s.seed, seedErr = seedFromEnvironment()
				err = errors.Join(err, seedErr)
			}
			if err = errors.Join(err, s.to.check(), checkTimeout()); err != nil {
				return s.refused(o, err)
			}
			return runSuites(cmd, o, s, nil)
		},
	}
	cmd.Flags().StringVar(&s.to.configMap, "config-map", "", "put the report into this ConfigMap too, NAMESPACE/NAME")
	cmd.Flags().StringVar(&s.to.sonobuoy, "sonobuoy", "", "directory of a Sonobuoy worker, to which the artefacts go when the run ends")
	cmd.Flags().StringSliceVar(&s.suites, "suites", strings.FieldsFunc(os.Getenv("SUITES"), func(r rune) bool { return r == ',' }), "run only these suites, with commas between")
	cmd.Flags().StringVar(&s.focus, "focus", os.Getenv("FOCUS"), "run only specs whose text matches this regular expression")
	cmd.Flags().StringVar(&s.label, "label-filter", os.Getenv("LABELS"), "run only specs with these labels (Ginkgo's label filter)")
	cmd.Flags().Int64Var(&s.seed, "seed", 0, "order the specs as the run with this seed did (SEED, or one that is chosen)")
	cmd.Flags().BoolVar(&s.keep, "keep", os.Getenv("KEEP") != "", "keep the cluster")
	return cmd
}

// noCluster are the suites below suites/ that start what they need themselves:
// simulated guests, so that they say nothing of a cluster that was there.
var noCluster = []string{"agent"}

// allSuites returns the names of the suites below suites/.
func allSuites(root string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, "suites"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// needsCluster says whether any of the suites does; none is all of them.
func needsCluster(suites []string) bool {
	return len(suites) == 0 || slices.ContainsFunc(suites, func(s string) bool { return !slices.Contains(noCluster, s) })
}

// kubeOf is a testbed's cluster, if there is one.
func kubeOf(t *testbed.Testbed) kubernetes.Interface {
	if t == nil {
		return nil
	}
	return t.Pods.Kube
}

// kubeThere is the cluster of a run that came to no testbed, where it is one that
// was there; nil for others.
func kubeThere(o testbed.Options) kubernetes.Interface {
	if o.Provider != testbed.Existing {
		return nil
	}
	c, err := existing.Open(o.Existing.Kubeconfig)
	if err != nil {
		return nil
	}
	kube, err := kubernetes.NewForConfig(c.KubernetesRestConfig())
	if err != nil {
		return nil
	}
	return kube
}

// nodeLogs are those of a testbed, if there is one.
func nodeLogs(t *testbed.Testbed) string {
	if t == nil {
		return ""
	}
	return t.NodeLogs
}

// suitesOf returns the suites below suites/ that say something of a provider's clusters.
func suitesOf(root, provider string) ([]string, error) {
	names, err := allSuites(root)
	if provider == testbed.Existing {
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(noCluster, name) })
	}
	return names, err
}

// selection says which specs run, and what stays afterwards.
type selection struct {
	suites       []string
	focus, label string
	// seed is of the order of specs, 0 for one that Ginkgo chooses.
	seed int64
	keep bool
	// mark begins every secret of the run.
	mark string
	// to is where reports go too.
	to delivery
	// output is told what Ginkgo prints; nil is a file among the artefacts, and
	// standard output is told how the specs go on.
	output io.Writer
}

// noLeaks looks for the run's secrets in directories, of which "" is none.
func noLeaks(mark string, dirs ...string) error {
	var found []string
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		leaks, err := leak.Search(dir, mark)
		if err != nil {
			return fmt.Errorf("look for secrets: %w", err)
		}
		for _, l := range leaks {
			found = append(found, l.String())
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("secrets reached reports or logs, where none may be:\n  %s", strings.Join(found, "\n  "))
	}
	return nil
}

// compileSuites compiles each of the named suites, or all when none is named,
// and returns the binaries.
func compileSuites(o testbed.Options, names []string) ([]string, error) {
	if dir := prebuilt(); dir != "" {
		return prebuiltBinaries(dir, o.Cache, names)
	}
	all, err := suitesOf(o.Root, o.Provider)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = all
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("no suite on a cluster is called %q: SUITES takes any of %s, with commas between", name, strings.Join(all, ", "))
		}
	}
	return compile(o, names)
}

// compile compiles the named suites, which there have to be, and returns the
// binaries in the order of the names.
func compile(o testbed.Options, names []string) ([]string, error) {
	dir := filepath.Join(o.Cache, "suites") + string(filepath.Separator)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var binaries []string
	args := []string{"test", "-c", "-o", dir}
	for _, name := range names {
		binary, err := inOwnDirectory(dir, name+".test", name)
		if err != nil {
			return nil, err
		}
		binaries, args = append(binaries, binary), append(args, "./suites/"+name)
	}
	return binaries, o.Progress.Do("suites: compiling", func() error {
		if out, err := command(o.Root, "go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("compile the suites: %w\n%s", err, out)
		}
		return nil
	})
}

// inOwnDirectory makes dir/name/file another path of dir/file, and returns it.
// Ginkgo calls the report of a suite, before it joins them, by the directory of
// its binary alone: of two suites in one directory the second overwrites the
// first one's.
func inOwnDirectory(dir, file, name string) (string, error) {
	path := filepath.Join(dir, name, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return path, os.Symlink(filepath.Join("..", file), path)
}

// emptyArtifacts makes the directory of the artefacts, without those of an
// earlier run.
func emptyArtifacts() (string, error) {
	dir := artifacts()
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("old artefacts: %w", err)
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// refused reports a run that never began, where whoever asked for it looks: an
// earlier run's report would pass for this one's, and Sonobuoy's worker waits for
// a result until it comes. It returns why the run was refused, and what went wrong.
func (s selection) refused(o testbed.Options, reason error) error {
	dir, err := emptyArtifacts()
	if err != nil {
		return errors.Join(reason, err)
	}
	err = recording{dir: dir, begin: time.Now(), o: o, s: s}.aborted(reason)
	to := s.to
	if to.check() != nil { // then that is the reason, or part of it
		to.configMap = ""
	}
	return errors.Join(err, to.deliver(context.Background(), dir, kubeThere(o)))
}

// runSuites brings up a testbed, runs the suite and then, when it passed,
// more; and takes the testbed away.
func runSuites(cmd *cobra.Command, o testbed.Options, s selection, more func(*testbed.Testbed) error) (err error) {
	begin := time.Now()
	dir, err := emptyArtifacts()
	if err != nil {
		return err
	}
	record := recording{dir: dir, begin: begin, o: o, s: s}
	binaries, err := compileSuites(o, s.suites)
	if err != nil {
		return errors.Join(record.aborted(err), s.to.deliver(context.WithoutCancel(cmd.Context()), dir, kubeThere(o)))
	}
	var t *testbed.Testbed
	if needsCluster(s.suites) {
		fresh := handle(o) == ""
		if t, err = up(cmd.Context(), o); err != nil {
			return errors.Join(record.aborted(err), s.to.deliver(context.WithoutCancel(cmd.Context()), dir, kubeThere(o)))
		}
		whole := func() bool { return s.String() == "" && fresh && err == nil }
		if s.keep {
			defer func() { err = errors.Join(err, savePhases(o, dir, whole())) }()
		} else {
			defer func() { err = errors.Join(err, down(o), savePhases(o, dir, whole())) }()
		}
	}
	s.mark = leak.NewMark()
	running := o.Progress.Do
	if s.output == nil {
		running = o.Progress.Quietly // the specs are shown
	}
	runErr := running("suites: running", func() error { return ginkgo(cmd.Context(), o, binaries, dir, s) })
	made, err := record.write(cmd.Context(), t, nil)
	runErr = errors.Join(runErr, err)
	runErr = errors.Join(runErr, o.Progress.Do("secrets: looked for in reports and logs", func() error { return noLeaks(s.mark, dir, nodeLogs(t)) }))
	if runErr != nil && t != nil {
		if err := t.ExportLogs(cmd.Context(), filepath.Join(dir, "node-logs")); err != nil {
			fmt.Fprintln(os.Stderr, "coco-e2e: node logs:", err)
		}
	}
	if runErr == nil && more != nil {
		runErr = more(t)
	}
	runErr = errors.Join(runErr, summary(dir, o, made, s, time.Since(begin)))
	return errors.Join(runErr, s.to.deliver(context.WithoutCancel(cmd.Context()), dir, kubeOf(t)))
}

func command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdin = dir, os.Stdin
	return cmd
}

// grace is what the specs that run may take to clean up when the run is told to end.
const grace = 90 * time.Second

// ginkgo runs the suites. It takes part in the terminal's process group, so a
// Ctrl-C reaches it directly; package interrupt sees to the rest.
func ginkgo(ctx context.Context, o testbed.Options, binaries []string, dir string, s selection) error {
	// A spec mostly waits for the cluster: more of them run than there are CPUs.
	program, args := "go", []string{"tool", "ginkgo"}
	if dir := prebuilt(); dir != "" {
		program, args = filepath.Join(dir, prebuiltGinkgo), nil
	}
	args = append(args,
		"run", "--procs", strconv.Itoa(min(8, 2*runtime.NumCPU())), "--randomize-all",
		"--output-dir", dir, "--json-report", ginkgoReport,
		"--poll-progress-after", "60s", "--timeout", suiteTimeout(), "--keep-going", "--no-color",
	)
	if s.seed != 0 {
		args = append(args, "--seed", strconv.FormatInt(s.seed, 10))
	}
	if s.focus != "" {
		args = append(args, "--focus", s.focus)
	}
	if s.label != "" {
		args = append(args, "--label-filter", s.label)
	}
	cmd, remove := interrupt.Command(ctx, grace, dir, program, append(args, binaries...)...)
	defer remove()
	cmd.Dir, cmd.Stdin = o.Root, os.Stdin
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(cmd.Env, testbed.HandleVariable+"="+handle(o), "COCO_E2E_ROOT="+o.Root, "CLUSTER="+o.Provider, "CLUSTER_NAME="+o.Name, "COCO_E2E_CACHE="+o.Cache, "ARTIFACTS_DIR="+dir,
		leak.MarkVariable+"="+s.mark)
	run := func() error { return watched(o, cmd, dir, s.String() == "") }
	if s.output != nil {
		cmd.Stdout, cmd.Stderr = s.output, s.output
		run = cmd.Run
	}
	stop := context.AfterFunc(ctx, func() { o.Progress.Printf("interrupted: the specs clean up, for at most %.0f s", grace.Seconds()) })
	defer stop()
	if err := run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return errSpecsFailed
		}
		return fmt.Errorf("ginkgo: %w", err)
	}
	return nil
}

// suiteTimeout bounds all suites together: SUITE_TIMEOUT. VMs of real hardware
// take longer to boot than simulated guests.
func suiteTimeout() string { return cmp.Or(os.Getenv("SUITE_TIMEOUT"), "30m") }

func checkTimeout() error {
	if d, err := time.ParseDuration(suiteTimeout()); err != nil || d <= 0 {
		return fmt.Errorf("SUITE_TIMEOUT=%s: use a duration, such as 90m", suiteTimeout())
	}
	return nil
}

// handle is the file that describes the testbed to the suites; "" when there is none.
func handle(o testbed.Options) string {
	path := o.HandlePath()
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// counts are the specs of a report by result. An inconclusive spec has failed
// too, without showing either way what it asks.
type counts struct{ Passed, Failed, Inconclusive, Skipped int }

func countSpecs(report string) (counts, error) {
	var c counts
	b, err := os.ReadFile(report)
	if err != nil {
		return c, err
	}
	var suites []types.Report
	if err := json.Unmarshal(b, &suites); err != nil {
		return c, fmt.Errorf("%s: %w", report, err)
	}
	for _, s := range suites {
		for _, spec := range s.SpecReports {
			isSpec := spec.LeafNodeType.Is(types.NodeTypeIt)
			switch {
			case spec.State.Is(types.SpecStateFailureStates) && strings.Contains(spec.Failure.Message, pod.InconclusiveMark):
				c.Inconclusive++
			case spec.State.Is(types.SpecStateFailureStates):
				c.Failed++
			case spec.State.Is(types.SpecStatePassed) && isSpec:
				c.Passed++
			case isSpec:
				c.Skipped++
			}
		}
	}
	return c, nil
}

func summary(dir string, o testbed.Options, made *report.Report, s selection, took time.Duration) error {
	c, err := countSpecs(filepath.Join(dir, ginkgoReport))
	if err != nil {
		return fmt.Errorf("no report of the suite: %w", err)
	}
	if c.Passed+c.Failed+c.Inconclusive == 0 {
		return fmt.Errorf("no spec ran: check what was asked for, %s", cmp.Or(s.String(), "which is everything"))
	}
	if made != nil && !onTerminal() {
		tellFailures(os.Stdout, made, onGitHub())
	}
	fmt.Printf("\nspecs: %d passed, %d failed, %d inconclusive, %d skipped in %.0f s\n", c.Passed, c.Failed, c.Inconclusive, c.Skipped, took.Seconds())
	if made != nil {
		printVerdicts(made)
	}
	fmt.Printf("reports: %s, report.yaml, summary.md and junit.xml beside it", filepath.Join(dir, "report.html"))
	if c.Failed+c.Inconclusive > 0 {
		fmt.Printf("; logs of node, guests and KBS: %s", filepath.Join(dir, "node-logs"))
	}
	fmt.Println()
	if s.keep {
		fmt.Printf("the cluster is kept: export KUBECONFIG=%s; remove it with `make down`\n", filepath.Join(o.ClustersDir(), o.Name, "kubeconfig"))
	} else {
		fmt.Println("keep the cluster: make e2e KEEP=1, then make down")
	}
	fmt.Println("run one spec:     make e2e FOCUS='exec whoami'")
	return nil
}
