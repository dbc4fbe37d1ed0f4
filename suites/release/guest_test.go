package release_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// rest is the guest's own server, as its containers reach it.
const rest = "http://127.0.0.1:8006"

// document is init-data with a policy that allows everything, for a guest that
// talks to the KBS at url. note tells documents apart: it is a comment, and
// part of what is measured.
func document(algorithm, url, note string, more ...string) []byte {
	GinkgoHelper()
	return documentTrusting("", algorithm, url, note, more...)
}

// documentTrusting is a document for a guest that trusts an authority (PEM, or
// "" for none) for its KBS's certificate. more goes into aa.toml's KBS table.
func documentTrusting(authority, algorithm, url, note string, more ...string) []byte {
	GinkgoHelper()
	k := map[string]string{"KBS": url}
	certificate := ""
	if authority != "" {
		more = append(more, "cert = '''\n"+authority+"'''\n")
		certificate = "kbs_cert = '''\n" + authority + "'''\n"
	}
	aa, err := manifests.Fill("walkthrough/aa.toml", k)
	Expect(err).NotTo(HaveOccurred())
	cdh, err := manifests.Fill("walkthrough/cdh.toml", k)
	Expect(err).NotTo(HaveOccurred())
	doc, err := initdata.New(algorithm, map[string]string{
		"aa.toml": string(aa) + strings.Join(more, ""), "cdh.toml": string(cdh) + certificate,
		"policy.rego": "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n",
	})
	Expect(err).NotTo(HaveOccurred())
	raw, err := doc.Marshal()
	Expect(err).NotTo(HaveOccurred())
	return append([]byte("# release: "+note+"\n"), raw...)
}

// oneByteChanged differs from a document in one byte of its comment.
func oneByteChanged(raw []byte) []byte {
	GinkgoHelper()
	changed := strings.Replace(string(raw), "# release: ", "# releasE: ", 1)
	Expect(changed).NotTo(Equal(string(raw)))
	return []byte(changed)
}

// digest is a document's, by its own algorithm.
func digest(raw []byte) []byte {
	GinkgoHelper()
	doc, err := initdata.Parse(raw)
	Expect(err).NotTo(HaveOccurred())
	d, err := doc.Digest()
	Expect(err).NotTo(HaveOccurred())
	return d
}

// guest is a pod whose TEE can be asked for evidence.
type guest struct{ ns, name, tee string }

// confidential makes a pod of a RuntimeClass with a document, and does not wait
// for it. An empty document is none.
func confidential(ctx context.Context, ns, name, class string, raw []byte, edits ...func(*corev1.Pod)) {
	GinkgoHelper()
	bed.Create(ctx, bed.Pod(ns, name, append([]func(*corev1.Pod){func(p *corev1.Pod) {
		p.Spec.RuntimeClassName = &class
		if len(raw) == 0 {
			return
		}
		value, err := initdata.EncodeAnnotation(raw)
		Expect(err).NotTo(HaveOccurred())
		p.Annotations = map[string]string{initdata.AnnotationKey: value}
	}}, edits...)...))
}

var _ kbs.Attester = guest{}

// TEE implements [kbs.Attester].
func (g guest) TEE() string { return g.tee }

// Evidence asks the guest's attestation-agent, as a container of the pod.
func (g guest) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	url := rest + "/aa/evidence?encoding=base64&runtime_data=" + base64.RawURLEncoding.EncodeToString(reportData)
	r, err := bed.Pods.Exec(ctx, g.ns, g.name, suite.Container, "curl", "-s", "-f", url)
	if err != nil {
		return nil, err
	}
	if r.ExitCode != 0 {
		return nil, fmt.Errorf("%s: the guest gave no evidence: curl ended with %d", pod.InconclusiveMark, r.ExitCode)
	}
	return json.RawMessage(r.Stdout), nil
}

// resource asks the guest's data hub for a resource, as a container of the pod:
// the HTTP status, and what came.
func (g guest) resource(ctx context.Context, path string) (status, content string) {
	GinkgoHelper()
	r, err := bed.Pods.Exec(ctx, g.ns, g.name, suite.Container, "curl", "-s", "-w", "\n%{http_code}", rest+"/cdh/resource/"+path)
	Expect(pod.Classify(r, err)).To(pod.BeAllowed())
	end := strings.LastIndex(r.Stdout, "\n")
	Expect(end).To(BeNumerically(">=", 0))
	return r.Stdout[end+1:], r.Stdout[:end]
}

// token has the guest's attestation-agent attest for a token of the KBS, as a container of the pod asks for it.
func (g guest) token(ctx context.Context) (kbs.Token, kbs.TEEKey) {
	GinkgoHelper()
	r, err := bed.Pods.Exec(ctx, g.ns, g.name, suite.Container, "curl", "-s", rest+"/aa/token?token_type=kbs")
	Expect(pod.Classify(r, err)).To(pod.BeAllowed())
	token, key, err := kbs.ParseTokenResponse([]byte(r.Stdout))
	Expect(err).NotTo(HaveOccurred(), "%s: the guest gave no token", pod.InconclusiveMark)
	return token, key
}

// renamedAlgorithm is a document that names another algorithm, without anything else changed.
func renamedAlgorithm(raw []byte, algorithm string) []byte {
	GinkgoHelper()
	changed := strings.Replace(string(raw), `"sha256"`, `"`+algorithm+`"`, 1)
	Expect(changed).NotTo(Equal(string(raw)))
	return []byte(changed)
}
