package suite

import (
	"encoding/base64"
	"encoding/hex"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// Binding is how a kind of TEE binds a pod to its init-data: the same
// requirement on every platform, asserted on the register that it has.
type Binding struct {
	// TEE is the kind of evidence, in Trustee's words.
	TEE string
	// Name is the register's: PCR8, HOST_DATA or MRCONFIGID; "" where anybody can
	// write such evidence, and init-data is presented with it and bound to nothing.
	Name string
	// Proves is the requirement about that register, "" where there is none.
	Proves string
	// Register is the expected value for a digest of init-data, as Trustee's claim
	// init_data has it: arithmetic alone.
	Register func(digest []byte) string
}

// Unbound says that the kind binds init-data to nothing.
func (b Binding) Unbound() bool { return b.Name == "" }

// Bindings are those of all kinds of evidence.
var Bindings = []Binding{
	{evidence.KindTPM, "PCR8", "ATTEST-BINDING-001", pcr8},
	{evidence.KindAzSNPVTPM, "PCR8", "ATTEST-BINDING-001", pcr8},
	{evidence.KindAzTDXVTPM, "PCR8", "ATTEST-BINDING-001", pcr8},
	{evidence.KindSNP, "HOST_DATA", "ATTEST-BINDING-002", func(d []byte) string { return hex.EncodeToString(measure.HostData(d)) }},
	{evidence.KindTDX, "MRCONFIGID", "ATTEST-BINDING-003", func(d []byte) string { return hex.EncodeToString(measure.MRConfigID(d)) }},
	{evidence.KindSample, "", "", base64.StdEncoding.EncodeToString},
}

func pcr8(digest []byte) string {
	GinkgoHelper()
	value, err := measure.PCR8(digest)
	Expect(err).NotTo(HaveOccurred())
	return hex.EncodeToString(value)
}

// BindingOf finds the binding of a kind. It skips the spec where nobody knows
// which kind of evidence the platform gives.
func BindingOf(tee string) Binding {
	GinkgoHelper()
	for _, b := range Bindings {
		if b.TEE == tee {
			return b
		}
	}
	if tee == "" {
		Skip("nobody says which kind of evidence the pods give: RUNTIME_CLASS=NAME=KIND does")
	}
	Fail("no register is known that evidence of kind " + tee + " binds init-data to")
	return Binding{}
}

// Binding is that of the testbed's RuntimeClass. The report counts the spec for
// requirements about its kind of TEE only.
func (b *Bed) Binding() Binding {
	GinkgoHelper()
	binding := BindingOf(b.TEE)
	AddReportEntry(conformance.TEEEntry, b.TEE, ReportEntryVisibilityNever)
	return binding
}

// Trusted is what evidence of a pod of the testbed's RuntimeClass is verified
// under: vendors' roots, and test roots where the hardware is simulated. A
// TPM's quotes have to be of the pod's own TPM where the host side tells its
// key; elsewhere they have to be consistent.
func (b *Bed) Trusted(ns, podName string) evidence.Options {
	GinkgoHelper()
	var options evidence.Options
	var err error
	if b.Roots != "" {
		options.Roots, err = evidence.LoadRoots(b.Roots)
		Expect(err).NotTo(HaveOccurred())
	}
	if b.NodeLogs != "" && b.TEE == evidence.KindTPM {
		options.TrustedAKs, err = simulation.AttestationKeys(b.NodeLogs, ns, podName)
		Expect(err).NotTo(HaveOccurred())
	}
	return options
}
