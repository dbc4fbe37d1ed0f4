// Package initdata_test is how init-data gets from a pod's annotation into its
// guest: what is taken, what is measured, what is refused and in which words,
// and how much of it fits.
package initdata_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// bed is what this process's specs run against.
var bed = suite.Testbed()

func TestInitData(t *testing.T) { suite.Run(t, "initdata") }

// The annotations that carry init-data, written out here: they are part of
// what must hold.
const (
	annotationKey = "io.katacontainers.config.hypervisor.cc_init_data"
	legacyKey     = "io.katacontainers.config.runtime.cc_init_data"
)

// permissive is a policy that lets everything happen.
const permissive = "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n"

// head opens every document that is whole.
const head = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n"

// document is an init-data document with a policy, as a person would write it.
func document(policy string) string {
	return head + "[data]\n\"policy.rego\" = '''\n" + policy + "'''\n"
}

// gzipped packs each part into a gzip member of its own.
func gzipped(parts ...string) []byte {
	GinkgoHelper()
	var b bytes.Buffer
	for _, part := range parts {
		w := gzip.NewWriter(&b)
		_, err := w.Write([]byte(part))
		Expect(err).NotTo(HaveOccurred())
		Expect(w.Close()).To(Succeed())
	}
	return b.Bytes()
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// encoded is the annotation's value for a document, made without the
// framework's own encoder.
func encoded(parts ...string) string {
	GinkgoHelper()
	return base64Of(gzipped(parts...))
}

// annotated gives a pod one annotation.
func annotated(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[key] = value
	}
}

// start creates a pod whose init-data annotation has the given value.
func start(ctx context.Context, ns, name, value string) {
	GinkgoHelper()
	bed.Create(ctx, bed.Pod(ns, name, annotated(annotationKey, value)))
}

// exec runs command, words between blanks, in a pod.
func exec(ctx context.Context, ns, name, command string) (pod.Result, pod.Denial) {
	r, err := bed.Pods.Exec(ctx, ns, name, suite.Container, strings.Fields(command)...)
	return r, pod.Classify(r, err)
}

// evidenceOf is the command that has a guest make evidence for a nonce.
func evidenceOf(nonce string) string {
	return "curl -s http://127.0.0.1:8006/aa/evidence?runtime_data=" + nonce
}

func newNonce() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// boundTo asserts that a pod's verified evidence binds it to raw. The policy
// must allow evidenceOf(nonce).
func boundTo(ctx context.Context, ns, name, nonce, raw string) {
	GinkgoHelper()
	r, d := exec(ctx, ns, name, evidenceOf(nonce))
	Expect(d).To(pod.BeAllowed())
	binding := suite.BindingOf(bed.TEE)
	if binding.Unbound() {
		return // anybody can write such evidence: it proves nothing of a pod
	}
	digest := sha256.Sum256([]byte(raw))
	o := bed.Trusted(ns, name)
	o.InitDataDigest = digest[:]
	claims, err := evidence.Verify(bed.TEE, []byte(r.Stdout), []byte(nonce), o)
	Expect(err).NotTo(HaveOccurred())
	Expect(claims.InitData).To(Equal(binding.Register(digest[:])))
}

// value is what the framework's encoder makes of a document.
func value(raw string) string {
	GinkgoHelper()
	v, err := initdata.EncodeAnnotation([]byte(raw))
	Expect(err).NotTo(HaveOccurred())
	return v
}
