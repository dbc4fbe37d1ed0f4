package sandbox

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

func TestMonitor(t *testing.T) {
	parent, err := os.MkdirTemp("", "m") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "id")
	m, err := serveMonitor(dir, "/run/x/agent.sock")
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "shim-monitor.sock"))
	}}}
	for path, want := range map[string]string{"/agent-url": "remote:///run/x/agent.sock", "/metrics": "404 page not found\n"} {
		r, err := client.Get("http://shim" + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if string(b) != want {
			t.Errorf("%s: %q, want %q", path, b, want)
		}
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
	if m, err := serveMonitor("", "/x"); m != nil || err != nil || m.close() != nil {
		t.Error("without a directory there is a socket")
	}
}
