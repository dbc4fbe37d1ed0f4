package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// Result is what a command that ran in a container left.
type Result struct {
	Stdout, Stderr string
	// ExitCode of the command, 0 to 255.
	ExitCode int
}

// IO is what a session in a container is connected to. A stream that is nil is
// not asked for, but a session has at least an output. When a session is cut
// short by its context, streams may be used for a moment after it has returned;
// Stdin is until its next Read returns.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// TTY gives the session a terminal; all its output is then Stdout's, and
	// Stderr must be nil.
	TTY bool
	// Sizes are the terminal's, in the order in which it takes them. The
	// session keeps the last one when the channel is closed.
	Sizes <-chan remotecommand.TerminalSize
}

// sizes is a channel as a queue.
type sizes <-chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

// stream runs a session. A command that ended is an exit code, 0 to 255.
func (c *Client) stream(ctx context.Context, u *url.URL, s IO) (exitCode int, err error) {
	e, err := c.executor(u)
	if err != nil {
		return 0, err
	}
	options := remotecommand.StreamOptions{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Tty: s.TTY}
	if s.Sizes != nil {
		options.TerminalSizeQueue = sizes(s.Sizes)
	}
	err = e.StreamWithContext(ctx, options)
	var code exec.CodeExitError
	if errors.As(err, &code) {
		return code.Code, nil
	}
	return 0, err
}

// Exec runs argv in a container (the pod's only one when container is empty) as
// `kubectl exec` does. A command that ran is a Result, whatever its exit code;
// an error means that it did not run, or that nobody can tell.
func (c *Client) Exec(ctx context.Context, namespace, name, container string, argv ...string) (Result, error) {
	return c.ExecStdin(ctx, nil, namespace, name, container, argv...)
}

// ExecStdin is Exec with a standard input.
func (c *Client) ExecStdin(ctx context.Context, stdin io.Reader, namespace, name, container string, argv ...string) (Result, error) {
	var stdout, stderr output
	code, err := c.ExecIO(ctx, IO{Stdin: stdin, Stdout: &stdout, Stderr: &stderr}, namespace, name, container, argv...)
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: code}, err
}

// output is a buffer that may still be written when a session that was cut
// short has returned.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// ExecIO is Exec with the caller's streams, as `kubectl exec -it`; it returns
// the command's exit code.
func (c *Client) ExecIO(ctx context.Context, s IO, namespace, name, container string, argv ...string) (exitCode int, err error) {
	return c.stream(ctx, c.subresource(namespace, name, "exec", &corev1.PodExecOptions{
		Container: container, Command: argv, Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, TTY: s.TTY,
	}), s)
}

// Attach connects to a container's own process, as `kubectl attach` does, until
// the process or ctx ends. The container must have been made with the stdin and
// tty that s asks for.
func (c *Client) Attach(ctx context.Context, s IO, namespace, name, container string) error {
	_, err := c.stream(ctx, c.subresource(namespace, name, "attach", &corev1.PodAttachOptions{
		Container: container, Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, TTY: s.TTY,
	}), s)
	return err
}

func (c *Client) subresource(namespace, name, subresource string, options runtime.Object) *url.URL {
	return c.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(name).SubResource(subresource).
		VersionedParams(options, scheme.ParameterCodec).URL()
}

// executor speaks WebSocket and falls back to SPDY, as kubectl does.
func (c *Client) executor(u *url.URL) (remotecommand.Executor, error) {
	ws, err := remotecommand.NewWebSocketExecutor(c.cfg, http.MethodGet, u.String())
	if err != nil {
		return nil, err
	}
	old, err := remotecommand.NewSPDYExecutor(c.cfg, http.MethodPost, u)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(ws, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}

// Forward makes a port of the pod reachable on a port of 127.0.0.1 that it
// chooses, until close is called.
func (c *Client) Forward(ctx context.Context, namespace, name string, port int) (addr string, closeForward func(), err error) {
	u := c.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.cfg)
	if err != nil {
		return "", nil, err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	var stderr bytes.Buffer
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, &stderr)
	if err != nil {
		return "", nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		return "", nil, fmt.Errorf("port-forward to %s/%s:%d: %w %s", namespace, name, port, err, stderr.String())
	case <-ctx.Done():
		close(stop)
		return "", nil, fmt.Errorf("port-forward to %s/%s:%d: %w", namespace, name, port, ctx.Err())
	}
	ports, err := f.GetPorts()
	if err != nil || len(ports) == 0 {
		close(stop)
		return "", nil, fmt.Errorf("port-forward to %s/%s:%d: no local port: %w", namespace, name, port, err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))), func() { close(stop) }, nil
}
