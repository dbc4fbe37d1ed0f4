package pod

import (
	"fmt"

	"github.com/onsi/gomega/gcustom"
	"github.com/onsi/gomega/types"
)

// InconclusiveMark stands in the text of every failure that proves nothing
// either way, so that reports can count such failures apart.
const InconclusiveMark = "INCONCLUSIVE"

// BeRefusedBy matches a Denial in which the agent's policy refused endpoint.
// Anything else fails; a failure for another reason than the policy says that
// it is inconclusive.
func BeRefusedBy(endpoint string) types.GomegaMatcher {
	return gcustom.MakeMatcher(func(d Denial) (bool, error) {
		if d.Outcome == Inconclusive {
			return false, fmt.Errorf("%s: expected a refusal of %s by the agent's policy, and got a failure that says nothing of the policy: %s", InconclusiveMark, endpoint, d.Text)
		}
		return d.Outcome == Refused && d.Endpoint == endpoint, nil
	}).WithTemplate("Expected {{.To}} be refused by the agent's policy at {{.Data}}, but it was {{.Actual.Outcome}} {{.Actual.Endpoint}}:\n{{.Actual.Text}}", endpoint)
}

// BeAllowed matches a Denial that is none: the request was carried out.
func BeAllowed() types.GomegaMatcher {
	return gcustom.MakeMatcher(func(d Denial) (bool, error) {
		if d.Outcome == Inconclusive {
			return false, fmt.Errorf("%s: expected the request to be carried out, and it failed for a reason that is not the policy: %s", InconclusiveMark, d.Text)
		}
		return d.Outcome == Allowed, nil
	}).WithTemplate("Expected the request {{.To}} be carried out, but it was {{.Actual.Outcome}} {{.Actual.Endpoint}}:\n{{.Actual.Text}}")
}
