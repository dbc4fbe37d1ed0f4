package suite

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// chronicle is what happened in a namespace since it was made: its events, and
// its pods as they were last, those too that are gone by the time that a spec fails.
type chronicle struct {
	mu     sync.Mutex
	events map[string][]string
	pods   map[string]*corev1.Pod
	gone   map[string]time.Time
	lost   int
	stop   func()
	done   sync.WaitGroup
}

// maxEvents and maxPods bound what is remembered of a namespace.
const (
	maxEvents = 500
	maxPods   = 100
)

// watchAgain is how long a watch that ended, as an API server ends them, rests.
const watchAgain = 500 * time.Millisecond

// chronicleOf follows a namespace until ended.
func chronicleOf(ctx context.Context, kube kubernetes.Interface, ns string) *chronicle {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &chronicle{events: map[string][]string{}, pods: map[string]*corev1.Pod{}, gone: map[string]time.Time{}, stop: cancel}
	follow := func(begin func() (watch.Interface, error)) {
		for ctx.Err() == nil {
			if w, err := begin(); err == nil {
				c.read(ctx, w)
				w.Stop()
			}
			select {
			case <-ctx.Done():
			case <-time.After(watchAgain):
			}
		}
	}
	c.done.Go(func() {
		follow(func() (watch.Interface, error) { return kube.CoreV1().Events(ns).Watch(ctx, metav1.ListOptions{}) })
	})
	c.done.Go(func() {
		follow(func() (watch.Interface, error) { return kube.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{}) })
	})
	return c
}

// end stops following.
func (c *chronicle) end() {
	c.stop()
	c.done.Wait()
}

// refresh notes what is there now: a watch may be behind.
func (c *chronicle) refresh(ctx context.Context, kube kubernetes.Interface, ns string) error {
	pods, err := kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		c.note(watch.Event{Type: watch.Modified, Object: &pods.Items[i]})
	}
	events, err := kube.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list events: %w", err)
	}
	for i := range events.Items {
		c.note(watch.Event{Type: watch.Modified, Object: &events.Items[i]})
	}
	return nil
}

func (c *chronicle) read(ctx context.Context, w watch.Interface) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return
			}
			c.note(e)
		}
	}
}

func (c *chronicle) note(e watch.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch x := e.Object.(type) {
	case *corev1.Event:
		at := x.LastTimestamp.Time
		if at.IsZero() {
			at = x.EventTime.Time
		}
		line := fmt.Sprintf("%s  %s: %s", at.UTC().Format(time.TimeOnly), x.Reason, x.Message)
		about := x.InvolvedObject.Name
		switch {
		case e.Type == watch.Deleted || slices.Contains(c.events[about], line):
		case len(c.events[about]) >= maxEvents || c.events[about] == nil && len(c.events) >= maxPods:
			c.lost++
		default:
			c.events[about] = append(c.events[about], line)
		}
	case *corev1.Pod:
		if _, known := c.pods[x.Name]; !known && len(c.pods) >= maxPods {
			c.lost++
			return
		}
		c.pods[x.Name] = x
		delete(c.gone, x.Name)
		if e.Type == watch.Deleted {
			c.gone[x.Name] = time.Now()
		}
	}
}

// seen is a pod as it was last.
type seen struct {
	*corev1.Pod
	events []string
	// gone is when it was deleted; zero while it is there.
	gone time.Time
}

// all are the pods that were ever there, by name, and what else had events.
func (c *chronicle) all() (pods []seen, others map[string][]string, lost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	others = map[string][]string{}
	for name, events := range c.events {
		if c.pods[name] == nil {
			others[name] = slices.Clone(events)
		}
	}
	for name, p := range c.pods {
		pods = append(pods, seen{p, slices.Clone(c.events[name]), c.gone[name]})
	}
	slices.SortFunc(pods, func(a, b seen) int { return strings.Compare(a.Name, b.Name) })
	return pods, others, c.lost
}
