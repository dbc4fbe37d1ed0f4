package release_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/measure"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// measuredClass is the RuntimeClass whose guests measure what is asked of their
// agent, for a kind of TEE.
func measuredClass(tee string) string {
	GinkgoHelper()
	c, ok := bed.Class(tee, true)
	if !ok {
		Skip("no RuntimeClass of this platform has guests of kind " + tee + " measure what is asked of their agent")
	}
	return c.Name
}

// options verify evidence of this run's pods.
func options() evidence.Options {
	GinkgoHelper()
	if bed.Roots == "" {
		return evidence.Options{}
	}
	roots, err := evidence.LoadRoots(bed.Roots)
	Expect(err).NotTo(HaveOccurred())
	return evidence.Options{Roots: roots}
}

// texts are what a log's events of attestation-agent say.
func texts(log *measure.EventLog) (out []string) {
	for i := range log.Events {
		if text, ok := log.Events[i].AAEL(); ok {
			out = append(out, text)
		}
	}
	return out
}

// eventPCR is the register that guests of the simulated TPM measure their events into (docs/tees.md).
const eventPCR = 15

// without is a log that lacks an event.
func without(log *measure.EventLog, number int) *measure.EventLog {
	return &measure.EventLog{Events: slices.Delete(slices.Clone(log.Events), number, number+1)}
}

