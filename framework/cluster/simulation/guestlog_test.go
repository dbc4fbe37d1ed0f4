package simulation

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAgentLog(t *testing.T) {
	logs := t.TempDir()
	if _, err := AgentLog(logs, "ns", "pod"); !errors.Is(err, ErrNoGuestLog) {
		t.Errorf("no guest: %v", err)
	}
	dir := filepath.Join(logs, "node", LogDir, "ns_pod_0123")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := `{"time":"2026-11-23T09:00:00.5Z","method":"ExecProcess","endpoint":"ExecProcessRequest","decision":"denied","container_id":"c","code":"PermissionDenied","detail":"ls"}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "agent.jsonl"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := AgentLog(logs, "ns", "pod")
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if r := got[0]; r.Method != "ExecProcess" || r.Endpoint != "ExecProcessRequest" || r.Decision != "denied" || r.Code != "PermissionDenied" {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.jsonl"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := AgentLog(logs, "ns", "pod"); err == nil {
		t.Error("half a line was read without an error")
	}
}
