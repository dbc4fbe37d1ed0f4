// Package pod drives pods the way a person with kubectl does: it creates them,
// waits for them, runs commands in them, and reads what their events say. Its
// functions return errors that can be told apart; only specs fail.
//
// It must not know how a confidential pod is made confidential: init-data and
// the agent policy are annotations to it, and a denial is a text that it
// parses (see Denial).
package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Client reaches the pods of one cluster.
type Client struct {
	// Kube is the typed client, for what this package does not cover.
	Kube kubernetes.Interface
	// Labels are put on every namespace that is made; whoever makes another object
	// that belongs to no namespace puts them there too.
	Labels map[string]string
	cfg    *rest.Config
}

// NewClient returns a client for the cluster that cfg names.
func NewClient(cfg *rest.Config) (*Client, error) {
	if cfg == nil {
		return nil, errors.New("pod client: no client configuration: was the cluster created?")
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("pod client: %w", err)
	}
	return &Client{Kube: kube, cfg: cfg}, nil
}

// What Pod Security Admission lets into a namespace: Enforce is the label, its
// values are Kubernetes' levels.
const (
	Enforce    = "pod-security.kubernetes.io/enforce"
	Baseline   = "baseline"
	Privileged = "privileged"
)

// Namespace creates a namespace with a generated name and waits for its
// default ServiceAccount, without which no pod can be created in it. Its pods may
// be of the level Baseline, whatever the cluster's default is.
func (c *Client) Namespace(ctx context.Context, prefix string) (string, error) {
	return c.NamespaceLabelled(ctx, prefix, nil)
}

// NamespaceLabelled is Namespace with more labels.
func (c *Client) NamespaceLabelled(ctx context.Context, prefix string, labels map[string]string) (string, error) {
	all := map[string]string{Enforce: Baseline}
	maps.Copy(all, c.Labels)
	maps.Copy(all, labels)
	ns, err := c.Kube.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-", Labels: all}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create namespace %s-…: %w", prefix, err)
	}
	one := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "default").String()}
	w, err := c.Kube.CoreV1().ServiceAccounts(ns.Name).Watch(ctx, one)
	if err != nil {
		return "", fmt.Errorf("watch service accounts of %s: %w", ns.Name, err)
	}
	defer w.Stop()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if ok && (e.Type == watch.Added || e.Type == watch.Modified) {
				return ns.Name, nil
			}
			if !ok {
				return "", fmt.Errorf("namespace %s: the watch ended before its default ServiceAccount appeared", ns.Name)
			}
		case <-ctx.Done():
			return "", fmt.Errorf("namespace %s: no default ServiceAccount: %w", ns.Name, ctx.Err())
		}
	}
}

// DeleteNamespace asks for a namespace and all that is in it to be deleted, and
// does not wait for that. One that is not there is no error.
func (c *Client) DeleteNamespace(ctx context.Context, name string) error {
	err := c.Kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}

// WaitError says that a pod ended up where it cannot become what was waited
// for any more, or did not become it in time.
type WaitError struct {
	// Pod is "namespace/name".
	Pod string
	// What was waited for, as in "Ready".
	What string
	// Last is what the pod's status said last.
	Last string
	// Impossible says that What can no longer come true.
	Impossible bool
	// Cause is why the wait ended; nil when the pod's status says it all.
	Cause error
}

func (e *WaitError) Error() string {
	text := fmt.Sprintf("pod %s did not become %s", e.Pod, e.What)
	if e.Impossible {
		text = fmt.Sprintf("pod %s can no longer become %s", e.Pod, e.What)
	}
	if e.Cause != nil {
		text += fmt.Sprintf(": %v", e.Cause)
	}
	return text + "; last seen: " + e.Last
}

func (e *WaitError) Unwrap() error { return e.Cause }

// errOver says that a pod has ended for good.
var errOver = errors.New("it has ended")

// WaitReady waits until the one pod that opts chooses in namespace (by labels,
// or by name through Named) is Ready, and returns it. It ends early when the
// pod has ended for good, and when ctx ends; both are *WaitError.
func (c *Client) WaitReady(ctx context.Context, namespace string, opts metav1.ListOptions) (*corev1.Pod, error) {
	return c.WaitUntil(ctx, namespace, opts, "Ready", func(p *corev1.Pod) (bool, error) {
		if p.DeletionTimestamp != nil {
			return false, nil
		}
		if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			return false, errOver
		}
		return IsReady(p), nil
	})
}

// WaitUntil waits until cond holds for a pod that opts chooses in namespace,
// and returns that pod; what says in words what is waited for. It ends early
// when cond returns an error, by which cond says that it can no longer hold,
// and when ctx ends; both are *WaitError.
func (c *Client) WaitUntil(ctx context.Context, namespace string, opts metav1.ListOptions, what string, cond func(*corev1.Pod) (bool, error)) (*corev1.Pod, error) {
	failed := &WaitError{Pod: namespace + "/?", What: what, Last: "no such pod yet"}
	p, err := c.watchPods(ctx, namespace, opts, func(p *corev1.Pod) (bool, error) {
		failed.Pod, failed.Last = namespace+"/"+p.Name, Describe(p)
		ok, err := cond(p)
		failed.Impossible = err != nil
		return ok, err
	})
	if err != nil {
		failed.Cause = err
		return nil, failed
	}
	return p, nil
}

