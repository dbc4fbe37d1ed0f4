package initdata_test

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// panics is what an event says when Kata 4.1's Go shim does not survive.
const panics = "ttrpc: closed"

// refusal is the value of an init-data annotation, and what the event of the
// pod that has it must say.
type refusal struct {
	what, value, says string
	// kata, if there is one, is what the event says under Kata's own Go shim.
	kata string
}

// replaceIn writes by over what s has from its nth character.
func replaceIn(s string, n int, by string) string { return s[:n] + by + s[n+len(by):] }

// whyNot waits until a pod's sandbox could not be made, and returns the event;
// or that of its start, after which there will be no other.
func whyNot(ctx context.Context, ns, name string) string {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(ctx, suite.ReadyTimeout)
	defer cancel()
	event, err := bed.Pods.WaitEvent(ctx, ns, name, func(e string) bool {
		return strings.HasPrefix(e, "FailedCreatePodSandBox: ") || strings.HasPrefix(e, "Started: ")
	})
	Expect(err).NotTo(HaveOccurred())
	return event
}

// refuses asserts that pods with such annotations never run and that their
// events say why, while the pod beside them, with init-data that is whole, runs.
func refuses(ctx SpecContext, refusals func() []refusal) {
	GinkgoHelper()
	ns := bed.Namespace(ctx, "bad-initdata")
	start(ctx, ns, "control", encoded(document(permissive)))
	cases := refusals()
	name := func(i int) string { return fmt.Sprintf("bad-%d", i) }
	for i, c := range cases {
		start(ctx, ns, name(i), c.value)
	}
	bed.Ready(ctx, ns, "control")
	for i, c := range cases {
		event := whyNot(ctx, ns, name(i))
		Expect(pod.ParseDenial(event)).To(HaveField("Outcome", pod.Inconclusive), "%s: it is not the policy that refuses it", c.what)
		bed.NeverRan(ctx, ns, name(i))
		says := c.says
		if bed.Shim == "kata" && c.kata != "" {
			says = c.kata
		}
		if bed.Simulated {
			Expect(event).To(ContainSubstring(says), c.what)
		}
	}
}

