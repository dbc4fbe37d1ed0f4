package workload

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coco-e2e/coco-e2e/simulators/registry/debian"
	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
)

// cache keeps packages between runs, beside the programs' own cache.
func cache(t *testing.T) debian.Cache {
	t.Helper()
	for _, program := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program + " is not installed: this needs a Debian machine")
		}
	}
	dir := os.Getenv("COCO_E2E_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Skip("no cache directory: ", err)
		}
		dir = filepath.Join(user, "coco-e2e")
	}
	return debian.Cache{Dir: filepath.Join(dir, "test-debs")}
}

var noNetwork = regexp.MustCompile(`Temporary failure resolving|Could not resolve|Could not connect|Network is unreachable`)

func nginx(t *testing.T) v1.Image {
	t.Helper()
	img, err := Nginx(t.Context(), cache(t), false)
	if err != nil && noNetwork.MatchString(err.Error()) {
		t.Skip("Debian's mirror cannot be reached: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestNginxIsReproducible(t *testing.T) {
	first, second := nginx(t), nginx(t)
	a, errA := first.Digest()
	b, errB := second.Digest()
	if a != b || errA != nil || errB != nil {
		t.Errorf("the same packages give %s and %s (%v, %v)", a, b, errA, errB)
	}
	size, err := image.Size(first)
	if err != nil || size > 40<<20 {
		t.Errorf("size %d MB, want at most 40 (%v)", size>>20, err)
	}
	t.Logf("%s, %.1f MB", a, float64(size)/(1<<20))
}

// TestNginxRuns runs the image with runc as a container of its own network and asks it what pods ask it.
func TestNginxRuns(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("runc needs root")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("runc is not installed")
	}
	bundle := t.TempDir()
	file := unpack(t, nginx(t), filepath.Join(bundle, "rootfs"))
	if want := []string{"nginx", "-g", "daemon off;"}; !slices.Equal(file.Config.Cmd, want) {
		t.Errorf("command %v, want %v", file.Config.Cmd, want)
	}
	script := `nginx -g 'daemon off;' & pid=$!
until [ -s /run/nginx.pid ]; do sleep 0.01; done
curl -sf http://127.0.0.1/ | grep -o '<h1>.*</h1>'
whoami; id -u www-data; ls -d /bin /etc/nginx; env | grep PATH; false || echo false; true && printf x | sha256sum
echo y | tee /tmp/y | cat; head -n1 /etc/os-release
curl -s https://127.0.0.1:81/ || echo "curl $?"
kill -QUIT $pid && wait $pid && echo ended`
	out := run(t, bundle, file.Config.Env, "sh", "-c", script)
	for _, want := range []string{
		"<h1>Welcome to nginx", "\nroot\n33\n/bin\n/etc/nginx\n",
		"\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nfalse\n",
		"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  -\ny\n", "PRETTY_NAME=\"Debian", "\ncurl 7\n",
		`"GET / HTTP/1.1" 200`, "\nended\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// run runs a command in the bundle and gives what it prints.
func run(t *testing.T, bundle string, env []string, args ...string) string {
	t.Helper()
	caps := strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_SETUID CAP_SETGID CAP_NET_BIND_SERVICE CAP_KILL")
	spec := specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "rootfs"}, Hostname: "nginx",
		Process: &specs.Process{
			Args: args, Env: env, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}},
			CgroupsPath: "/coco-e2e-nginx-test",
		},
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(bundle, "state")
	t.Cleanup(func() { _ = exec.Command("runc", "--root", state, "delete", "--force", "nginx-test").Run() })
	out, err := exec.CommandContext(t.Context(), "runc", "--root", state, "run", "--bundle", bundle, "nginx-test").CombinedOutput()
	if err != nil {
		t.Fatalf("runc run: %v\n%s", err, out)
	}
	return string(out)
}

// unpack puts an image's layer into dir and gives its configuration.
func unpack(t *testing.T, img v1.Image, dir string) *v1.ConfigFile {
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
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	extract := exec.Command("tar", "-x", "-C", dir)
	extract.Stdin = content
	if out, err := extract.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestNginxLinks has the image in the merged layout of today's Debian.
func TestNginxLinks(t *testing.T) {
	layers, err := nginx(t).Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var got []string
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeSymlink && !strings.Contains(h.Name, "/") {
			got = append(got, h.Name+" -> "+h.Linkname)
		}
	}
	want := []string{"bin -> usr/bin", "lib -> usr/lib", "lib64 -> usr/lib64", "sbin -> usr/sbin"}
	if !slices.Equal(got, want) {
		t.Errorf("links in /: %v, want %v", got, want)
	}
}

func TestWritePauseBundle(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "pause")
	if err := os.WriteFile(program, []byte("pause program"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "a", "pause_bundle")
	for range 2 {
		if err := WritePauseBundle(out, program); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(out, "rootfs/pause")); err != nil || info.Mode() != 0o755 {
		t.Errorf("program: %v %v", info, err)
	}
	config, err := os.ReadFile(filepath.Join(out, "config.json"))
	if err != nil || !bytes.Contains(config, []byte(`"args":["/pause"]`)) || !bytes.Contains(config, []byte(`"cwd":"/"`)) {
		t.Errorf("config.json: %s %v", config, err)
	}
	if err := WritePauseBundle(out, filepath.Join(dir, "absent")); err == nil || !strings.Contains(err.Error(), "pause program") {
		t.Errorf("absent program: %v", err)
	}
}
