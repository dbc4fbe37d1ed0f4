package suite

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/policy"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

const ownPolicy = "package agent_policy\n\ndefault ExecProcessRequest := false\n"

// refusal is a line of an agent's log about a refused request.
func refusal(t *testing.T, withPolicy bool) string {
	t.Helper()
	e := policy.New()
	if err := e.SetPolicy(t.Context(), ownPolicy); err != nil {
		t.Fatal(err)
	}
	input := []byte(`{"process":{"Args":["ls"]}}`)
	why := e.Explain(t.Context(), "ExecProcessRequest", input)
	line := map[string]any{
		"time": "2026-11-23T09:00:00.5Z", "method": "ExecProcess", "endpoint": "ExecProcessRequest", "decision": "denied", "code": "PermissionDenied",
		"why": why, "input": json.RawMessage(input), "state": json.RawMessage(`{"pstate":{}}`), "policy": "d1",
	}
	if withPolicy {
		line["policy_text"] = ownPolicy
	}
	b, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

// guestOf makes the log directory of a pod's guest.
func guestOf(t *testing.T, logs, ns, name, agentLog string) {
	t.Helper()
	dir := filepath.Join(logs, "node", simulation.LogDir, ns+"_"+name+"_0123")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.jsonl"), []byte(agentLog), 0o600); err != nil {
		t.Fatal(err)
	}
}

func bedWith(nodeLogs string, kube *fake.Clientset) *Bed {
	b := &Bed{Testbed: &testbed.Testbed{Pods: &pod.Client{Kube: kube}}}
	b.NodeLogs = nodeLogs
	return b
}

func aPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{Name: "main", ContainerID: "containerd://1", RestartCount: 1}, {Name: "never"},
		}},
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			relative, _ := filepath.Rel(dir, name)
			out = append(out, relative)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, name ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(name...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A pod that the spec itself deleted is kept with its events, and its guest's log
// with the policy that was in force.
func TestKeepNamespace(t *testing.T) {
	logs, dir, ctx := t.TempDir(), t.TempDir(), t.Context()
	kube := fake.NewClientset()
	o := openNamespace{"ns", nil, chronicleOf(ctx, kube, "ns")}
	defer o.end()
	pods, events := kube.CoreV1().Pods("ns"), kube.CoreV1().Events("ns")
	// The fake client's watches have nothing of what was before them.
	for deadline := time.Now().Add(10 * time.Second); ; {
		watching := 0
		for _, a := range kube.Actions() {
			if a.GetVerb() == "watch" {
				watching++
			}
		}
		if watching == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody watches")
		}
		time.Sleep(5 * time.Millisecond)
	}
	at := metav1.NewTime(time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC))
	for _, name := range []string{"stays", "goes"} {
		if _, err := pods.Create(ctx, aPod(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := events.Create(ctx, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name + ".1"}, InvolvedObject: corev1.ObjectReference{Name: name},
			Reason: "Failed", Message: "Authorization: Bearer abc", LastTimestamp: at,
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := pods.Delete(ctx, "goes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		seen, _, _ := o.chronicle.all()
		if len(seen) == 2 && !seen[0].gone.IsZero() && len(seen[0].events) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", seen)
		}
	}
	guestOf(t, logs, "ns", "goes", refusal(t, true)+refusal(t, false))

	b := bedWith(logs, kube)
	why := b.keepNamespace(ctx, dir, o, time.Now(), nil)
	if len(why) != 2 || !strings.Contains(why[0], "pod goes, ExecProcess\nExecProcessRequest: denied") {
		t.Errorf("why denied: %q", why)
	}
	want := []string{
		"goes-denial-01-ExecProcessRequest/input.json", "goes-denial-01-ExecProcessRequest/policy.rego", "goes-denial-01-ExecProcessRequest/state.json",
		"goes-denial-01-ExecProcessRequest/why.txt", "goes-denial-02-ExecProcessRequest/input.json", "goes-denial-02-ExecProcessRequest/policy.rego",
		"goes-denial-02-ExecProcessRequest/state.json", "goes-denial-02-ExecProcessRequest/why.txt", "goes.txt", "missing.txt",
		"ns_goes_0123/agent.jsonl", "stays-main-previous.log", "stays-main.log", "stays.txt",
	}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
	if got := read(t, dir, "goes.txt"); !strings.Contains(got, "(deleted at ") || !strings.Contains(got, "09:00:00  Failed: Authorization: [credentials]") {
		t.Errorf("%s", got)
	}
	if got := read(t, dir, "goes-denial-02-ExecProcessRequest", "policy.rego"); got != ownPolicy {
		t.Errorf("the policy in force: %q", got)
	}
	if got := read(t, dir, "missing.txt"); got != "what is not here, and why\n\nthe containers' logs of pod goes by way of Kubernetes: it is deleted\n" {
		t.Errorf("%q", got)
	}
	if got := read(t, dir, "stays-main.log"); got != "fake logs" {
		t.Errorf("%q", got)
	}
	got := b.timelines(o)
	if len(got) != 1 || got[0].Name != "goes" || len(got[0].Events) != 2 || !strings.HasPrefix(got[0].Events[0].Why, "ExecProcessRequest: denied") {
		t.Errorf("timelines %+v", got)
	}
}

// Where nothing on the nodes can be read, Kubernetes is asked, and what is missing
// is said.
func TestKeepNamespaceWithoutNodes(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	kube := fake.NewClientset(aPod("p"))
	o := openNamespace{"ns", nil, chronicleOf(ctx, kube, "ns")}
	o.end()
	b := bedWith("", kube)
	if why := b.keepNamespace(ctx, dir, o, time.Now(), []string{"the KBS's log: …"}); why != nil {
		t.Errorf("%q", why)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"missing.txt", "p-main-previous.log", "p-main.log", "p.txt"}) {
		t.Errorf("kept %q", got)
	}
	const want = "what is not here, and why\n\nthe KBS's log: …\nthe logs of nodes, guests and agents, with which requests a policy refused: nothing on the nodes of this cluster can be read from here\n"
	if got := read(t, dir, "missing.txt"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := b.timelines(o); got != nil {
		t.Errorf("%+v", got)
	}
}

// Without its text a policy is named, and no other stands for it.
func TestKeepDenialWithoutPolicy(t *testing.T) {
	logs, dir := t.TempDir(), t.TempDir()
	guestOf(t, logs, "ns", "p", refusal(t, false))
	if why := bedWith(logs, nil).keepDenials(dir, aPod("p")); len(why) != 1 {
		t.Errorf("%q", why)
	}
	at := filepath.Join(dir, "p-denial-01-ExecProcessRequest")
	if got := files(t, at); !slices.Equal(got, []string{"input.json", "state.json", "why.txt"}) {
		t.Errorf("kept %q", got)
	}
	if got := read(t, at, "why.txt"); !strings.Contains(got, "The policy in force is not in the agent's log (SHA-256 d1)") {
		t.Errorf("%s", got)
	}
}

func TestLastOf(t *testing.T) {
	for _, c := range []struct {
		limit int
		want  string
	}{{20, "0123456789"}, {3, "789"}} {
		if got, err := lastOf(strings.NewReader("0123456789"), c.limit); err != nil || string(got) != c.want {
			t.Errorf("%d: %q %v", c.limit, got, err)
		}
	}
}

// Of a guest that several specs have one after the other, a spec keeps its own time.
func TestKeepSince(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "kept")
	for _, name := range []string{"console.log", "quiet.log"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte("before\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	begun := Sizes(from)
	if err := os.WriteFile(filepath.Join(from, "console.log"), []byte("before\nAuthorization: Bearer abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keepSince(to, from, begun)
	if got := files(t, to); !slices.Equal(got, []string{"console.log"}) || read(t, to, "console.log") != "Authorization: [credentials]\n" {
		t.Errorf("%q", got)
	}
}

func TestGiven(t *testing.T) {
	dir := t.TempDir()
	var s shown
	s.add("an earlier spec", "x", nil)
	s.add("spec", "token-claims.json", claimsOf("e30.eyJhIjoxfQ.c2ln"))
	s.add("spec", "token-claims.json", claimsOf("x"))
	s.write("another", dir)
	s.write("spec", dir)
	if got := files(t, dir); !slices.Equal(got, []string{"given-01-token-claims.json", "given-02-token-claims.json"}) {
		t.Errorf("%q", got)
	}
	if got := read(t, dir, "given-01-token-claims.json"); got != "{\n  \"a\": 1\n}" {
		t.Errorf("%q", got)
	}
	if got := claimed("tpm", []byte("{"), ""); !strings.HasPrefix(got, "this is no evidence of kind tpm: ") {
		t.Errorf("%q", got)
	}
	if got := compared("aa", "bb"); got != "register of the init-data: expected bb\n                             actual aa" {
		t.Errorf("%q", got)
	}
	document := "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = ''\n"
	// sha256sum of the document, and of 32 zero bytes before that.
	const digest = "5f514987282a1f4da94e0630beeaa0c4997801e991e4b0bb315675d112ee2b13"
	const pcr8 = "6247b481957ab36466d35f29da8104744956eaf5a715454490df23ef36446515"
	for kind, want := range map[string]string{"tpm": pcr8, "snp": digest, "tdx": digest + strings.Repeat("0", 32), "sample": ""} {
		if got := expectedRegister(kind, &document); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
	if got := expectedRegister("tpm", nil); got != "" {
		t.Errorf("nothing presented: %s", got)
	}
}
