package walkthrough_test

import (
	"crypto/sha256"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/suite"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// The commands that the article's policy allows, and what this suite adds to
// them in the same list.
const (
	whoami       = "whoami"
	tokenCommand = "curl -s http://127.0.0.1:8006/aa/token?token_type=kbs"
)

// permissive is a policy that lets everything happen.
const permissive = "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n"

func evidenceCommand(nonce string) string {
	return "curl -s http://127.0.0.1:8006/aa/evidence?runtime_data=" + nonce
}

func resourceCommand(path string) string {
	return "curl -s http://127.0.0.1:8006/cdh/resource/" + path
}

func resourceStatusCommand(path string) string {
	return "curl -s -o /dev/null -w %{http_code} http://127.0.0.1:8006/cdh/resource/" + path
}

// articlePolicy is the article's policy with this run's image and commands.
func articlePolicy(commands ...string) string {
	GinkgoHelper()
	b, err := manifests.Fill("walkthrough/policy.rego", map[string]any{
		"Image": bed.Nginx, "Commands": append([]string{whoami, "false", tokenCommand}, commands...),
	})
	Expect(err).NotTo(HaveOccurred())
	return string(b)
}

// document is an init-data document with the given policy. It opens with a
// comment, so that a byte can be changed without changing what it says.
func document(policy string) []byte {
	GinkgoHelper()
	kbs := map[string]string{"KBS": bed.KBSURL}
	aa, err := manifests.Fill("walkthrough/aa.toml", kbs)
	Expect(err).NotTo(HaveOccurred())
	cdh, err := manifests.Fill("walkthrough/cdh.toml", kbs)
	Expect(err).NotTo(HaveOccurred())
	doc, err := initdata.New("sha256", map[string]string{"aa.toml": string(aa), "cdh.toml": string(cdh), "policy.rego": policy})
	Expect(err).NotTo(HaveOccurred())
	raw, err := doc.Marshal()
	Expect(err).NotTo(HaveOccurred())
	return append([]byte("# walkthrough A\n"), raw...)
}

// oneByteChanged differs from raw in one byte of its comment.
func oneByteChanged(raw []byte) []byte {
	GinkgoHelper()
	changed := strings.Replace(string(raw), "# walkthrough A\n", "# walkthrough B\n", 1)
	Expect(changed).NotTo(Equal(string(raw)))
	return []byte(changed)
}

func annotated(raw []byte) map[string]string {
	GinkgoHelper()
	value, err := initdata.EncodeAnnotation(raw)
	Expect(err).NotTo(HaveOccurred())
	return map[string]string{initdata.AnnotationKey: value}
}

// registerOf is what the register that init-data is bound to holds after the
// measurement of raw: PCR8 in the article, HOST_DATA or MRCONFIGID elsewhere.
func registerOf(b suite.Binding, raw []byte) string {
	digest := sha256.Sum256(raw)
	return b.Register(digest[:])
}

// logged is how the KBS's log names the register, and the reference value that
// attestation-policy.rego compares it with.
type logged struct{ claim, reference string }

func loggedAs(tee string) logged {
	switch tee {
	case evidence.KindTPM:
		return logged{"tpm.pcr08", "tpm.pcr08"}
	case evidence.KindAzSNPVTPM, evidence.KindAzTDXVTPM:
		return logged{tee + ".tpm.pcr08", "tpm.pcr08"}
	}
	return logged{"init_data", "init_data"}
}
