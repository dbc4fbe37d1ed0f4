// Package bench measures a testbed: how long pods take to become Ready, how
// long a command in them takes, and what memory a guest costs. Every figure of
// a confidential pod stands beside that of a plain runc pod from the same node
// in the same run; the ratio is what may be quoted.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// Samples of each kind of pod, and commands in each pod.
const (
	pods  = 12
	execs = 10
	// guests run at once for the memory figure.
	guests = 4
)

// kind of pod that is measured.
type kind struct {
	name         string
	runtimeClass *string
	ready, exec  []time.Duration
}

// Result is what a run measured.
type Result struct {
	runc, cc *kind
	memory   memory
	release  *release
}

// Run measures t.
func Run(ctx context.Context, t *testbed.Testbed, log *progress.Log) (*Result, error) {
	ns, err := t.Pods.Namespace(ctx, "bench")
	if err != nil {
		return nil, err
	}
	defer func() { _ = t.Pods.DeleteNamespace(context.WithoutCancel(ctx), ns) }()
	runc, cc := &kind{name: "runc"}, &kind{name: t.RuntimeClass, runtimeClass: &t.RuntimeClass}
	if err := log.Do("bench: pods and execs", func() error {
		// The first of each kind pulls the image and is not counted; then the
		// kinds take turns, so that both see the same machine.
		for i := range pods + 1 {
			for _, k := range []*kind{runc, cc} {
				if err := k.sample(ctx, t, ns, i, i > 0); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	r := &Result{runc: runc, cc: cc}
	if err := log.Do("bench: memory", func() (err error) {
		r.memory, err = guestMemory(ctx, t, ns)
		return err
	}); err != nil {
		return nil, err // a table without the memory would say that it is 0
	}
	err = log.Do("bench: release of secrets", func() (err error) {
		r.release, err = measureRelease(ctx, t, ns)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (k *kind) sample(ctx context.Context, t *testbed.Testbed, ns string, i int, count bool) error {
	name := fmt.Sprintf("%s-%d", k.name, i)
	begin := time.Now()
	if err := start(ctx, t, ns, name, k.runtimeClass); err != nil {
		return err
	}
	if _, err := t.Pods.WaitReady(ctx, ns, pod.Named(name)); err != nil {
		return err
	}
	if count {
		k.ready = append(k.ready, time.Since(begin))
	}
	for j := range execs {
		begin := time.Now()
		r, err := t.Pods.Exec(ctx, ns, name, "", "true")
		if err != nil || r.ExitCode != 0 {
			return fmt.Errorf("exec in %s: exit code %d, %w", name, r.ExitCode, err)
		}
		if count && j > 0 {
			k.exec = append(k.exec, time.Since(begin))
		}
	}
	return remove(ctx, t, ns, name)
}

func start(ctx context.Context, t *testbed.Testbed, ns, name string, runtimeClass *string) error {
	grace := int64(0)
	_, err := t.Pods.Kube.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PodSpec{
			RuntimeClassName: runtimeClass, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "c", Image: t.Nginx}},
		},
	}, metav1.CreateOptions{})
	return err
}

// remove deletes the pod and waits until it is gone, so that its end is not
// part of the next one's time.
func remove(ctx context.Context, t *testbed.Testbed, ns, name string) error {
	w, err := t.Pods.Kube.CoreV1().Pods(ns).Watch(ctx, pod.Named(name))
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := t.Pods.Kube.CoreV1().Pods(ns).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == "DELETED" {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// Phases are those of one run.
type Phases struct {
	// Run says which, in a word or two.
	Run    string
	Phases []progress.Phase
}

// Write prints the result, and the phases of the run that it is from beside those
// of others.
func (r *Result) Write(w io.Writer, runs ...Phases) error {
	runc, cc, m := r.runc, r.cc, r.memory
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nmedian of %d pods, %d execs\trunc\t%s\tratio\n", len(runc.ready), len(runc.exec), cc.name)
	row := func(what string, a, b []time.Duration) {
		x, y := median(a), median(b)
		fmt.Fprintf(t, "%s\t%.0f ms\t%.0f ms\t%.2f\n", what, ms(x), ms(y), float64(y)/float64(x))
	}
	row("create to Ready", runc.ready, cc.ready)
	row("exec round trip", runc.exec, cc.exec)
	fmt.Fprintf(t, "\nmemory of a guest with its shim and TPM, mean of %d\t\t\t\n", guests)
	fmt.Fprintf(t, "processes (PSS)\t\t%.1f MiB\t\n", mib(m.processes))
	fmt.Fprintf(t, "guest's file systems in memory\t\t%.1f MiB\t\n", mib(m.files))
	if r.release != nil {
		if err := errors.Join(t.Flush(), r.release.write(w)); err != nil {
			return err
		}
	}
	return errors.Join(t.Flush(), writePhases(w, runs))
}

// writePhases prints a column for each run, with a row for each phase that any
// has, in the order of the first that has it. Phases of one name are added up.
func writePhases(w io.Writer, runs []Phases) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\nseconds\t")
	var names []string
	took := make([]map[string]float64, len(runs))
	for i, run := range runs {
		fmt.Fprintf(t, "%s\t", run.Run)
		took[i] = map[string]float64{}
		for _, p := range run.Phases {
			if !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
			took[i][p.Name] += p.Seconds
		}
	}
	fmt.Fprintln(t)
	for _, name := range names {
		fmt.Fprintf(t, "%s\t", name)
		for i := range runs {
			if seconds, ok := took[i][name]; ok {
				fmt.Fprintf(t, "%.1f", seconds)
			}
			fmt.Fprint(t, "\t")
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