// Named selects one pod by name.
func Named(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
}

// Labelled selects pods by a label.
func Labelled(key, value string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: key + "=" + value}
}

// watchPods calls until for each state of each chosen pod, until it says true
// or fails.
func (c *Client) watchPods(ctx context.Context, namespace string, opts metav1.ListOptions, until func(*corev1.Pod) (bool, error)) (*corev1.Pod, error) {
	for {
		w, err := c.Kube.CoreV1().Pods(namespace).Watch(ctx, opts)
		if err != nil {
			return nil, err
		}
		p, again, err := followPods(ctx, w, until)
		w.Stop()
		if !again {
			return p, err
		}
	}
}

// followPods reads one watch; again says that the server ended it.
func followPods(ctx context.Context, w watch.Interface, until func(*corev1.Pod) (bool, error)) (p *corev1.Pod, again bool, err error) {
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil, ctx.Err() == nil, ctx.Err()
			}
			p, isPod := e.Object.(*corev1.Pod)
			if !isPod || e.Type == watch.Deleted {
				continue
			}
			if done, err := until(p); done || err != nil {
				return p, false, err
			}
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// IsReady reports the pod's Ready condition.
func IsReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// EverStarted reports whether any container of the pod has run.
func EverStarted(p *corev1.Pod) bool {
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running != nil {
			return true
		}
		for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			// A container that could not be created is reported as
			// terminated with reason StartError and no start time.
			if t != nil && t.Reason != "StartError" && !t.StartedAt.IsZero() {
				return true
			}
		}
	}
	return false
}

// Describe puts a pod's state into one line.
func Describe(p *corev1.Pod) string {
	parts := []string{"phase " + string(p.Status.Phase)}
	for _, s := range p.Status.ContainerStatuses {
		switch {
		case s.State.Waiting != nil:
			parts = append(parts, fmt.Sprintf("container %s waiting (%s: %s)", s.Name, s.State.Waiting.Reason, firstLine(s.State.Waiting.Message)))
		case s.State.Terminated != nil:
			parts = append(parts, fmt.Sprintf("container %s terminated (%s, exit code %d)", s.Name, s.State.Terminated.Reason, s.State.Terminated.ExitCode))
		case s.State.Running != nil:
			parts = append(parts, fmt.Sprintf("container %s running, ready=%t", s.Name, s.Ready))
		}
	}
	return strings.Join(parts, "; ")
}

func firstLine(s string) string {
	line, _, more := strings.Cut(s, "\n")
	if len(line) > 300 || more {
		return line[:min(len(line), 300)] + "…"
	}
	return line
}

// Events returns "Reason: message" of the events about the pod, oldest first.
func (c *Client) Events(ctx context.Context, namespace, name string) ([]string, error) {
	list, err := c.Kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.name", name).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("events of %s/%s: %w", namespace, name, err)
	}
	items := list.Items
	sort.SliceStable(items, func(i, j int) bool { return items[i].CreationTimestamp.Before(&items[j].CreationTimestamp) })
	var out []string
	for _, e := range items {
		out = append(out, e.Reason+": "+e.Message)
	}
	return out, nil
}

// WaitEvent waits for an event about the pod whose "Reason: message" match
// accepts, and returns it. When ctx ends, the error lists what was seen.
func (c *Client) WaitEvent(ctx context.Context, namespace, name string, match func(string) bool) (string, error) {
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("involvedObject.name", name).String()}
	var seen []string
	for {
		w, err := c.Kube.CoreV1().Events(namespace).Watch(ctx, opts)
		if err != nil {
			return "", fmt.Errorf("watch events of %s/%s: %w", namespace, name, err)
		}
		found, err := followEvents(ctx, w, match, &seen)
		w.Stop()
		if err != nil {
			return "", fmt.Errorf("no such event of pod %s/%s: %w; seen: %s", namespace, name, err, strings.Join(seen, " | "))
		}
		if found != "" {
			return found, nil
		}
	}
}

func followEvents(ctx context.Context, w watch.Interface, match func(string) bool, seen *[]string) (string, error) {
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return "", ctx.Err()
			}
			if ev, isEvent := e.Object.(*corev1.Event); isEvent {
				text := ev.Reason + ": " + ev.Message
				if match(text) {
					return text, nil
				}
				*seen = append(*seen, text)
			}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// Logs returns what a container wrote so far; limit bounds the bytes.
func (c *Client) Logs(ctx context.Context, namespace, name, container string, limit int64) (string, error) {
	b, err := c.Kube.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{Container: container, LimitBytes: &limit}).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("logs of %s/%s: %w", namespace, name, err)
	}
	return string(b), nil
}

// LogStream returns a container's log as options choose it; the caller closes
// it. With options.Follow it goes on to the container's end.
func (c *Client) LogStream(ctx context.Context, namespace, name string, options corev1.PodLogOptions) (io.ReadCloser, error) {
	r, err := c.Kube.CoreV1().Pods(namespace).GetLogs(name, &options).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("logs of %s/%s: %w", namespace, name, err)
	}
	return r, nil
}
