package hostprobe

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	containerID = "914c589fe74d1fcac834d0dcfa3b6a45562996661278b4a8de5511366d6a4609"
	sandboxID   = "e2d8bad68b64d691"
)

// node is a node's root with one container, whose sandbox is as its bundle says.
func node(t *testing.T, config string) string {
	t.Helper()
	root, err := os.MkdirTemp("", "n") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	bundle := filepath.Join(root, tasks, containerID)
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

const config = `{"annotations":{"io.kubernetes.cri.sandbox-id":"` + sandboxID + `"}}`

// shim serves a sandbox's management socket below dir.
func shim(t *testing.T, root, dir, answer string, code int) {
	t.Helper()
	at := filepath.Join(root, dir, sandboxID)
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	// A socket's path is short on a node, and long here.
	t.Chdir(at)
	l, err := net.Listen("unix", monitorSocket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/agent-url" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, answer)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
}

func TestAgentURL(t *testing.T) {
	for name, c := range map[string]struct {
		dir, answer string
		code        int
		want, fail  string
	}{
		"the Go runtime":   {"run/vc/sbs", "vsock://3:1024\n", 200, "vsock://3:1024", ""},
		"the Rust runtime": {"run/kata", "hvsock:///run/kata/x/ch.sock:1024", 200, "hvsock://ROOT/run/kata/x/ch.sock:1024", ""},
		"peer pods":        {"run/vc/sbs", "remote:///run/peerpod/pods/x/agent.ttrpc", 200, "remote://ROOT/run/peerpod/pods/x/agent.ttrpc", ""},
		"an error":         {"run/vc/sbs", "no sandbox", 500, "", "GET /agent-url: 500 Internal Server Error: \"no sandbox\""},
		"nothing":          {"run/vc/sbs", "", 200, "", "GET /agent-url: 200 OK"},
		"no Kata":          {"run/other", "vsock://3:1024", 200, "", "it is none of Kata's"},
	} {
		t.Run(name, func(t *testing.T) {
			root := node(t, config)
			shim(t, root, c.dir, c.answer, c.code)
			got, err := AgentURL(t.Context(), root, containerID)
			if c.fail == "" && err != nil || c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)) {
				t.Errorf("%v, want %q", err, c.fail)
			}
			if want := strings.ReplaceAll(c.want, "ROOT", root); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

func TestSandboxOfRefuses(t *testing.T) {
	for name, c := range map[string]struct{ config, id, want string }{
		"no JSON":       {"x", containerID, "config.json: "},
		"no sandbox":    {"{}", containerID, `annotation io.kubernetes.cri.sandbox-id is ""`},
		"a path":        {`{"annotations":{"io.kubernetes.cri.sandbox-id":"../../etc"}}`, containerID, "which is no sandbox's id"},
		"another":       {config, strings.Repeat("0", 64), "does not run on this node"},
		"a path as id":  {config, "../" + containerID, "want hex digits"},
		"nothing as id": {config, "", "want hex digits"},
	} {
		if _, err := sandboxOf(node(t, c.config), c.id); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestConnect(t *testing.T) {
	root := node(t, config)
	shim(t, root, "run/vc/sbs", "unix:///run/agent.sock", 200)
	t.Chdir(filepath.Join(root, "run"))
	l, err := net.Listen("unix", "agent.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b := make([]byte, 4)
		_, _ = io.ReadFull(conn, b)
		_, _ = conn.Write(append([]byte("heard "), b...))
	}()
	in, feed := io.Pipe()
	go func() { _, _ = feed.Write([]byte("ping")) }()
	var out bytes.Buffer
	if err := Connect(t.Context(), root, containerID, in, &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != "heard ping" {
		t.Errorf("%q", out.String())
	}
}
