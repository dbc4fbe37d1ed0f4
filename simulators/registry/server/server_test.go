package server

import (
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
)

func newImage(t *testing.T, text string) v1.Image {
	t.Helper()
	tree := image.Tree{}
	tree.AddText("etc/text", text)
	img, err := image.New(tree, v1.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// start serves a layout with docker.io/library/nginx:coco-e2e and registry.k8s.io/pause:3.10.2, and gives nginx's image.
func start(t *testing.T, upstream bool) (*httptest.Server, v1.Image) {
	t.Helper()
	dir := t.TempDir()
	nginx := newImage(t, "nginx")
	for full, img := range map[string]v1.Image{
		"docker.io/library/nginx:coco-e2e": nginx, "registry.k8s.io/pause:3.10.2": newImage(t, "pause"),
	} {
		tag, err := name.NewTag(full)
		if err != nil {
			t.Fatal(err)
		}
		// Twice, as a second run does.
		for range 2 {
			if err := image.AddToLayout(dir, tag, img); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := New(dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.manifests) != 2 {
		t.Fatalf("%d images in the layout, want 2", len(s.manifests))
	}
	s.Upstream = upstream
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return web, nginx
}

func host(t *testing.T, web *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// TestPull pulls with a client of another make.
func TestPull(t *testing.T) {
	web, nginx := start(t, false)
	digest, err := nginx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{":coco-e2e", "@" + digest.String()} {
		ref, err := name.ParseReference(host(t, web) + "/library/nginx" + suffix)
		if err != nil {
			t.Fatal(err)
		}
		img, err := remote.Image(ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		checkContent(t, img)
		if got, err := img.Digest(); err != nil || got != digest {
			t.Errorf("%s: digest %s %v, want %s", ref, got, err, digest)
		}
		if d, err := remote.Head(ref); err != nil || d.Digest != digest {
			t.Errorf("HEAD %s: %v %v", ref, d, err)
		}
	}
}

// checkContent reads a pulled image's layers, which the client verifies, and compares them with the configuration.
func checkContent(t *testing.T, img v1.Image) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %v %v", layers, err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	got, _, err := v1.SHA256(content)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil || file.RootFS.DiffIDs[0] != got {
		t.Errorf("the layer's content is %s, want %v (%v)", got, file, err)
	}
}

func TestAnswers(t *testing.T) {
	web, nginx := start(t, false)
	digest, err := nginx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	absent := "sha256:" + strings.Repeat("0", 64)
	for _, tc := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/", 200, ""},
		{"HEAD", "/v2/", 200, ""},
		{"GET", "/v2/library/nginx/manifests/coco-e2e?ns=docker.io", 200, ""},
		{"GET", "/v2/library/nginx/manifests/" + digest.String() + "?ns=docker.io", 200, ""},
		{"HEAD", "/v2/library/nginx/manifests/coco-e2e", 200, ""},
		{"GET", "/v2/pause/manifests/3.10.2?ns=registry.k8s.io", 200, ""},
		{"GET", "/v2/library/nginx/tags/list", 200, ""},
		{"GET", "/v2/library/nginx/manifests/latest", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/library/nginx/manifests/" + absent, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/library/nginx/manifests/coco-e2e?ns=quay.io", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/pause/manifests/3.10.2?ns=docker.io", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/library/httpd/manifests/latest", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/library/httpd/tags/list", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/library/nginx/blobs/" + absent, 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/library/nginx/blobs/sha256:../../../index.json", 404, "NAME_INVALID"},
		{"GET", "/v2/library/nginx/blobs/sha256:0", 404, "NAME_INVALID"},
		{"GET", "/v2/Library/nginx/manifests/x", 404, "NAME_INVALID"},
		{"GET", "/etc/passwd", 404, "NAME_INVALID"},
		{"GET", "/v2/_catalog", 404, "NAME_INVALID"},
		{"POST", "/v2/library/nginx/blobs/uploads/", 405, "UNSUPPORTED"},
		{"PUT", "/v2/library/nginx/manifests/coco-e2e", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/library/nginx/manifests/coco-e2e", 405, "UNSUPPORTED"},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			status, body := ask(t, tc.method, web.URL+tc.path)
			if status != tc.status {
				t.Errorf("status %d, want %d: %s", status, tc.status, body)
			}
			if tc.method == http.MethodHead && body != "" {
				t.Errorf("HEAD has a body: %q", body)
			}
			if tc.code == "" {
				return
			}
			var answer struct{ Errors []struct{ Code string } }
			if err := json.Unmarshal([]byte(body), &answer); err != nil || len(answer.Errors) != 1 || answer.Errors[0].Code != tc.code {
				t.Errorf("got %s, want code %s", body, tc.code)
			}
		})
	}
}

func ask(t *testing.T, method, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestUpstream asks for an image of another registry, which go-containerregistry serves.
func TestUpstream(t *testing.T) {
	other := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(other.Close)
	ns := host(t, other)
	ref, err := name.ParseReference(ns + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	app := newImage(t, "app")
	if err := remote.Write(ref, app); err != nil {
		t.Fatal(err)
	}
	raw, err := app.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	m, err := app.Manifest()
	if err != nil {
		t.Fatal(err)
	}

	web, _ := start(t, true)
	base := web.URL + "/v2/team/app/"
	for _, path := range []string{"manifests/v1", "manifests/" + sha256Of(t, app)} {
		if status, body := ask(t, "GET", base+path+"?ns="+ns); status != 200 || body != string(raw) {
			t.Errorf("%s: %d %s", path, status, body)
		}
		if status, _ := ask(t, "HEAD", base+path+"?ns="+ns); status != 200 {
			t.Errorf("HEAD %s: %d", path, status)
		}
	}
	for _, d := range append(m.Layers, m.Config) {
		if status, body := ask(t, "GET", base+"blobs/"+d.Digest.String()+"?ns="+ns); status != 200 || int64(len(body)) != d.Size {
			t.Errorf("blob %s: %d, %d bytes of %d", d.Digest, status, len(body), d.Size)
		}
	}
	if status, body := ask(t, "GET", base+"manifests/v2?ns="+ns); status != 404 || !strings.Contains(body, "MANIFEST_UNKNOWN") {
		t.Errorf("absent tag: %d %s", status, body)
	}
	if status, _ := ask(t, "GET", base+"manifests/v1"); status != 404 {
		t.Errorf("without ns: %d, want 404", status)
	}
	if status, body := ask(t, "GET", base+"manifests/v1?ns=bad+host"); status != 400 || !strings.Contains(body, "NAME_INVALID") {
		t.Errorf("bad ns: %d %s", status, body)
	}
	other.Close()
	if status, body := ask(t, "GET", base+"manifests/v1?ns="+ns); status != 502 || !strings.Contains(body, "could not be asked") {
		t.Errorf("unreachable: %d %s", status, body)
	}
	closed, _ := start(t, false)
	if status, _ := ask(t, "GET", closed.URL+"/v2/team/app/manifests/v1?ns="+ns); status != 404 {
		t.Errorf("without --upstream: %d, want 404", status)
	}
}

func sha256Of(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestNoLayout(t *testing.T) {
	if _, err := New(t.TempDir(), slog.Default()); err == nil || !strings.Contains(err.Error(), "registry build --out") {
		t.Errorf("got %v", err)
	}
}

// FuzzParse has no path lead out of what a name, a tag and a digest may be.
func FuzzParse(f *testing.F) {
	for _, path := range []string{"/v2/library/nginx/manifests/latest", "/v2/a/blobs/sha256:" + strings.Repeat("a", 64), "/v2/../blobs/x", "/v2/a/tags/list"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := parse(path)
		if !ok {
			return
		}
		if strings.Contains(r.repository, "..") || strings.Contains(r.reference, "/") || strings.HasPrefix(r.repository, "/") {
			t.Errorf("%q gives %+v", path, r)
		}
		if got := "/v2/" + r.repository + "/" + r.kind + "/" + r.reference; got != path {
			t.Errorf("%q is not %q", got, path)
		}
	})
}
