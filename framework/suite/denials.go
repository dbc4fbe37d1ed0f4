package suite

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/policy"
	"github.com/coco-e2e/coco-e2e/framework/redact"
)

// maxDenials is how many refusals of a pod are kept.
const maxDenials = 20

// keepDenials writes, for each request that the policy of a pod refused, why,
// and the files with which OPA reproduces it; below dir. It gives the reasons for
// people.
func (b *Bed) keepDenials(dir string, p *corev1.Pod) (why []string) {
	log, err := simulation.AgentLog(b.NodeLogs, p.Namespace, p.Name)
	if err != nil {
		return nil
	}
	n := 0
	for _, r := range log {
		if r.Why == nil || n == maxDenials {
			continue
		}
		n++
		at := filepath.Join(dir, fmt.Sprintf("%s-denial-%02d-%s", p.Name, n, r.Endpoint))
		if err := keepDenial(at, p, r); err != nil {
			GinkgoWriter.Println("artefacts:", err)
			return why
		}
		why = append(why, fmt.Sprintf("pod %s, %s\n%s\nreproduce: cd %s && %s", p.Name, r.Method, redact.Text(r.Why.String()), at, policy.Reproduction(r.Endpoint)))
	}
	return why
}

func keepDenial(dir string, p *corev1.Pod, r simulation.RPC) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	why := r.Why.String() + "\nReproduce here, with values of environments redacted:\n  " + policy.Reproduction(r.Endpoint) + "\n" +
		"  coco-e2e policy explain --policy policy.rego --state state.json --request input.json --endpoint " + r.Endpoint + "\n"
	files := map[string][]byte{"why.txt": []byte(why), "input.json": r.Input, "state.json": r.State}
	switch text, ok := policyOf(p); {
	case r.PolicyText != "": // what was in force: the image's own, or one that SetPolicy brought
		files["policy.rego"] = []byte(r.PolicyText)
	case ok && r.Policy == hex.EncodeToString(digest(text)):
		files["policy.rego"] = text
	default:
		files["why.txt"] = append(files["why.txt"], "The policy in force is not in the agent's log (SHA-256 "+r.Policy+"): get it for policy.rego first.\n"...)
	}
	for name, content := range files {
		keep(filepath.Join(dir, name), content)
	}
	return nil
}

func digest(text []byte) []byte {
	sum := sha256.Sum256(text)
	return sum[:]
}

// policyOf is the policy that a pod's init-data brings.
func policyOf(p *corev1.Pod) ([]byte, bool) {
	raw, err := initdata.DecodeAnnotation(p.Annotations[initdata.AnnotationKey])
	if err != nil {
		return nil, false
	}
	d, err := initdata.Parse(raw)
	if err != nil {
		return nil, false
	}
	text, ok := d.Data["policy.rego"]
	return []byte(text), ok
}
