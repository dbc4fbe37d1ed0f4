package release_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// recorder keeps the evidence that its attester gave last.
type recorder struct {
	kbs.Attester
	last json.RawMessage
}

// Evidence implements [kbs.Attester].
func (r *recorder) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	var err error
	r.last, err = r.Attester.Evidence(ctx, reportData)
	return r.last, err
}

// broken is evidence whose chain breaks at a link: a KBS refuses what is malformed too, so that its refusal alone does not
// say what it saw. No link is evidence that is sound.
type broken struct {
	kbs.Attester
	links []error
}

// Evidence implements [kbs.Attester].
func (b broken) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	raw, err := b.Attester.Evidence(ctx, reportData)
	if err != nil {
		return nil, err
	}
	_, err = evidence.Verify(b.TEE(), raw, reportData, options())
	if len(b.links) == 0 {
		Expect(err).NotTo(HaveOccurred(), "evidence that nothing is wrong with")
	} else {
		Expect(b.links).To(ContainElement(Satisfy(func(link error) bool { return errors.Is(err, link) })), "the evidence breaks elsewhere: %v", err)
	}
	return raw, nil
}

// replayed gives the same evidence whatever it is asked for.
type replayed struct {
	kbs.Attester
	evidence json.RawMessage
}

// Evidence implements [kbs.Attester].
func (r replayed) Evidence(context.Context, []byte) (json.RawMessage, error) { return r.evidence, nil }

// forged changes evidence on its way.
type forged struct {
	kbs.Attester
	// with, when set, is asked for evidence too: for the same report data.
	with   kbs.Attester
	change func(own, other map[string]any)
}

// Evidence implements [kbs.Attester].
func (f forged) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	parts := [2]map[string]any{}
	for i, a := range []kbs.Attester{f.Attester, f.with} {
		if a == nil {
			continue
		}
		raw, err := a.Evidence(ctx, reportData)
		if err != nil {
			return nil, err
		}
		decoder := json.NewDecoder(strings.NewReader(string(raw)))
		decoder.UseNumber()
		if err := decoder.Decode(&parts[i]); err != nil {
			return nil, err
		}
	}
	f.change(parts[0], parts[1])
	return json.Marshal(parts[0])
}

// cheat is a change of evidence that a kind's verifier has to notice.
type cheat struct {
	name string
	// breaks is the first link that does not hold any more.
	breaks error
	// spliced says that the change takes something of another pod's evidence.
	spliced bool
	change  func(own, other map[string]any)
}

func at(document map[string]any, name string) map[string]any { return document[name].(map[string]any) }

// edited is base64 text of bytes that were edited.
func edited(text any, encoding *base64.Encoding, edit func([]byte) []byte) string {
	raw, err := encoding.DecodeString(text.(string))
	if err != nil {
		panic(err)
	}
	return encoding.EncodeToString(edit(raw))
}

// flipped is base64 text of bytes with one bit changed.
func flipped(text any, encoding *base64.Encoding, offset int) string {
	return edited(text, encoding, func(raw []byte) []byte {
		raw[offset] ^= 1
		return raw
	})
}

// after is where bytes go on after the first of some marks, each behind the one before it.
func after(raw []byte, marks ...string) int {
	at := 0
	for _, mark := range marks {
		i := bytes.Index(raw[at:], []byte(mark))
		if i < 0 {
			panic("no " + mark)
		}
		at += i + len(mark)
	}
	return at
}

// anotherPCR8 replaces the register that init-data is bound to in a list of
// PCRs.
func anotherPCR8(own, _ map[string]any) {
	list := at(own, "tpm_quote")["pcrs"].([]any)
	list[8] = strings.Repeat("11", 32)
}

// shortList leaves the last PCR out.
func shortList(own, _ map[string]any) {
	quote := at(own, "tpm_quote")
	quote["pcrs"] = quote["pcrs"].([]any)[:23]
}

// others takes a part of the other pod's evidence.
func others(name string) func(own, other map[string]any) {
	return func(own, other map[string]any) { own[name] = other[name] }
}

// Where things are in a TDX quote of version 4 (Intel's TDX DCAP Quoting Library API, "Quote Format").
const (
	quoteMRConfigID = 48 + 184
	quoteRTMR3      = 48 + 472
	quoteAuthData   = 48 + 584
	quoteKey        = quoteAuthData + 4 + 64
)

