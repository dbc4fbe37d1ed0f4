package simulation

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCreateVMTime(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ns_p_aba5", "ns_p_0443", "ns_other_1111"} {
		if err := os.MkdirAll(filepath.Join(dir, "node", LogDir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const log = `time=2026-01-02T12:28:17.580Z level=INFO msg="VM created" id=aba5 netns=/var/run/netns/cni-2d duration=80ms
time=2026-01-02T12:28:18.500Z level=INFO msg="VM created" id=0443 netns="" duration=500ms
time=2026-01-02T12:28:18.600Z level=INFO msg="VM started" id=0443 duration=27.643685ms
time=2026-01-02T12:28:19.000Z level=INFO msg="VM created" id=1111 netns=/var/run/netns/cni-e6 duration=1s
`
	if err := os.WriteFile(filepath.Join(dir, "node", "podvm.log"), []byte(log), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := CreateVMTime(dir, "ns", "p")
	if want := time.Date(2026, 1, 2, 12, 28, 18, 0, time.UTC); err != nil || !got.Equal(want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := CreateVMTime(dir, "ns", "absent"); err == nil {
		t.Error("a pod without a VM has a time")
	}
}