var _ = Describe("the log of what was asked of the agent", suite.OneKBS, Label("event-log"), func() {
	It("leads to the quoted register, and no other log does", proof.Of("ATTEST-EVENTLOG-001"), SpecTimeout(limit), func(ctx SpecContext) {
		class := measuredClass(evidence.KindTPM)
		if bed.NodeLogs == "" {
			Skip("the log cannot be read on this platform, and a TPM's evidence does not carry it")
		}
		g := guest{bed.Namespace(ctx, "release"), "measured", evidence.KindTPM}
		k := bed.KBS(ctx)
		raw := document("sha256", k.URL, "measured")
		confidential(ctx, g.ns, g.name, class, raw)
		bed.Ready(ctx, g.ns, g.name)
		r, err := bed.Pods.Exec(ctx, g.ns, g.name, suite.Container, "sh", "-c", "echo done by hand")
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())

		nonce := []byte("a nonce of thirty-two bytes, yes")
		quoted, err := g.Evidence(ctx, nonce)
		Expect(err).NotTo(HaveOccurred())
		recorded, err := simulation.EventLog(bed.NodeLogs, g.ns, g.name)
		Expect(err).NotTo(HaveOccurred())
		log, err := measure.ParseEventLog(recorded)
		Expect(err).NotTo(HaveOccurred())
		said := texts(log)
		Expect(said).To(ContainElements(
			HavePrefix("github.com/kata-containers CreateSandboxRequest "),
			HavePrefix("github.com/confidential-containers PullImage "),
			MatchRegexp(`^github\.com/kata-containers CreateContainerRequest [0-9a-f]{64} .* sha256:[0-9a-f]{64}$`),
			MatchRegexp(`^github\.com/kata-containers ExecProcessRequest [0-9a-f]{64} \S+ sh -c echo done by hand sha256:[0-9a-f]{64}$`),
		))
		o := options()
		o.InitDataDigest, o.EventLog, o.EventPCR = digest(raw), log, eventPCR
		// The log goes on: what closes the exec that fetched the evidence is after it.
		fits := fittingPrefix(g, quoted, nonce, o, log)
		Expect(fits).NotTo(BeNil(), "no beginning of the log leads to the quoted register; it has\n%s", strings.Join(said, "\n"))

		By("without an event it does not fit, and the first that is missing or wrong is named")
		at := slices.IndexFunc(said, func(s string) bool { return strings.Contains(s, "echo done by hand") })
		o.EventLog = without(fits, at)
		_, err = evidence.Verify(g.tee, quoted, nonce, o)
		Expect(err).To(MatchError(evidence.ErrEventLog))
		var replay *measure.ReplayError
		Expect(errors.As(err, &replay)).To(BeTrue(), "%v", err)

		By("nor with an event that says something else")
		forged := &measure.EventLog{Events: slices.Clone(fits.Events)}
		event := forged.Events[at]
		event.Data = []byte(strings.Replace(string(event.Data), "by hand", "by nobd", 1))
		forged.Events[at] = event
		o.EventLog = forged
		_, err = evidence.Verify(g.tee, quoted, nonce, o)
		Expect(err).To(MatchError(evidence.ErrEventLog))
		Expect(err).To(MatchError(ContainSubstring("by nobd")))

		By("nor its end alone")
		o.EventLog = &measure.EventLog{Events: fits.Events[len(fits.Events)-1:]}
		_, err = evidence.Verify(g.tee, quoted, nonce, o)
		Expect(err).To(MatchError(evidence.ErrEventLog))

		By("nor a log without events")
		o.EventLog = &measure.EventLog{}
		_, err = evidence.Verify(g.tee, quoted, nonce, o)
		Expect(err).To(MatchError(evidence.ErrEventLog))
	})

	It("can decide: a pod that somebody entered gets no secret any more", proof.Of("ATTEST-EVENTLOG-002"), SpecTimeout(limit), func(ctx SpecContext) {
		class := measuredClass(evidence.KindTDX)
		knowsRoots(evidence.KindTDX)
		// Not the process's: the pod goes on asking until it is gone, which would be counted in the next spec.
		k := bed.NewKBS(ctx, testbed.KBSOptions{})
		ns := bed.Namespace(ctx, "release")
		path := suite.ResourcePath(ns, "untouched")
		Expect(k.SetResource(ctx, path, []byte(leak.Secret()))).To(Succeed())
		Expect(k.SetResourcePolicy(ctx, `package policy
import rego.v1
default allow := false
events := [e.details.string | some e in input.submods.cpu0["ear.veraison.annotated-evidence"].tdx.uefi_event_logs; e.details.string]
entered if {
	some e in events
	startswith(e, "github.com/kata-containers ExecProcessRequest ")
}
created if {
	some e in events
	startswith(e, "github.com/kata-containers CreateContainerRequest ")
}
allow if {
	data.plugin == "resource"
	created
	not entered
}
`)).To(Succeed())
		// The pod asks for itself, with a new token each time: to ask through exec would enter it.
		ask := `while :; do
	token=$(curl -s "` + rest + `/aa/token?token_type=kbs" | sed -E 's/.*"token":"([^"]+)".*/\1/')
	curl -s -o /dev/null -w '%{http_code}\n' -H "Authorization: Bearer $token" ` + k.URL + `/kbs/v0/resource/` + path + `
	sleep 0.2
done`
		confidential(ctx, ns, "untouched", class, document("sha256", k.URL, ns), func(p *corev1.Pod) {
			p.Spec.Containers[0].Command = []string{"sh", "-c", ask}
		})
		bed.Ready(ctx, ns, "untouched")
		answers := func() []string {
			log, err := bed.Pods.Logs(ctx, ns, "untouched", suite.Container, 1<<20)
			Expect(err).NotTo(HaveOccurred())
			return strings.Fields(log)
		}
		By("control: while nobody has entered it is released")
		Eventually(ctx, answers).WithPolling(100 * time.Millisecond).Should(ContainElement("200"))
		Expect(answers()).To(HaveEach("200"))
		counted := k.Count(ctx)
		r, err := bed.Pods.Exec(ctx, ns, "untouched", suite.Container, "true")
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())
		By("once somebody has, it is denied")
		Eventually(ctx, answers).WithPolling(100 * time.Millisecond).Should(ContainElement("401"))
		Expect(k.Count(ctx).Since(counted, suite.PolicyViolations)).To(BeNumerically(">", 0))
		all := answers()
		Expect(all[slices.Index(all, "401"):]).To(HaveEach("401"), "and it stays denied")
	})

	It("cannot be written into the register of the init-data without ruining it", proof.Of("ATTEST-EVENTLOG-003"), SpecTimeout(limit), func(ctx SpecContext) {
		k, ns := bed.KBS(ctx), bed.Namespace(ctx, "release")
		Expect(k.SetResourcePolicy(ctx, allowAll)).To(Succeed())
		path, secret := suite.ResourcePath(ns, "secret"), leak.Secret()
		Expect(k.SetResource(ctx, path, []byte(secret))).To(Succeed())
		pods := map[string][]byte{}
		for name, pcr := range map[string]string{"right": "15", "wrong": "8"} {
			pods[name] = document("sha256", k.URL, ns, "[eventlog_config]\nenable_eventlog = true\ninit_pcr = "+pcr+"\n")
			confidential(ctx, ns, name, bed.RuntimeClass, pods[name])
		}
		for name := range pods {
			bed.Ready(ctx, ns, name)
		}
		right, wrong := guest{ns, "right", bed.TEE}, guest{ns, "wrong", bed.TEE}
		By("control: a guest that measures elsewhere attests")
		releases(ctx, k, right, text(pods["right"]), path, secret)
		expected := pcr8(digest(pods["wrong"]))
		seen := []string{expected}
		for range 4 {
			refusesEvidence(ctx, k, wrong, text(pods["wrong"]))
			token, _ := attested(ctx, k, wrong, nil)
			now := appraisal(token).InitData()
			Expect(seen).NotTo(ContainElement(now), "the register came back to a value that it had")
			seen = append(seen, now)
			By("a container extends the register itself")
			r, err := bed.Pods.Exec(ctx, ns, wrong.name, suite.Container, "curl", "-s", "-f", "-X", "POST", "-d",
				`{"domain":"container","operation":"extend","content":"`+now[:8]+`"}`, rest+"/aa/aael")
			Expect(pod.Classify(r, err)).To(pod.BeAllowed())
			Expect(json.RawMessage(r.Stdout)).To(MatchJSON(`{"success":"true"}`))
		}
		releases(ctx, k, right, text(pods["right"]), path, secret)
	})

	It("is not kept where nobody asked for it", proof.Of("ATTEST-EVENTLOG-004"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		r, err := bed.Pods.Exec(ctx, s.ns, s.name, suite.Container, "curl", "-s", "-X", "POST", "-d", `{"domain":"a","operation":"b","content":"c"}`, rest+"/aa/aael")
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())
		Expect(r.Stdout).To(MatchJSON(`{"success":"false","message":"Attestation Agent does not enable eventlog recording"}`))
		s.control(ctx)
	})
})

// fittingPrefix is the beginning of a log that leads to the quoted registers.
func fittingPrefix(g guest, quoted json.RawMessage, nonce []byte, o evidence.Options, log *measure.EventLog) *measure.EventLog {
	for n := len(log.Events); n > 0; n-- {
		o.EventLog = &measure.EventLog{Events: log.Events[:n]}
		if _, err := evidence.Verify(g.tee, quoted, nonce, o); err == nil {
			return o.EventLog
		}
	}
	return nil
}
