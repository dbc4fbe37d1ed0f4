package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// testRegistry is an in-memory registry that records what it is asked and can change its answers.
type testRegistry struct {
	server *httptest.Server
	host   string

	mutex    sync.Mutex
	requests []string
	tamper   func(path string, body []byte) []byte
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	registry := &testRegistry{}
	handler := newHandler()
	registry.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		registry.mutex.Lock()
		registry.requests = append(registry.requests, r.Method+" "+r.URL.RequestURI())
		tamper := registry.tamper
		registry.mutex.Unlock()
		if tamper == nil || r.Method != http.MethodGet {
			handler.ServeHTTP(w, r)
			return
		}
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, r)
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(tamper(r.URL.Path, recorder.Body.Bytes()))
	}))
	t.Cleanup(registry.server.Close)
	address, err := url.Parse(registry.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	registry.host = address.Host
	return registry
}

func newHandler() http.Handler { return registry.New(registry.Logger(log.New(io.Discard, "", 0))) }

func (r *testRegistry) push(t testing.TB, repository string, image v1.Image) (digest string) {
	t.Helper()
	reference, err := name.ParseReference(r.host + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		t.Fatal(err)
	}
	hash, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.requests = nil
	return hash.String()
}

func compressed(t testing.TB, archive []byte) v1.Layer {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

func image(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	made, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Env = []string{"A=1"}
	if made, err = mutate.ConfigFile(made, config); err != nil {
		t.Fatal(err)
	}
	return made
}

func puller(t testing.TB, mirror string) *Puller {
	t.Helper()
	made, err := NewPuller(mirror, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func small(t testing.TB) v1.Image {
	return image(t, compressed(t, archive(t, entry{name: "bin/sh", content: "sh"})), compressed(t, archive(t, entry{name: "etc/x", content: "x"})))
}

func TestPull(t *testing.T) {
	registry := newRegistry(t)
	plain := static.NewLayer(archive(t, entry{name: "plain", content: "1"}), types.OCIUncompressedLayer)
	made := image(t, compressed(t, archive(t, entry{name: "bin/sh", content: "sh"})), plain)
	digest := registry.push(t, "library/app:1", made)
	for _, test := range []struct{ name, mirror, reference string }{
		{"by tag", "", registry.host + "/library/app:1"},
		{"by digest", "", registry.host + "/library/app@" + digest},
		{"mirrored by digest", registry.server.URL, "docker.io/library/app@" + digest},
		{"mirrored by tag", registry.server.URL, "app:1"},
		{"mirrored by both", registry.server.URL + "/", "quay.io/library/app:1@" + digest},
	} {
		t.Run(test.name, func(t *testing.T) {
			bundle := filepath.Join(t.TempDir(), "c1")
			got, err := puller(t, test.mirror).Pull(t.Context(), test.reference, bundle)
			if err != nil {
				t.Fatal(err)
			}
			if got != digest {
				t.Errorf("digest %s, want %s", got, digest)
			}
			if got := listing(t, filepath.Join(bundle, "rootfs")); got != "bin/ bin/sh=sh plain=1" {
				t.Errorf("root: %s", got)
			}
			raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
			if err != nil {
				t.Fatal(err)
			}
			var config v1.ConfigFile
			if err := json.Unmarshal(raw, &config); err != nil || len(config.Config.Env) != 1 || config.Config.Env[0] != "A=1" {
				t.Errorf("config.json %s, %v", raw, err)
			}
		})
	}
}

func TestMirrorIsAskedAsContainerdAsks(t *testing.T) {
	registry := newRegistry(t)
	digest := registry.push(t, "library/nginx:1", small(t))
	if _, err := puller(t, registry.server.URL).Pull(t.Context(), "docker.io/library/nginx@"+digest, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	registry.mutex.Lock()
	defer registry.mutex.Unlock()
	want := []string{"GET /v2/?ns=docker.io", "GET /v2/library/nginx/manifests/" + digest + "?ns=docker.io"}
	if len(registry.requests) != 5 || registry.requests[0] != want[0] || registry.requests[1] != want[1] {
		t.Errorf("requests %q, want %q and three blobs", registry.requests, want)
	}
	for _, request := range registry.requests[2:] {
		if !strings.HasPrefix(request, "GET /v2/library/nginx/blobs/sha256:") || !strings.HasSuffix(request, "?ns=docker.io") {
			t.Errorf("request %q", request)
		}
	}
}

func TestFallsBackToTheNamedRegistry(t *testing.T) {
	mirror, named := newRegistry(t), newRegistry(t)
	digest := named.push(t, "app:1", small(t))
	got, err := puller(t, mirror.server.URL).Pull(t.Context(), named.host+"/app:1", t.TempDir())
	if got != digest || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if len(mirror.requests) == 0 {
		t.Error("the mirror was not asked")
	}
}

func TestPullsThePlatformOfAnIndex(t *testing.T) {
	registry := newRegistry(t)
	mine, other := small(t), image(t, compressed(t, archive(t, entry{name: "other"})))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	reference, err := name.ParseReference(registry.host + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(reference, index); err != nil {
		t.Fatal(err)
	}
	want, err := mine.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := puller(t, "").Pull(t.Context(), registry.host+"/app:1", t.TempDir()); got != want.String() || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestPullErrorsNameImageAndCause(t *testing.T) {
	registry := newRegistry(t)
	registry.push(t, "app:1", small(t))
	registry.push(t, "hostile:1", image(t, compressed(t, archive(t, entry{name: "ok", content: "1"}, entry{name: "../evil"}))))
	registry.push(t, "encrypted:1", image(t, static.NewLayer([]byte("x"), "application/vnd.oci.image.layer.v1.tar+gzip+encrypted")))
	full := t.TempDir()
	if err := os.MkdirAll(filepath.Join(full, "rootfs", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	absent := "sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct {
		name, reference, bundle string
		want                    []string
	}{
		{"unknown tag", registry.host + "/app:2", "", []string{"/app:2\"", "MANIFEST_UNKNOWN"}},
		{"unknown digest", registry.host + "/app@" + absent, "", []string{absent, "MANIFEST_UNKNOWN"}},
		{"no reference", "App!", "", []string{`pull image "App!"`, "could not parse reference"}},
		{"relative bundle", registry.host + "/app:1", "here", []string{`bundle path "here"`}},
		{"full bundle", registry.host + "/app:1", full, []string{"is not empty"}},
		{"hostile layer", registry.host + "/hostile:1", "", []string{"layer 1 of 1", `"../evil"`, "leads out of the root"}},
		{"encrypted layer", registry.host + "/encrypted:1", "", []string{"decrypts no images"}},
		{"nobody there", "127.0.0.1:1/app:1", "", []string{"registry 127.0.0.1:1", "connection refused"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bundle := test.bundle
			if bundle == "" {
				bundle = t.TempDir()
			}
			digest, err := puller(t, "").Pull(t.Context(), test.reference, bundle)
			if err == nil || digest != "" {
				t.Fatalf("%q, %v", digest, err)
			}
			for _, want := range append(test.want, fmt.Sprintf("pull image %q: ", test.reference)) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want in it %s", err, want)
				}
			}
			if test.bundle == "" {
				assertNothingLeft(t, bundle)
			}
		})
	}
}

func assertNothingLeft(t *testing.T, bundle string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(bundle, "rootfs"))
	if len(entries) > 0 || (err != nil && !errors.Is(err, os.ErrNotExist)) {
		t.Errorf("left in the root: %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(bundle, "config.json")); err == nil {
		t.Error("config.json left")
	}
}

// TestTampering has a registry, or who is in between, change what it serves.
func TestTampering(t *testing.T) {
	other := archive(t, entry{name: "bin/sh", content: "evil"})
	for _, test := range []struct {
		name   string
		tamper func(path string, body []byte) []byte
		want   string
	}{
		{"manifest", func(path string, body []byte) []byte {
			if strings.Contains(path, "/manifests/") {
				return bytes.Replace(body, []byte("schemaVersion"), []byte("schemaversion"), 1)
			}
			return body
		}, "does not match requested digest"},
		{"layer", func(path string, body []byte) []byte {
			if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
				var changed bytes.Buffer
				writer := gzip.NewWriter(&changed)
				_, _ = writer.Write(other)
				_ = writer.Close()
				return append(changed.Bytes(), make([]byte, max(0, len(body)-changed.Len()))...)[:len(body)]
			}
			return body
		}, "layer 1 of 2"},
		{"one bit of a layer", func(path string, body []byte) []byte {
			if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
				body[4] ^= 1 // a time in gzip's header, which decompression ignores
			}
			return body
		}, "error verifying sha256 checksum"},
		{"truncated layer", func(path string, body []byte) []byte {
			if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
				return body[:len(body)-10]
			}
			return body
		}, "layer 1 of 2"},
		{"configuration", func(path string, body []byte) []byte {
			return bytes.Replace(body, []byte(`"A=1"`), []byte(`"A=2"`), 1)
		}, "error verifying sha256 checksum"},
	} {
		t.Run(test.name, func(t *testing.T) {
			registry := newRegistry(t)
			digest := registry.push(t, "app:1", small(t))
			registry.tamper = test.tamper
			bundle := t.TempDir()
			_, err := puller(t, "").Pull(t.Context(), registry.host+"/app@"+digest, bundle)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want in it %q", err, test.want)
			}
			assertNothingLeft(t, bundle)
		})
	}
}

// TestWrongDiffID has a configuration that says another archive than the layer's blob has.
func TestWrongDiffID(t *testing.T) {
	registry := newRegistry(t)
	made := image(t, compressed(t, archive(t, entry{name: "a", content: "1"})))
	config, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.RootFS.DiffIDs[0].Hex = strings.Repeat("1", 64)
	if made, err = mutate.ConfigFile(made, config); err != nil {
		t.Fatal(err)
	}
	registry.push(t, "app:1", made)
	bundle := t.TempDir()
	_, err = puller(t, "").Pull(t.Context(), registry.host+"/app:1", bundle)
	if err == nil || !strings.Contains(err.Error(), "the configuration says sha256:1111") {
		t.Errorf("error %v", err)
	}
	assertNothingLeft(t, bundle)
}

func TestCancelEndsAPull(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	registry := newRegistry(t)
	registry.push(t, "app:1", small(t))
	released := make(chan struct{})
	registry.tamper = func(path string, body []byte) []byte {
		if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
			cancel()
			<-released // never answers while the pull waits
		}
		return body
	}
	bundle := t.TempDir()
	_, err := puller(t, "").Pull(ctx, registry.host+"/app:1", bundle)
	close(released)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	assertNothingLeft(t, bundle)
}