// cheats by kind of evidence.
var cheats = map[string][]cheat{
	evidence.KindTPM: {
		{"another value of PCR 8 in the list", evidence.ErrPCRDigest, false, anotherPCR8},
		{"a list without the last PCR", evidence.ErrPCRSelection, false, shortList},
		{"another pod's attestation key", evidence.ErrSignature, true, others("ak_public")},
		{"another pod's quote under the own key", evidence.ErrSignature, true, others("tpm_quote")},
		{"another pod's signature", evidence.ErrSignature, true, func(own, other map[string]any) {
			at(own, "tpm_quote")["signature"] = at(other, "tpm_quote")["signature"]
		}},
	},
	evidence.KindSNP: {
		{"another HOST_DATA under the old signature", evidence.ErrReportSignature, false, func(own, _ map[string]any) {
			list := at(own, "attestation_report")["host_data"].([]any)
			list[0] = map[bool]json.Number{true: "1", false: "0"}[list[0] == json.Number("0")]
		}},
		{"another VMPL under the old signature", evidence.ErrReportSignature, false, func(own, _ map[string]any) {
			at(own, "attestation_report")["vmpl"] = json.Number("1")
		}},
		{"another pod's certificates", evidence.ErrReportSignature, true, others("cert_chain")},
		{"another pod's signature", evidence.ErrReportSignature, true, func(own, other map[string]any) {
			at(own, "attestation_report")["signature"] = at(other, "attestation_report")["signature"]
		}},
	},
	evidence.KindTDX: {
		{"another MRCONFIGID under the old signature", evidence.ErrReportSignature, false, func(own, _ map[string]any) {
			own["quote"] = flipped(own["quote"], base64.StdEncoding, quoteMRConfigID)
		}},
		{"another RTMR 3 under the old signature", evidence.ErrReportSignature, false, func(own, _ map[string]any) {
			own["quote"] = flipped(own["quote"], base64.StdEncoding, quoteRTMR3)
		}},
		{"another attestation key in the quote", evidence.ErrQEReport, false, func(own, _ map[string]any) {
			own["quote"] = flipped(own["quote"], base64.StdEncoding, quoteKey)
		}},
		{"another pod's signature, key and certificates", evidence.ErrReportSignature, true, func(own, other map[string]any) {
			own["quote"] = edited(own["quote"], base64.StdEncoding, func(raw []byte) []byte {
				theirs, err := base64.StdEncoding.DecodeString(other["quote"].(string))
				Expect(err).NotTo(HaveOccurred())
				return append(raw[:quoteAuthData:quoteAuthData], theirs[quoteAuthData:]...)
			})
		}},
		{"an event log that does not lead to the registers", evidence.ErrEventLog, false, func(own, _ map[string]any) {
			// The register of the first event after the header, whose size is in its last field before its data.
			own["cc_eventlog"] = edited(own["cc_eventlog"], base64.StdEncoding, func(raw []byte) []byte {
				raw[32+binary.LittleEndian.Uint32(raw[28:])] ^= 1
				return raw
			})
		}},
	},
	evidence.KindAzSNPVTPM: append(azureCheats, cheat{"another pod's VCEK", evidence.ErrReportSignature, true, others("vcek")}),
	evidence.KindAzTDXVTPM: append(azureCheats, cheat{"another pod's TD quote", evidence.ErrHCLBinding, true, others("td_quote")}),
	evidence.KindSample: {
		{"other report data", evidence.ErrReportData, false, func(own, _ map[string]any) {
			own["report_data"] = base64.StdEncoding.EncodeToString(make([]byte, 48))
		}},
	},
}

var azureCheats = []cheat{
	{"another value of PCR 8 in the list", evidence.ErrPCRDigest, false, anotherPCR8},
	{"a list without the last PCR", evidence.ErrPCRSelection, false, shortList},
	{"another pod's HCL report", evidence.ErrSignature, true, others("hcl_report")},
	{"another pod's quote", evidence.ErrSignature, true, others("tpm_quote")},
	{"another attestation key in the HCL report", evidence.ErrSignature, false, func(own, _ map[string]any) {
		own["hcl_report"] = edited(own["hcl_report"], base64.URLEncoding, func(raw []byte) []byte {
			modulus := raw[after(raw, `"HCLAkPub"`, `"n":"`):]
			modulus = modulus[:bytes.IndexByte(modulus, '"')]
			copy(modulus, flipped(string(modulus), base64.RawURLEncoding, 128))
			return raw
		})
	}},
	{"other report data in the HCL report", evidence.ErrHCLBinding, false, func(own, _ map[string]any) {
		own["hcl_report"] = edited(own["hcl_report"], base64.URLEncoding, func(raw []byte) []byte {
			digit := &raw[after(raw, `"user-data":"`)]
			*digit = map[bool]byte{true: '1', false: '0'}[*digit == '0']
			return raw
		})
	}},
}

