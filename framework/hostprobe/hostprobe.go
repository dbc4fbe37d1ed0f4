// Package hostprobe is what an attacker on a node has: a way to the agent of a
// confidential pod's guest, past Kubernetes and past containerd. Its program runs
// in a privileged pod beside the victim, finds the sandbox's agent, and passes
// bytes on; what they say is up to the caller.
//
// It must not know what is asked of the agent.
package hostprobe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
)

// Where a node keeps what leads from a container to its agent.
const (
	// tasks are containerd's containers of Kubernetes, a bundle each.
	tasks = "run/containerd/io.containerd.runtime.v2.task/k8s.io"
	// sandboxAnnotation names, in a bundle's config.json, the sandbox of a
	// container (containerd's CRI plug-in, pkg/annotations).
	sandboxAnnotation = "io.kubernetes.cri.sandbox-id"
	// monitorSocket is the management socket of a sandbox's shim; GET /agent-url
	// tells where its agent listens (Kata shim_management.go).
	monitorSocket = "shim-monitor.sock"
)

// monitors are the directories of sandboxes' management sockets, of Kata's Go
// runtime and of its Rust runtime.
var monitors = []string{"run/vc/sbs", "run/kata"}

// dialTimeout bounds asking a shim.
const dialTimeout = 10 * time.Second

// AgentURL is the address at which the agent of a container's guest listens, as
// [agentapi.Dial] takes it. root is where the node's root is, containerID is
// containerd's, 64 hex digits.
func AgentURL(ctx context.Context, root, containerID string) (string, error) {
	sandbox, err := sandboxOf(root, containerID)
	if err != nil {
		return "", err
	}
	for _, dir := range monitors {
		socket := filepath.Join(root, dir, sandbox, monitorSocket)
		if _, err := os.Stat(socket); err != nil {
			continue
		}
		url, err := askShim(ctx, socket)
		if err != nil {
			return "", fmt.Errorf("shim of sandbox %s: %w", sandbox, err)
		}
		return onNode(root, url), nil
	}
	return "", fmt.Errorf("sandbox %s has no management socket in /%s: it is none of Kata's", sandbox, strings.Join(monitors, " or /"))
}

var containerForm = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

// sandboxOf is the sandbox of a container.
func sandboxOf(root, containerID string) (string, error) {
	if !containerForm.MatchString(containerID) {
		return "", fmt.Errorf("container %q: want hex digits, as containerd's ids are", containerID)
	}
	file := filepath.Join(root, tasks, containerID, "config.json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("container %s does not run on this node: no %s", containerID, file)
	} else if err != nil {
		return "", err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	sandbox := spec.Annotations[sandboxAnnotation]
	if !containerForm.MatchString(sandbox) {
		return "", fmt.Errorf("%s: annotation %s is %q, which is no sandbox's id", file, sandboxAnnotation, sandbox)
	}
	return sandbox, nil
}

func askShim(ctx context.Context, socket string) (string, error) {
	client := http.Client{Timeout: dialTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shim/agent-url", nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK || len(text) == 0 {
		return "", fmt.Errorf("GET /agent-url: %s: %q", response.Status, text)
	}
	return strings.TrimSpace(string(text)), nil
}

// onNode is an address with its path below the node's root.
func onNode(root, url string) string {
	scheme, path, _ := strings.Cut(url, "://")
	if root == "/" || !strings.HasPrefix(path, "/") {
		return url
	}
	return scheme + "://" + filepath.Join(root, path)
}

// Connect passes bytes between a container's agent and in and out, until either
// side ends.
func Connect(ctx context.Context, root, containerID string, in io.Reader, out io.Writer) error {
	url, err := AgentURL(ctx, root, containerID)
	if err != nil {
		return err
	}
	conn, err := agentapi.DialConn(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ended := make(chan error, 2)
	go func() { _, err := io.Copy(conn, in); ended <- err }()
	go func() { _, err := io.Copy(out, conn); ended <- err }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
