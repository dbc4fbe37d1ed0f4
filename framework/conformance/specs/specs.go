// Package specs reads what Ginkgo reports of suites and says which specs prove
// which requirements of the catalogue.
//
// It must not know how suites are compiled and run, nor clusters.
package specs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

// Spec is one spec of a suite.
type Spec struct {
	// Suite is the name of its directory below suites/.
	Suite string `json:"suite"`
	// Text is its containers' texts and its own.
	Text string `json:"text"`
	// Requirements are the ids that it proves, in the order of its labels.
	Requirements []string `json:"-"`
}

// Suite is one suite below suites/.
type Suite struct {
	Name string
	// Checked says that the suite imports package proof, so that its tree does
	// not build with a spec that proves nothing.
	Checked bool
	Specs   []Spec
}

// Parse reads the specs of the suite called name from Ginkgo's JSON report of
// it, which may be that of a dry run. A pending spec proves nothing and is left out.
func Parse(name string, report []byte) ([]Spec, error) {
	var reports []types.Report
	if err := json.Unmarshal(report, &reports); err != nil {
		return nil, fmt.Errorf("report of suite %s: %w", name, err)
	}
	var found []Spec
	for _, r := range reports {
		if len(r.SpecialSuiteFailureReasons) > 0 {
			return nil, fmt.Errorf("suite %s: %s", name, strings.Join(r.SpecialSuiteFailureReasons, "; "))
		}
		for _, s := range r.SpecReports {
			if s.LeafNodeType.Is(types.NodeTypeIt) && !s.State.Is(types.SpecStatePending) {
				found = append(found, Spec{Suite: name, Text: s.FullText(), Requirements: Requirements(s)})
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("report of suite %s has no spec", name)
	}
	return found, nil
}

// Requirements are the ids that a spec proves, its own and its containers', each once.
func Requirements(s types.SpecReport) []string {
	var ids []string
	for _, label := range s.Labels() {
		if id, ok := strings.CutPrefix(label, conformance.LabelPrefix); ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Proofs are specs by the id of the requirement that they prove, ordered by suite and text.
type Proofs map[string][]Spec

// Prove gathers the proofs in suites.
func Prove(suites []Suite) Proofs {
	p := Proofs{}
	for _, suite := range suites {
		for _, s := range suite.Specs {
			for _, id := range s.Requirements {
				p[id] = append(p[id], s)
			}
		}
	}
	for _, found := range p {
		slices.SortFunc(found, func(a, b Spec) int {
			if d := strings.Compare(a.Suite, b.Suite); d != 0 {
				return d
			}
			return strings.Compare(a.Text, b.Text)
		})
	}
	return p
}

// Check says what is wrong between the catalogue and the suites, one line for
// each: requirements without a spec, specs without a requirement or with one
// that the catalogue does not know, and suites that do not import package proof.
func Check(c *conformance.Catalogue, suites []Suite) []string {
	var wrong []string
	proofs := Prove(suites)
	for _, r := range c.Requirements {
		if len(proofs[r.ID]) == 0 {
			wrong = append(wrong, fmt.Sprintf("requirement %s has no spec: add proof.Of(%q) to the spec that proves it", r.ID, r.ID))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(proofs)) {
		if _, ok := c.Find(id); !ok {
			s := proofs[id][0]
			wrong = append(wrong, fmt.Sprintf("suite %s: spec %q: no requirement is called %s: see manifests/conformance/requirements.yaml", s.Suite, s.Text, id))
		}
	}
	for _, suite := range suites {
		if !suite.Checked {
			wrong = append(wrong, fmt.Sprintf("suite %s does not import framework/conformance/proof: its specs are not checked when their tree is built", suite.Name))
		}
		for _, s := range suite.Specs {
			if len(s.Requirements) == 0 {
				wrong = append(wrong, fmt.Sprintf("suite %s: spec %q proves no requirement: add proof.Of(id)", s.Suite, s.Text))
			}
		}
	}
	return wrong
}
