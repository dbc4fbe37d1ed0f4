// Package server answers the reading half of the OCI distribution protocol: from an OCI layout, and, for what that does
// not have, from the registries that images' names say.
//
// It must not know what the images are for.
package server

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
)

// Server is an http.Handler. A client that asks it instead of another registry, as a mirror, says which one in the query
// parameter ns, as containerd does; without it, names of all registries are looked through.
type Server struct {
	// Upstream has images that the layout lacks fetched from the registry that ns names, with this machine's
	// credentials and proxy.
	Upstream bool
	// Log is told of requests.
	Log *slog.Logger

	dir       string
	manifests []manifest
	blobs     map[string]bool
}

// manifest is one image of the layout.
type manifest struct {
	tag       name.Tag
	digest    v1.Hash
	mediaType string
	raw       []byte
}

// New reads the layout at dir, whose images have [image.NameAnnotation].
func New(dir string, log *slog.Logger) (*Server, error) {
	s := &Server{Log: log, dir: dir, blobs: map[string]bool{}}
	l, err := layout.FromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("OCI layout %s: %w; make one with `registry build --out %s`", dir, err, dir)
	}
	index, err := l.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
	}
	for _, d := range list.Manifests {
		if err := s.add(l, d); err != nil {
			return nil, fmt.Errorf("OCI layout %s: image %s: %w", dir, d.Digest, err)
		}
	}
	return s, nil
}

func (s *Server) add(l layout.Path, d v1.Descriptor) error {
	tag, err := name.NewTag(d.Annotations[image.NameAnnotation], name.WithDefaultTag(""))
	if err != nil {
		return fmt.Errorf("annotation %s: %w", image.NameAnnotation, err)
	}
	img, err := l.Image(d.Digest)
	if err != nil {
		return err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	parsed, err := img.Manifest()
	if err != nil {
		return err
	}
	for _, b := range append([]v1.Descriptor{parsed.Config}, parsed.Layers...) {
		s.blobs[b.Digest.String()] = true
	}
	s.manifests = append(s.manifests, manifest{tag, d.Digest, string(d.MediaType), raw})
	return nil
}

// request is a path of the protocol, taken apart.
type request struct {
	repository, kind, reference string
}

var (
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	digestPattern     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// parse takes a path apart: /v2/<repository>/manifests/<tag or digest>, …/blobs/<digest>, …/tags/list.
func parse(path string) (r request, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return r, false
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return r, false
	}
	n := len(parts)
	r = request{strings.Join(parts[:n-2], "/"), parts[n-2], parts[n-1]}
	if len(r.repository) > 255 || !repositoryPattern.MatchString(r.repository) {
		return r, false
	}
	switch r.kind {
	case "manifests":
		return r, tagPattern.MatchString(r.reference) || digestPattern.MatchString(r.reference)
	case "blobs":
		return r, digestPattern.MatchString(r.reference)
	case "tags":
		return r, r.reference == "list"
	}
	return r, false
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	ns := r.URL.Query().Get("ns")
	s.Log.Info("request", "method", r.Method, "path", r.URL.Path, "ns", ns, "from", r.RemoteAddr)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
		return
	}
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
		return
	}
	what, ok := parse(r.URL.Path)
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "NAME_INVALID", "no such resource: "+r.URL.Path)
	case what.kind == "manifests":
		s.manifest(w, r, ns, what)
	case what.kind == "blobs":
		s.blob(w, r, ns, what)
	default:
		s.tags(w, ns, what)
	}
}

// images are those of a repository.
func (s *Server) images(ns, repository string) []manifest {
	var out []manifest
	for _, m := range s.manifests {
		if m.tag.RepositoryStr() == repository && (ns == "" || registryHost(ns) == m.tag.RegistryStr()) {
			out = append(out, m)
		}
	}
	return out
}

// registryHost undoes the aliases of Docker's registry, in the way that go-containerregistry has names.
func registryHost(ns string) string {
	switch ns {
	case "docker.io", "registry-1.docker.io":
		return name.DefaultRegistry
	}
	return ns
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request, ns string, what request) {
	images := s.images(ns, what.repository)
	i := slices.IndexFunc(images, func(m manifest) bool {
		return m.tag.TagStr() == what.reference || m.digest.String() == what.reference
	})
	if i >= 0 {
		m := images[i]
		head(w, m.mediaType, m.digest.String(), int64(len(m.raw)))
		http.ServeContent(w, r, "", noTime, bytes.NewReader(m.raw))
		return
	}
	if s.Upstream && ns != "" {
		s.upstreamManifest(w, r, ns, what)
		return
	}
	if len(images) == 0 {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no image "+what.repository+" of registry "+strconv.Quote(ns)+" here")
		return
	}
	fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no "+what.reference+" of image "+what.repository+" here")
}

func (s *Server) blob(w http.ResponseWriter, r *http.Request, ns string, what request) {
	if !s.blobs[what.reference] {
		if s.Upstream && ns != "" {
			s.upstreamBlob(w, r, ns, what)
			return
		}
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "no blob "+what.reference+" here")
		return
	}
	f, err := os.Open(blobPath(s.dir, what.reference))
	if err != nil {
		s.Log.Error("blob of the layout", "error", err)
		fail(w, http.StatusInternalServerError, "BLOB_UNKNOWN", "the layout has lost blob "+what.reference)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		fail(w, http.StatusInternalServerError, "BLOB_UNKNOWN", err.Error())
		return
	}
	head(w, "application/octet-stream", what.reference, info.Size())
	http.ServeContent(w, r, "", noTime, f)
}

func (s *Server) tags(w http.ResponseWriter, ns string, what request) {
	images := s.images(ns, what.repository)
	if len(images) == 0 {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no image "+what.repository+" here")
		return
	}
	var tags []string
	for _, m := range images {
		tags = append(tags, m.tag.TagStr())
	}
	slices.Sort(tags)
	writeJSON(w, http.StatusOK, map[string]any{"name": what.repository, "tags": tags})
}
