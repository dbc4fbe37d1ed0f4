// Package image pulls container images into the guest: from a registry, verified by digest, unpacked into a bundle's root
// file system (guest-components image-rs, through containerd's rules for layers).
//
// Images are hostile until proven otherwise: nothing in a layer can touch a path outside the root file system. The package
// must not know policies or containers.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Puller pulls images. It is safe for concurrent use.
type Puller struct {
	mirror    *name.Registry // nil for none
	transport *http.Transport
	log       *slog.Logger
}

// NewPuller makes a puller that asks mirror, http://host:port or https://host:port, for images of any registry before it
// asks the registry that an image's name says. An empty mirror is none.
func NewPuller(mirror string, log *slog.Logger) (*Puller, error) {
	puller := &Puller{log: log, transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 60 * time.Second,
		MaxIdleConnsPerHost: layersAhead + 1, DisableCompression: true, ReadBufferSize: 64 << 10,
	}}
	if mirror == "" {
		return puller, nil
	}
	address, err := url.Parse(mirror)
	if err != nil || (address.Scheme != "http" && address.Scheme != "https") || address.Host == "" || strings.Trim(address.Path, "/") != "" {
		return nil, fmt.Errorf("COCO_REGISTRY_MIRROR %q: want http://host:port or https://host:port", mirror)
	}
	var options []name.Option
	if address.Scheme == "http" {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(address.Host, options...)
	if err != nil {
		return nil, fmt.Errorf("COCO_REGISTRY_MIRROR %q: %w", mirror, err)
	}
	puller.mirror = &registry
	return puller, nil
}

// Pull pulls the image that a reference such as docker.io/library/nginx@sha256:… names, unpacks it into bundle/rootfs,
// which must be empty or not exist, and writes the image's configuration to bundle/config.json. It gives the digest of the
// image's manifest (not that of an index that led to it). Errors name the image. After an error, bundle/rootfs is empty.
func (p *Puller) Pull(ctx context.Context, reference, bundle string) (digest string, err error) {
	digest, err = p.pull(ctx, reference, bundle)
	if err != nil {
		return "", fmt.Errorf("pull image %q: %w", reference, err)
	}
	return digest, nil
}

func (p *Puller) pull(ctx context.Context, text, bundle string) (string, error) {
	reference, err := name.ParseReference(text)
	if err != nil {
		return "", err
	}
	rootfs, err := prepare(bundle)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	image, err := p.resolve(ctx, reference)
	if err != nil {
		return "", err
	}
	digest, err := image.Digest()
	if err != nil {
		return "", fmt.Errorf("manifest: %w", err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	if err := unpack(ctx, cancel, image, rootfs); err != nil {
		return "", errors.Join(err, clearDirectory(rootfs))
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o644); err != nil {
		return "", errors.Join(fmt.Errorf("configuration: %w", err), clearDirectory(rootfs))
	}
	return digest.String(), nil
}

// prepare makes the bundle's root directory and refuses to unpack over what is there.
func prepare(bundle string) (rootfs string, err error) {
	if !filepath.IsAbs(bundle) {
		return "", fmt.Errorf("bundle path %q: want an absolute path", bundle)
	}
	rootfs = filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return "", fmt.Errorf("bundle: %w", err)
	}
	entries, err := os.ReadDir(rootfs)
	if err != nil {
		return "", fmt.Errorf("bundle: %w", err)
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("bundle: %s is not empty; pull each image into a bundle of its own", rootfs)
	}
	return rootfs, nil
}

// clearDirectory removes what a failed pull left, but not the directory, which may be a mount.
func clearDirectory(rootfs string) error {
	entries, err := os.ReadDir(rootfs)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(rootfs, entry.Name())))
	}
	return err
}

// resolve finds the image at the mirror or, if that does not have it, where its name says.
func (p *Puller) resolve(ctx context.Context, reference name.Reference) (v1.Image, error) {
	var mirrored error
	if p.mirror != nil {
		image, err := p.fetch(ctx, p.atMirror(reference), registryName(reference))
		if err == nil {
			return image, nil
		}
		mirrored = fmt.Errorf("mirror %s: %w", p.mirror.Name(), err)
		if ctx.Err() != nil {
			return nil, mirrored
		}
		p.log.Info("mirror does not have image", "image", reference.Name(), "error", err.Error())
	}
	image, err := p.fetch(ctx, reference, "")
	if err != nil {
		return nil, errors.Join(mirrored, fmt.Errorf("registry %s: %w", registryName(reference), err))
	}
	return image, nil
}

func (p *Puller) atMirror(reference name.Reference) name.Reference {
	repository := p.mirror.Repo(reference.Context().RepositoryStr())
	if digest, ok := reference.(name.Digest); ok {
		return repository.Digest(digest.DigestStr())
	}
	return repository.Tag(reference.Identifier())
}

func registryName(reference name.Reference) string {
	if registry := reference.Context().RegistryStr(); registry != name.DefaultRegistry {
		return registry
	}
	return "docker.io"
}

// fetch gets an image's manifest. The library verifies digests: the manifest's if the reference has one, and of all that
// the manifest names. namespace is the registry that a mirror stands for.
func (p *Puller) fetch(ctx context.Context, reference name.Reference, namespace string) (v1.Image, error) {
	return remote.Image(reference,
		remote.WithContext(ctx),
		remote.WithTransport(&mirrorTransport{
			transport: p.transport, namespace: namespace, plain: reference.Context().Scheme() == "http" && namespace != "",
		}),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		remote.WithRetryBackoff(remote.Backoff{Duration: 100 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}),
		remote.WithUserAgent("confidential-data-hub"),
	)
}

// mirrorTransport tells a mirror which registry it stands for, as containerd does.
type mirrorTransport struct {
	transport http.RoundTripper
	namespace string
	// plain says that the mirror's address is http: the library would try https first.
	plain bool
}

func (t *mirrorTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if t.plain && request.URL.Scheme == "https" {
		return nil, errors.New("mirror is http")
	}
	if t.namespace != "" && strings.HasPrefix(request.URL.Path, "/v2/") {
		request = request.Clone(request.Context())
		query := request.URL.Query()
		query.Set("ns", t.namespace)
		request.URL.RawQuery = query.Encode()
	}
	return t.transport.RoundTrip(request)
}
