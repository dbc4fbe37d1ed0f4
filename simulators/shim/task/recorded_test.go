package task_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	agentrecording "github.com/coco-e2e/coco-e2e/framework/agentapi/recording"
	"github.com/coco-e2e/coco-e2e/simulators/shim/stubvm"
)

// record is a request that Kata's shim sent; see the package of the recording.
type record struct {
	Seq    int
	Method string
	Req    map[string]any
}

// recording is what the unmodified Kata 4.1.0 shim sent for the pod.
func recording(t *testing.T) (records []record) {
	t.Helper()
	requests, err := agentrecording.SimplePod()
	if err != nil || len(requests) == 0 {
		t.Fatal("no recording: ", err)
	}
	for _, r := range requests {
		record := record{Seq: r.Seq, Method: r.Method}
		if err := json.Unmarshal(r.JSON, &record.Req); err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	return records
}

// copied is the content that a recorded CopyFile carried.
func copied(t *testing.T, seq int) []byte {
	t.Helper()
	for _, r := range recording(t) {
		if r.Seq == seq && r.Req["data"] == "<removed>" {
			return make([]byte, int(r.Req["file_size"].(float64)))
		}
		if r.Seq == seq {
			data, err := base64.StdEncoding.DecodeString(r.Req["data"].(string))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
	t.Fatalf("request %d is not in the recording", seq)
	return nil
}

// normalise removes from a request what differs from run to run: the random part of copied files' names, the test's
// directories and user, and what the recording left out.
func (p *pod) normalise(request map[string]any) map[string]any {
	p.t.Helper()
	text, err := json.Marshal(request)
	p.must(err)
	out := string(text)
	out = randomPart.ReplaceAllString(out, "$1-RANDOM-")
	out = strings.ReplaceAll(out, filepath.Join(p.dir, "bundles"), "/run/containerd/io.containerd.runtime.v2.task/k8s.io")
	var normal map[string]any
	p.must(json.Unmarshal([]byte(out), &normal))
	if _, ok := normal["file_mode"]; ok {
		if normal["uid"] == float64(os.Getuid()) && normal["gid"] == float64(os.Getgid()) {
			normal["uid"], normal["gid"] = 0.0, 0.0
		}
		if size := normal["file_size"].(float64); size == 1108 || size == 2364 { // the token and the certificate
			normal["data"] = "<removed>"
		}
	}
	if id, _ := normal["exec_id"].(string); len(id) == 36 { // a UUID
		normal["exec_id"] = "UUID"
	}
	return normal
}

var randomPart = regexp.MustCompile(`([0-9a-f]{64})-[0-9a-f]{16}-`)

// timed are the methods whose place among the others, or number, is a matter of time: they run beside the others.
var timed = map[string]bool{"GetOOMEvent": true, "ReadStdout": true, "ReadStderr": true}

// TestRecordedPod plays containerd's part of the recorded pod's life and compares every request with the recording.
func TestRecordedPod(t *testing.T) {
	p := newPod(t)
	p.vm.Install("whoami", stubvm.Program{Output: "root\n"})
	p.run()
	_, err := p.service.Stats(t.Context(), &taskapi.StatsRequest{ID: mainID})
	p.must(err)
	stdout := p.reader("exec-out")
	p.exec("first", &taskapi.ExecProcessRequest{Stdout: p.path("exec-out"), Stderr: p.fifo("exec-err")})
	p.must(p.start(mainID, "first"))
	if status, text := p.wait(mainID, "first"), <-stdout; status != 0 || text != "root\n" {
		t.Errorf("exec ended with %d and %q", status, text)
	}
	p.must(p.delete(mainID, "first"))
	p.must(p.kill(mainID, "", 15))
	if status := p.wait(mainID, ""); status != 143 {
		t.Errorf("the container ended with %d, not 143", status)
	}
	p.must(p.delete(mainID, ""))
	p.must(p.kill(podID, "", 9))
	if status := p.wait(podID, ""); status != 137 {
		t.Errorf("the sandbox ended with %d, not 137", status)
	}
	p.must(p.kill(podID, "", 9)) // as the kubelet does; nothing more is sent
	p.must(p.delete(podID, ""))
	p.compare()
	const want = "/tasks/create /tasks/start /tasks/create /tasks/start /tasks/exec-added /tasks/exec-started /tasks/exit " +
		"/tasks/exit /tasks/delete /tasks/exit /tasks/delete"
	p.eventually("all events", func() bool { return p.published() == want })
	if _, err := p.service.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil || !p.isDown() {
		t.Errorf("the shim does not end: %v", err)
	}
}

// compare compares what the stub was asked with the recording: the order of all but the timed requests, the number of
// those, and all fields.
func (p *pod) compare() {
	p.t.Helper()
	var wanted, got, wantedTimed, gotTimed []record
	seen := map[string]int{}
	for _, r := range recording(p.t) {
		seen[r.Method]++
		switch {
		case (r.Method == "StatsContainer" || r.Method == "Check") && seen[r.Method] > 1:
		case timed[r.Method]:
			wantedTimed = append(wantedTimed, r)
		default:
			wanted = append(wanted, r)
		}
	}
	for _, call := range p.vm.Calls() {
		r := record{Method: call.Method, Req: stubvm.Fields(call.Message)}
		if timed[r.Method] {
			gotTimed = append(gotTimed, r)
		} else {
			got = append(got, r)
		}
	}
	for i := range max(len(wanted), len(got)) {
		if i >= len(wanted) || i >= len(got) || wanted[i].Method != got[i].Method {
			p.t.Fatalf("request %d differs; recorded %v, sent %v", i, methods(wanted[min(i, len(wanted)):]), methods(got[min(i, len(got)):]))
		}
		p.sameFields(wanted[i], got[i])
	}
	for _, w := range wantedTimed {
		p.takeSame(w, &gotTimed)
	}
	if len(gotTimed) > 0 {
		p.t.Errorf("not in the recording: %v", methods(gotTimed))
	}
}

func methods(records []record) (names []string) {
	for _, r := range records {
		names = append(names, r.Method)
	}
	return names
}

func (p *pod) takeSame(w record, from *[]record) {
	p.t.Helper()
	for i, g := range *from {
		if w.Method == g.Method && reflect.DeepEqual(p.normalise(w.Req), p.normalise(g.Req)) {
			*from = append((*from)[:i:i], (*from)[i+1:]...)
			return
		}
	}
	p.t.Errorf("recorded but not sent: %s %v", w.Method, w.Req)
}

func (p *pod) sameFields(want, got record) {
	p.t.Helper()
	w, g := p.normalise(want.Req), p.normalise(got.Req)
	for name := range w {
		if !reflect.DeepEqual(w[name], g[name]) {
			a, _ := json.MarshalIndent(w[name], "", " ")
			b, _ := json.MarshalIndent(g[name], "", " ")
			p.t.Errorf("%s (request %d): %s\nrecorded %s\nsent %s", want.Method, want.Seq, name, a, b)
		}
		delete(g, name)
	}
	if len(g) > 0 {
		p.t.Errorf("%s (request %d): fields that the recording has not: %v", want.Method, want.Seq, g)
	}
}