// cheated has the KBS refuse each cheat, on the path on which control succeeds.
func cheated(ctx context.Context, k *suite.KBS, own, other guest, presented *string, control func(context.Context)) {
	GinkgoHelper()
	for _, c := range cheats[own.tee] {
		f := forged{Attester: own, change: c.change}
		if c.spliced {
			f.with = other
			if !bed.Simulated && isShared(ctx, own, other, c) {
				By(c.name + ": the same for both pods, which are on one processor")
				continue
			}
		}
		By(c.name)
		refusesEvidence(ctx, k, broken{f, []error{c.breaks}}, presented)
	}
	control(ctx)
	By("control: and so it does when nothing is changed on the way")
	attested(ctx, k, broken{forged{Attester: own, with: other, change: func(_, _ map[string]any) {}}, nil}, presented)
}

// isShared says whether two pods have in common what a cheat takes of the other.
func isShared(ctx context.Context, own, other guest, c cheat) bool {
	GinkgoHelper()
	shared := false
	_, err := forged{own, other, func(mine, theirs map[string]any) {
		before, err := json.Marshal(mine)
		Expect(err).NotTo(HaveOccurred())
		c.change(mine, theirs)
		now, err := json.Marshal(mine)
		Expect(err).NotTo(HaveOccurred())
		shared = bytes.Equal(before, now)
	}}.Evidence(ctx, []byte("a nonce of thirty-two bytes, yes"))
	Expect(err).NotTo(HaveOccurred())
	return shared
}

// replays has the KBS refuse evidence of an earlier handshake, and an answer to
// another challenge than its own.
func replays(ctx context.Context, k *suite.KBS, g guest, presented *string) {
	GinkgoHelper()
	recorded := &recorder{Attester: g}
	By("control: the first time it is taken")
	attested(ctx, k, recorded, presented)
	By("the second time it is refused")
	refusesEvidence(ctx, k, broken{replayed{g, recorded.last}, []error{evidence.ErrNonce, evidence.ErrReportData}}, presented)

	By("the nonce of an earlier session")
	first := session(k)
	_, err := first.Attest(ctx, g, presented)
	Expect(kbs.Classify(err)).To(HaveField("Kind", kbs.Released), "%v", err)
	for _, c := range []struct {
		name   string
		forged kbs.Forgery
		counts map[string]int
	}{
		// Trustee counts no error for it (kbs/src/attestation/backend.rs): what it says is all there is.
		{"stale nonce", kbs.Forgery{Nonce: first.Nonce()}, map[string]int{}},
		{"no session", kbs.Forgery{NoCookie: true}, map[string]int{suite.AttestationErrors: 1}},
	} {
		By(c.name)
		s := session(k)
		s.Forge(c.forged)
		counted := k.Count(ctx)
		_, err = s.Attest(ctx, g, presented)
		refused(err, kbs.TypeAttestationError)
		counted.Grew(ctx, c.counts)
	}
	By("another version of the protocol")
	for _, version := range []string{"0.3.0", "0.4.1", "1.0.0"} {
		s := session(k)
		s.Forge(kbs.Forgery{Version: version})
		counted := k.Count(ctx)
		_, err = s.Attest(ctx, g, presented)
		refused(err, kbs.TypeAttestationError)
		Expect(err).To(MatchError(ContainSubstring("KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is " + version)))
		counted.Grew(ctx, map[string]int{suite.AuthErrors: 1})
	}
}

// session is a new one with a key of its own.
func session(k *suite.KBS) *kbs.Session {
	GinkgoHelper()
	key, err := kbs.GenerateTEEKey(kbs.ECP256)
	Expect(err).NotTo(HaveOccurred())
	return k.NewSession(key)
}
