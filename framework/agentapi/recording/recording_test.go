package recording

import (
	"slices"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// The counts are those of `jq -r 'select(.kind=="req").method' simple-pod.jsonl | sort | uniq -c`.
func TestSimplePod(t *testing.T) {
	requests, err := SimplePod()
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, r := range requests {
		count[r.Service+"/"+r.Method]++
	}
	for method, want := range map[string]int{
		"hypervisor.Hypervisor/CreateVM": 1, "hypervisor.Hypervisor/StopVM": 1, "grpc.Health/Check": 1, "grpc.AgentService/CreateSandbox": 1,
		"grpc.AgentService/CreateContainer": 2, "grpc.AgentService/ExecProcess": 1, "grpc.AgentService/RemoveContainer": 2, "grpc.AgentService/DestroySandbox": 1,
	} {
		if count[method] != want {
			t.Errorf("%s: %d requests, want %d", method, count[method], want)
		}
	}
}

func TestInto(t *testing.T) {
	var copied agentpb.CopyFileRequest
	r := Request{Seq: 1, Method: "CopyFile", JSON: []byte(`{"path":"/a","file_size":3,"data":"<removed>","uid":7}`)}
	if err := r.Into(&copied); err != nil || copied.Path != "/a" || len(copied.Data) != 3 || copied.Uid != 7 {
		t.Errorf("%v, %v", &copied, err)
	}
	r.JSON = []byte(`{"data":"YWI="}`)
	copied.Reset()
	if err := r.Into(&copied); err != nil || string(copied.Data) != "ab" {
		t.Errorf("%v, %v", &copied, err)
	}
	r.JSON = []byte(`{"no_such_field":1}`)
	if err := r.Into(&copied); err == nil {
		t.Error("a field that the message lacks is taken")
	}
}

func TestAnswered(t *testing.T) {
	requests, err := SimplePod()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		// The first wait for the container, when its output had ended; that for
		// the sandbox, sent long before, ends when the sandbox does.
		if r.Seq != 64 {
			continue
		}
		for seq, want := range map[int]bool{26: true, 27: true, 63: true, 10: false, 64: false} {
			if slices.Contains(r.Answered, seq) != want {
				t.Errorf("request %d was answered: %t, want %t", seq, !want, want)
			}
		}
		return
	}
	t.Error("no request 64")
}
