package release_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
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
	// spliced says that the change takes something of another pod's evidence.
	spliced bool
	change  func(own, other map[string]any)
}

func at(document map[string]any, name string) map[string]any { return document[name].(map[string]any) }

// flipped is base64 or hex text of bytes with one bit changed.
func flipped(text string, encoding *base64.Encoding, offset int) string {
	raw, err := encoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	raw[offset] ^= 1
	return encoding.EncodeToString(raw)
}

// anotherPCR8 replaces the register that init-data is bound to in a list of
// PCRs.
func anotherPCR8(quote map[string]any) {
	list := quote["pcrs"].([]any)
	list[8] = strings.Repeat("11", 32)
}

// cheats by kind of evidence.
var cheats = map[string][]cheat{
	evidence.KindTPM: {
		{"another value of PCR 8 in the list", false, func(own, _ map[string]any) { anotherPCR8(at(own, "tpm_quote")) }},
		{"a list without the last PCR", false, func(own, _ map[string]any) {
			quote := at(own, "tpm_quote")
			quote["pcrs"] = quote["pcrs"].([]any)[:23]
		}},
		{"another pod's attestation key", true, func(own, other map[string]any) { own["ak_public"] = other["ak_public"] }},
		{"another pod's quote under the own key", true, func(own, other map[string]any) { own["tpm_quote"] = other["tpm_quote"] }},
		{"another pod's signature", true, func(own, other map[string]any) {
			at(own, "tpm_quote")["signature"] = at(other, "tpm_quote")["signature"]
		}},
	},
	evidence.KindSNP: {
		{"another HOST_DATA in the report", false, func(own, _ map[string]any) {
			at(own, "attestation_report")["host_data"].([]any)[0] = json.Number("255")
		}},
		{"another VMPL in the report", false, func(own, _ map[string]any) { at(own, "attestation_report")["vmpl"] = json.Number("1") }},
		{"another pod's certificates", true, func(own, other map[string]any) { own["cert_chain"] = other["cert_chain"] }},
		{"another pod's signature", true, func(own, other map[string]any) {
			at(own, "attestation_report")["signature"] = at(other, "attestation_report")["signature"]
		}},
		{"no certificates", false, func(own, _ map[string]any) { own["cert_chain"] = []any{} }},
	},
	evidence.KindTDX: {
		{"another MRCONFIGID in the quote", false, func(own, _ map[string]any) {
			own["quote"] = flipped(own["quote"].(string), base64.StdEncoding, 48+184)
		}},
		{"another RTMR 3 in the quote", false, func(own, _ map[string]any) {
			own["quote"] = flipped(own["quote"].(string), base64.StdEncoding, 48+472)
		}},
		{"another attestation key in the quote", false, func(own, _ map[string]any) {
			own["quote"] = flipped(own["quote"].(string), base64.StdEncoding, 48+584+4+64)
		}},
		{"an event log that does not lead to the registers", false, func(own, _ map[string]any) {
			// The register of the first event after the header, whose size is in its last field before its data.
			raw, err := base64.StdEncoding.DecodeString(own["cc_eventlog"].(string))
			Expect(err).NotTo(HaveOccurred())
			own["cc_eventlog"] = flipped(own["cc_eventlog"].(string), base64.StdEncoding, 32+int(binary.LittleEndian.Uint32(raw[28:])))
		}},
	},
	evidence.KindAzSNPVTPM: append(azureCheats, cheat{"another pod's VCEK", true, func(own, other map[string]any) { own["vcek"] = other["vcek"] }}),
	evidence.KindAzTDXVTPM: append(azureCheats, cheat{"another pod's TD quote", true, func(own, other map[string]any) { own["td_quote"] = other["td_quote"] }}),
	evidence.KindSample: {
		{"other report data", false, func(own, _ map[string]any) { own["report_data"] = base64.StdEncoding.EncodeToString(make([]byte, 48)) }},
	},
}

var azureCheats = []cheat{
	{"another value of PCR 8 in the list", false, func(own, _ map[string]any) { anotherPCR8(at(own, "tpm_quote")) }},
	{"a list without the last PCR", false, func(own, _ map[string]any) {
		quote := at(own, "tpm_quote")
		quote["pcrs"] = quote["pcrs"].([]any)[:23]
	}},
	{"another pod's HCL report", true, func(own, other map[string]any) { own["hcl_report"] = other["hcl_report"] }},
	{"another pod's quote", true, func(own, other map[string]any) { own["tpm_quote"] = other["tpm_quote"] }},
	{"another key in the HCL report", false, func(own, _ map[string]any) {
		// Within the modulus of HCLAkPub, which begins the variable data.
		own["hcl_report"] = flipped(own["hcl_report"].(string), base64.URLEncoding, 32+1184+20+90)
	}},
}

// cheated has the KBS refuse each cheat, on the path on which control succeeds.
func cheated(ctx context.Context, k *suite.KBS, own, other guest, presented *string, control func(context.Context)) {
	GinkgoHelper()
	for _, c := range cheats[own.tee] {
		By(c.name)
		f := forged{Attester: own, change: c.change}
		if c.spliced {
			f.with = other
		}
		refusesEvidence(ctx, k, f, presented)
	}
	control(ctx)
	By("control: and so it does when nothing is changed on the way")
	attested(ctx, k, forged{Attester: own, with: other, change: func(_, _ map[string]any) {}}, presented)
}

// replays has the KBS refuse evidence of an earlier handshake, and an answer to
// another challenge than its own.
func replays(ctx context.Context, k *suite.KBS, g guest, presented *string) {
	GinkgoHelper()
	recorded := &recorder{Attester: g}
	By("control: the first time it is taken")
	attested(ctx, k, recorded, presented)
	By("the second time it is refused")
	refusesEvidence(ctx, k, replayed{g, recorded.last}, presented)

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
