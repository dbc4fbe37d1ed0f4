package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

// Combine is the result of a requirement that applies to some TEE of the
// platform, and why it is not passed:
//
//   - a spec that failed fails it; else one that is inconclusive makes it so;
//   - specs about kinds of TEE that the platform does not have count for nothing;
//   - of what is left all must have passed: one that was skipped makes it skipped,
//     one that did not run not-run;
//   - when nothing is left it is not applicable, and not-run when there was no spec.
func Combine(specs []Spec) (Result, string) {
	if len(specs) == 0 {
		return NotRun, "no spec of it was part of the run"
	}
	for _, r := range []Result{Failed, Inconclusive, Skipped, NotRun} {
		for _, s := range specs {
			if s.Result == r {
				return r, s.Text + ": " + brief(s.Reason)
			}
		}
	}
	for _, s := range specs {
		if s.Result == Passed {
			return Passed, ""
		}
	}
	return NotApplicable, specs[0].Reason
}

// conclude fills in what follows from the requirements' results.
func (r *Report) conclude() {
	r.Profiles = profiles(r.Requirements, len(r.SetUp) > 0)
	r.ResultDigest = r.resultDigest()
}

// profiles is what the requirements come to. A set-up that failed keeps all from
// conforming.
func profiles(requirements []RequirementResult, setUpFailed bool) []ProfileResult {
	var out []ProfileResult
	for _, name := range conformance.Profiles {
		p := ProfileResult{Name: name, Statistics: map[conformance.Level]map[Result]int{conformance.Must: {}, conformance.Should: {}}}
		passed := 0
		for _, q := range requirements {
			if q.Profile != name {
				continue
			}
			p.Statistics[q.Level][q.Result]++
			switch {
			case q.Level != conformance.Must || q.Result == NotApplicable:
			case q.Result == Passed:
				passed++
			default:
				p.Open = append(p.Open, q.ID)
			}
		}
		p.Conforms = len(p.Open) == 0 && passed > 0 && !setUpFailed
		out = append(out, p)
	}
	return out
}

// Verdict is a profile's in words.
func (p ProfileResult) Verdict(claim Claim) string {
	switch {
	case p.Conforms && claim == Hardware:
		return "conforms"
	case p.Conforms:
		return "conforms, simulated"
	case p.untouched():
		return "not run"
	}
	return "does not conform"
}

// untouched says that nothing of a profile was asked.
func (p ProfileResult) untouched() bool {
	for result, n := range p.Counts() {
		if n > 0 && result != NotRun && result != NotApplicable {
			return false
		}
	}
	return true
}

// Counts are a profile's requirements by result, of both levels.
func (p ProfileResult) Counts() map[Result]int {
	sum := map[Result]int{}
	for _, byResult := range p.Statistics {
		for r, n := range byResult {
			sum[r] += n
		}
	}
	return sum
}

// resultDigest is over results alone.
func (r *Report) resultDigest() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n%v\n%s\n", r.Claim, r.Suite.Catalogue, r.Implementation.Name, r.Implementation.Simulated, r.Implementation.KBS)
	for _, c := range r.Implementation.Classes {
		fmt.Fprintf(h, "class %s %s %v", c.Name, c.TEE, c.EventLog)
		if c.Simulated {
			io.WriteString(h, " simulated")
		}
		fmt.Fprintln(h)
	}
	for _, q := range r.Requirements {
		fmt.Fprintf(h, "%s %s\n", q.ID, q.Result)
		for _, s := range q.Specs {
			fmt.Fprintf(h, "  %q %s\n", s.Text, s.Result)
		}
	}
	for _, s := range r.SetUp {
		fmt.Fprintf(h, "set-up %q %s\n", s.Text, s.Result)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Total counts specs by result, each once however many requirements it proves.
func (r *Report) Total() map[Result]int {
	seen, total := map[string]bool{}, map[Result]int{}
	for _, s := range r.AllSpecs() {
		if key := s.Suite + "\x00" + s.Text + "\x00" + s.Location; !seen[key] {
			seen[key] = true
			total[s.Result]++
		}
	}
	return total
}

// AllSpecs are the specs of all requirements, and what failed in set-up.
func (r *Report) AllSpecs() []Spec {
	var all []Spec
	for _, q := range r.Requirements {
		all = append(all, q.Specs...)
	}
	return append(all, r.SetUp...)
}

// TEEs are the kinds of evidence that the platform's pods give.
func (r *Report) TEEs() []string {
	var kinds []string
	for _, c := range r.Implementation.Classes {
		if c.TEE != "" && !slices.Contains(kinds, c.TEE) {
			kinds = append(kinds, c.TEE)
		}
	}
	return kinds
}
