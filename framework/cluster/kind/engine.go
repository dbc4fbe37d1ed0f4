package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	kindcluster "sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/log"

	kinddefaults "sigs.k8s.io/kind/pkg/apis/config/defaults"

	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
)

// Engine is a container engine that kind can use: "docker", "podman" or
// "nerdctl", which is also the name of its command.
type Engine string

// ErrNoEngine says that none answers.
var ErrNoEngine = errors.New("no container engine answers")

// answerTimeout is how long an engine or a registry may take to say that it is there.
const answerTimeout = 5 * time.Second

// DetectEngine returns the engine that KIND_EXPERIMENTAL_PROVIDER names, or
// else the first of docker, nerdctl and podman that answers.
func DetectEngine(ctx context.Context) (Engine, error) {
	names := []string{"docker", "nerdctl", "podman"}
	if v := os.Getenv("KIND_EXPERIMENTAL_PROVIDER"); v != "" {
		names = []string{v}
	}
	var why []string
	for _, n := range names {
		err := Engine(n).answers(ctx)
		if err == nil {
			return Engine(n), nil
		}
		why = append(why, err.Error())
	}
	return "", fmt.Errorf("%w: %s", ErrNoEngine, strings.Join(why, "; "))
}

func (e Engine) answers(ctx context.Context) error {
	if _, err := exec.LookPath(string(e)); err != nil {
		return fmt.Errorf("%s: not installed", e)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	// A client without an engine prints its own half and fails only so.
	out, err := e.run(ctx, nil, "info", "--format", "{{.ID}}{{.Host.Hostname}}")
	if err != nil && e == "docker" {
		out, err = e.run(ctx, nil, "info", "--format", "{{.ServerVersion}}")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	if strings.TrimSpace(out) == "" {
		return fmt.Errorf("%s: no answer", e)
	}
	return nil
}

// run runs a command of the engine and returns its output.
func (e Engine) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, string(e), args...)
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", e, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// provider is kind's, for the engine.
func (e Engine) provider(logger log.Logger) (*kindcluster.Provider, error) {
	options := []kindcluster.ProviderOption{kindcluster.ProviderWithLogger(logger)}
	switch e {
	case "docker":
		options = append(options, kindcluster.ProviderWithDocker())
	case "podman":
		options = append(options, kindcluster.ProviderWithPodman())
	case "nerdctl":
		options = append(options, kindcluster.ProviderWithNerdctl("nerdctl"))
	default:
		return nil, fmt.Errorf("container engine %q: kind knows docker, podman and nerdctl; set KIND_EXPERIMENTAL_PROVIDER to one of them", e)
	}
	return kindcluster.NewProvider(options...), nil
}

func (e Engine) hasImage(ctx context.Context, ref string) bool {
	_, err := e.run(ctx, nil, "image", "inspect", "--format", "{{.Id}}", ref)
	return err == nil
}

// PublishedImage is kind's own node image, by digest, where the engine has it
// or can pull it; otherwise the error says why not.
func (e Engine) PublishedImage(ctx context.Context) (string, error) {
	if e.hasImage(ctx, kinddefaults.Image) {
		return kinddefaults.Image, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://registry-1.docker.io/v2/", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("%s is not here, and its registry cannot be reached: %w", kinddefaults.Image, err)
	}
	resp.Body.Close()
	// The registry asks everybody for a token.
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		return "", fmt.Errorf("%s is not here, and its registry answers %s", kinddefaults.Image, resp.Status)
	}
	return kinddefaults.Image, nil
}

// Pull has the engine fetch an image that it has not.
func (e Engine) Pull(ctx context.Context, ref string) error {
	if e.hasImage(ctx, ref) {
		return nil
	}
	_, err := e.run(ctx, nil, "pull", ref)
	return err
}

// ownImage gives the engine the node image that the local provider runs, and
// returns its name there.
func (e Engine) ownImage(ctx context.Context, img *node.Image) (string, error) {
	ref := "coco-e2e.local/node:" + img.Key
	if e.hasImage(ctx, ref) {
		return ref, nil
	}
	tar := exec.CommandContext(ctx, "tar", "--directory", img.Rootfs, "--numeric-owner", "--create", ".")
	var stderr strings.Builder
	tar.Stderr = &stderr
	archive, err := tar.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := tar.Start(); err != nil {
		return "", err
	}
	_, err = e.run(ctx, archive, "import", "--change", `ENTRYPOINT ["/usr/local/bin/entrypoint"]`,
		"--change", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "-", ref)
	if waitErr := tar.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("tar: %w: %s", waitErr, stderr.String())
	}
	return ref, err
}
