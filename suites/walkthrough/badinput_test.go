package walkthrough_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

func gzipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	Expect(err).NotTo(HaveOccurred())
	Expect(w.Close()).To(Succeed())
	return b.Bytes()
}

func encoded(text string) string { return base64.StdEncoding.EncodeToString(gzipped(text)) }

const permissive = "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n"

// unknownAlgorithm is what the event must name.
const unknownAlgorithm = "md5"

// A pod whose init-data cannot be used must not run at all, and its event must
// say why. The texts of the first four were recorded from the Kata 4.1 Go shim;
// the last three come from the guest's boot.
var _ = Describe("bad init-data", Label("init-data"), func() {
	DescribeTable("never runs, and the event says why", func(ctx SpecContext, value func() string, want string) {
		ns := bed.Namespace(ctx, "bad-initdata")
		bed.Create(ctx, confidentialPod(ns, "bad", bed.Nginx, map[string]string{initdata.AnnotationKey: value()}))
		wait, cancel := context.WithTimeout(ctx, suite.ReadyTimeout)
		defer cancel()
		event, err := bed.Pods.WaitEvent(wait, ns, "bad", func(e string) bool { return strings.HasPrefix(e, "FailedCreatePodSandBox: ") })
		Expect(err).NotTo(HaveOccurred())
		Expect(pod.ParseDenial(event)).To(HaveField("Outcome", pod.Inconclusive), "it is not the policy that refuses it")
		bed.NeverRan(ctx, ns, "bad")
		if bed.Shim == "kata" && want == unknownAlgorithm {
			want = "ttrpc: closed" // Kata 4.1's Go shim panics.
		}
		if bed.Simulated {
			Expect(event).To(ContainSubstring(want))
		}
	},
		Entry("unreadable base64", NodeTimeout(suite.DefaultSpecTimeout), func() string { return "%%%%" },
			"initdata create gzip reader error: illegal base64 data at input byte 0"),
		Entry("base64 of something that is no gzip", NodeTimeout(suite.DefaultSpecTimeout), func() string { return base64.StdEncoding.EncodeToString([]byte("version = \"0.1.0\"\n")) },
			"initdata create gzip reader error: gzip: invalid header"),
		Entry("gzip that ends early", NodeTimeout(suite.DefaultSpecTimeout), func() string {
			z := gzipped(strings.Repeat("# a line that compresses\n", 50))
			return base64.StdEncoding.EncodeToString(z[:len(z)-10])
		}, "uncompressing initdata with gzip error: unexpected EOF"),
		Entry("broken TOML", NodeTimeout(suite.DefaultSpecTimeout), func() string { return encoded("version = \"0.1.0\"\nalgorithm = sha256\n") },
			`parsing initdata annotation failed: toml: line 2 (last key "algorithm"): expected value but found "sha" instead`),
		Entry("an algorithm that there is not", NodeTimeout(suite.DefaultSpecTimeout), func() string { return encoded("version = \"0.1.0\"\nalgorithm = \"md5\"\n[data]\n") },
			unknownAlgorithm),
		Entry("another version", NodeTimeout(suite.DefaultSpecTimeout), func() string { return encoded("version = \"9.9.9\"\nalgorithm = \"sha256\"\n[data]\n") },
			"unsupported version: 9.9.9, expected: 0.1.0"),
		Entry("broken Rego", NodeTimeout(suite.DefaultSpecTimeout), func() string {
			return encoded("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"policy.rego\" = '''\npackage agent_policy\ndefault ExecProcessRequest := \n'''\n")
		}, "Failed to set policy from initdata"),
		Entry("a policy in the Rego of before 1.0", NodeTimeout(suite.DefaultSpecTimeout), func() string {
			return encoded("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"policy.rego\" = '''\npackage agent_policy\nExecProcessRequest { true }\n'''\n")
		}, "Failed to set policy from initdata"),
	)

	It("control: the same pod runs with init-data that is whole", func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "good-initdata")
		bed.Create(ctx, confidentialPod(ns, "good", bed.Nginx, annotated(document(permissive))))
		bed.Ready(ctx, ns, "good")
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("control: the same pod runs without init-data, under the guest's own policy", func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "no-initdata")
		bed.Create(ctx, confidentialPod(ns, "none", bed.Nginx, nil))
		bed.Ready(ctx, ns, "none")
	}, NodeTimeout(suite.DefaultSpecTimeout))
})
