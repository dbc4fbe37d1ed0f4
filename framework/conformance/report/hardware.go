package report

import (
	"fmt"
	"slices"
)

// hardwareKinds are the kinds of evidence that a vendor's key in hardware signs. A
// TPM by itself is not among them: anybody's software can be one.
var hardwareKinds = []string{"snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm"}

// noHardware is why the report says nothing of hardware, each reason as it follows
// on "conformance"; none when it may claim it. It does not believe what a report
// says of itself where it can look at evidence.
func (r *Report) noHardware() []string {
	var why []string
	no := func(format string, a ...any) { why = append(why, fmt.Sprintf(format, a...)) }
	if r.Environment.Provider != "existing" {
		no("on a cluster of provider %q, whose TEE is always simulated", r.Environment.Provider)
	}
	if r.Implementation.Simulated {
		no("of a simulated TEE")
	}
	if r.Implementation.Roots != "vendor" {
		no("with evidence verified under roots %q: only vendors' roots are hardware's", r.Implementation.Roots)
	}
	if len(r.Implementation.Classes) == 0 {
		no("without any RuntimeClass")
	}
	if len(r.Environment.Nodes) == 0 {
		no("without any node")
	}
	for _, c := range r.Implementation.Classes {
		switch vendor, test := r.verified(c.TEE); {
		case c.Simulated:
			no("with RuntimeClass %s, which is simulated", c.Name)
		case c.TEE == "":
			no("with RuntimeClass %s, whose kind of evidence is not known", c.Name)
		case c.TEE == "sample":
			no("with RuntimeClass %s, whose evidence is a sample that anybody can write", c.Name)
		case !slices.Contains(hardwareKinds, c.TEE):
			no("with RuntimeClass %s, whose evidence of kind %s software can give", c.Name, c.TEE)
		case test:
			no("with RuntimeClass %s, whose evidence a test root vouched for", c.Name)
		case !vendor:
			no("with RuntimeClass %s, of whose kind %s no evidence was verified under its vendor's roots", c.Name, c.TEE)
		}
	}
	return why
}

// verified says under which roots evidence of a kind was verified in the run.
func (r *Report) verified(kind string) (vendor, test bool) {
	for _, s := range r.AllSpecs() {
		for _, t := range s.Evidence {
			if t.Kind == kind {
				vendor, test = vendor || t.Roots == "vendor", test || t.Roots == "test"
			}
		}
	}
	return vendor, test
}
