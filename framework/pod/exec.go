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

	corev1 "k8s.io/api/core/v1"
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

// Exec runs argv in a container (the first one when container is empty) as
// `kubectl exec` does. A command that ran is a Result, whatever its exit code;
// an error means that it did not run, or that nobody can tell.
func (c *Client) Exec(ctx context.Context, namespace, name, container string, argv ...string) (Result, error) {
	return c.ExecStdin(ctx, nil, namespace, name, container, argv...)
}

// ExecStdin is Exec with a standard input.
func (c *Client) ExecStdin(ctx context.Context, stdin io.Reader, namespace, name, container string, argv ...string) (Result, error) {
	req := c.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: container, Command: argv, Stdin: stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	e, err := c.executor(req.URL())
	if err != nil {
		return Result{}, fmt.Errorf("exec in %s/%s: %w", namespace, name, err)
	}
	var stdout, stderr bytes.Buffer
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	r := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	var code exec.CodeExitError
	if errors.As(err, &code) {
		r.ExitCode = code.Code
		return r, nil
	}
	return r, err
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