func TestMirrorAddress(t *testing.T) {
	for _, mirror := range []string{"10.0.0.1:5000", "ftp://x", "http://", "http://x/path", "http://a b"} {
		if _, err := NewPuller(mirror, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "COCO_REGISTRY_MIRROR") {
			t.Errorf("%q: %v", mirror, err)
		}
	}
}

// BenchmarkPull30MB pulls 30 MB in 600 files of machine code, as a small distribution with nginx has. Guests unpack to
// tmpfs: set TMPDIR=/dev/shm.
func BenchmarkPull30MB(b *testing.B) {
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		b.Fatal(err)
	}
	const size = 50 << 10
	var entries []entry
	for i := range 600 {
		from := i * size % (len(code) - size)
		entries = append(entries, entry{name: fmt.Sprintf("usr/lib/d%d/f%d", i%20, i), content: string(code[from : from+size])})
	}
	raw := archive(b, entries...)
	for _, kind := range []struct {
		name  string
		layer v1.Layer
	}{
		{"gzip", compressed(b, raw)},
		{"plain", static.NewLayer(raw, types.OCIUncompressedLayer)},
	} {
		b.Run(kind.name, func(b *testing.B) {
			registry := newRegistry(b)
			registry.push(b, "app:1", image(b, kind.layer))
			puller := puller(b, "")
			b.SetBytes(int64(len(raw)))
			var slowest time.Duration
			for b.Loop() {
				start := time.Now()
				bundle := b.TempDir()
				if _, err := puller.Pull(b.Context(), registry.host+"/app:1", bundle); err != nil {
					b.Fatal(err)
				}
				slowest = max(slowest, time.Since(start))
				b.StopTimer()
				_ = os.RemoveAll(bundle)
				b.StartTimer()
			}
			b.ReportMetric(float64(slowest.Milliseconds()), "slowest-ms")
		})
	}
}