// The texts were recorded from Kata 4.1's Go shim, where it has some; what it
// has none for, it does not survive.
var _ = Describe("an annotation that the shim cannot use", Label("init-data"), func() {
	DescribeTable("never runs, and the event says why", refuses,
		Entry("base64", proof.Of("INITDATA-REFUSE-001"), NodeTimeout(suite.DefaultSpecTimeout), func() []refusal {
			return []refusal{
				{what: "none", value: "%%%%", says: "initdata create gzip reader error: illegal base64 data at input byte 0"},
				{
					what: "in the alphabet of URLs", value: replaceIn(encoded(document(permissive)), 40, "-_"),
					says: "illegal base64 data at input byte 40",
				},
				{
					what: "with more after its padding", value: strings.TrimRight(encoded(document(permissive)), "=") + "==AAAA",
					says: "illegal base64 data at input byte",
				},
			}
		}),
		Entry("gzip", proof.Of("INITDATA-REFUSE-002"), NodeTimeout(suite.DefaultSpecTimeout), func() []refusal {
			whole := gzipped(document(permissive))
			damaged := gzipped(document(permissive))
			damaged[len(damaged)-8] ^= 1
			return []refusal{
				{
					what: "none, as older Kata had it", value: base64Of([]byte(document(permissive))),
					says: "initdata create gzip reader error: gzip: invalid header",
				},
				{what: "that ends early", value: base64Of(whole[:len(whole)-10]), says: "uncompressing initdata with gzip error: unexpected EOF"},
				{what: "with a wrong checksum", value: base64Of(damaged), says: "uncompressing initdata with gzip error: gzip: invalid checksum"},
				{
					what: "with other bytes after it", value: base64Of(append(whole, "and more text"...)),
					says: "uncompressing initdata with gzip error: gzip: invalid header",
				},
			}
		}),
		Entry("TOML", proof.Of("INITDATA-REFUSE-003"), NodeTimeout(suite.DefaultSpecTimeout), func() []refusal {
			return []refusal{
				{
					what: "none", value: encoded("version = \"0.1.0\"\nalgorithm = sha256\n"),
					says: `parsing initdata annotation failed: toml: line 2 (last key "algorithm"): expected value but found "sha" instead`,
				},
				{what: "not in UTF-8", value: encoded(head + "[data]\n\"aa.toml\" = \"\xff\"\n"), says: "parsing initdata annotation failed: toml: line 5"},
				{what: "with a file twice", value: encoded(head + "[data]\nx = ''\nx = ''\n"), says: "parsing initdata annotation failed: toml: line 6"},
				{what: "with a table for a file", value: encoded(head + "[data.\"aa.toml\"]\nurl = ''\n"), says: "parsing initdata annotation failed: toml: "},
			}
		}),
		Entry("the algorithm", proof.Of("INITDATA-REFUSE-004"), NodeTimeout(suite.DefaultSpecTimeout), func() []refusal {
			const rest = "version = \"0.1.0\"\n[data]\n"
			return []refusal{
				{what: "that there is not", value: encoded("algorithm = \"md5\"\n" + rest), says: `init-data field algorithm is "md5"`, kata: panics},
				{
					what: "by the name that the specification's text has", value: encoded("algorithm = \"sha-256\"\n" + rest),
					says: `init-data field algorithm is "sha-256"`, kata: panics,
				},
				{what: "missing", value: encoded(rest), says: `init-data field algorithm is ""`, kata: panics},
				{what: "missing in a document without a byte", value: encoded(""), says: `init-data field algorithm is ""`, kata: panics},
			}
		}),
		Entry("what is more than it looks like", proof.Of("INITDATA-REFUSE-005"), NodeTimeout(suite.DefaultSpecTimeout), func() []refusal {
			return []refusal{
				{
					what: "a byte more than CreateVM can carry", value: encoded(longest(1)),
					says: "init-data is longer than 4128768 bytes", kata: "FailedCreatePodSandBox", // its words are not known
				},
				{
					what: "64 MiB in 64 kB", value: encoded(head + "[data]\n" + strings.Repeat("\n", 64<<20)),
					says: "init-data is longer than 4128768 bytes", kata: "FailedCreatePodSandBox",
				},
				{
					what: "brackets without end", value: encoded(head + "x = " + strings.Repeat("[", 4_000_000)),
					says: "line 4: tables, arrays or dotted keys lie more than 32 deep", kata: panics,
				},
			}
		}),
	)

	It("names annotation and remedy in the event", proof.Of("INITDATA-ANNOTATION-005"), func(ctx SpecContext) {
		if bed.Shim == "kata" || !bed.Simulated {
			Skip("Kata's shim names neither")
		}
		ns := bed.Namespace(ctx, "bad-initdata")
		start(ctx, ns, "bad", base64Of([]byte(document(permissive))))
		Expect(whyNot(ctx, ns, "bad")).To(And(
			ContainSubstring("annotation "+annotationKey),
			ContainSubstring("compress the document with gzip before base64"),
		))
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("is any that the node's list does not have", proof.Of("INITDATA-ANNOTATION-004"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "not-enabled")
		good := encoded(document(permissive))
		bed.Create(ctx, bed.Pod(ns, "bad", annotated(annotationKey, good), annotated("io.katacontainers.config.hypervisor.entropy_source", "/dev/null")))
		start(ctx, ns, "control", good)
		bed.Ready(ctx, ns, "control")
		Expect(whyNot(ctx, ns, "bad")).To(ContainSubstring("annotation io.katacontainers.config.hypervisor.entropy_source is not enabled"))
		bed.NeverRan(ctx, ns, "bad")
	}, NodeTimeout(suite.DefaultSpecTimeout))
})

// What the shim hands on and the guest does not boot with. Kata's agent ends
// before its socket opens, and its shim knows of nothing but a timeout; the
// simulated guest's reason is in the event.
var _ = Describe("init-data that the guest cannot boot with", Label("init-data"), func() {
	DescribeTable("never runs, and the event says why", refuses,
		Entry("the document", proof.Of("INITDATA-BOOT-001"), NodeTimeout(suite.DefaultSpecTimeout), func() []refusal {
			return []refusal{
				{
					what: "another version", value: encoded("version = \"9.9.9\"\nalgorithm = \"sha256\"\n[data]\n"),
					says: "unsupported version: 9.9.9, expected: 0.1.0",
				},
				{what: "no version", value: encoded("algorithm = \"sha256\"\n[data]\n"), says: "missing field `version`"},
				{what: "no data", value: encoded(head), says: "missing field `data`"},
				{
					what: "a name in capitals, which the shim takes", value: encoded("Version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n"),
					says: "missing field `version`",
				},
			}
		}),
		Entry("the policy", proof.Of("POLICY-BOOT-002"), NodeTimeout(suite.DefaultSpecTimeout), func() []refusal {
			const says = "Failed to set policy from initdata"
			return []refusal{
				{what: "broken Rego", value: encoded(document("package agent_policy\ndefault ExecProcessRequest := \n")), says: says},
				{what: "Rego of before 1.0", value: encoded(document("package agent_policy\nExecProcessRequest { true }\n")), says: says},
				{what: "empty: the guest's own must not hold then", value: encoded(head + "[data]\n\"policy.rego\" = ''\n"), says: says},
			}
		}),
		Entry("the components' files", proof.Of("INITDATA-BOOT-002"), NodeTimeout(suite.DefaultSpecTimeout), func() []refusal {
			return []refusal{
				{what: "aa.toml", value: encoded(document(permissive) + "\"aa.toml\" = 'url = '\n"), says: "aa.toml: toml: line 1"},
				{what: "cdh.toml", value: encoded(document(permissive) + "\"cdh.toml\" = 'url = '\n"), says: "cdh.toml: toml: line 1"},
			}
		}),
	)

	// PCR8 takes 32 bytes. Elsewhere a digest is cut or padded, and the pod runs.
	It("has a digest that a TPM's PCR8 has no room for", proof.Of("INITDATA-DIGEST-002"), func(ctx SpecContext) {
		if !strings.Contains(bed.TEE, "tpm") {
			Skip("a " + bed.TEE + " guest is bound to init-data by a register that takes any digest, cut or padded")
		}
		refuses(ctx, func() []refusal {
			var cases []refusal
			for _, algorithm := range []string{"sha384", "sha512"} {
				raw := strings.Replace(document(permissive), "sha256", algorithm, 1)
				cases = append(cases, refusal{what: algorithm, value: encoded(raw), says: "digest length is not 32 bytes"})
			}
			return cases
		})
	}, NodeTimeout(suite.DefaultSpecTimeout))
})
