// Package proof ties Ginkgo specs to the requirements that they prove. In a
// suite that imports it the tree of specs does not build while a spec has no
// requirement, one that the catalogue does not know, or no timeout.
//
// It must not know clusters, nor what comes of a spec: package report says that.
package proof

import (
	"fmt"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

// Of is the decorator of a spec, a table's entry, or a container of specs, that
// prove the requirements with these ids:
//
//	It("refuses to run ls", proof.Of("POLICY-EXEC-001"), func(ctx SpecContext) { … }, NodeTimeout(time.Minute))
func Of(ids ...string) ginkgo.Labels {
	labels := make(ginkgo.Labels, 0, len(ids))
	for _, id := range ids {
		labels = append(labels, conformance.LabelPrefix+id)
	}
	return labels
}

// The tree is being built when package variables of a suite are initialised,
// which is after this package's.
func init() {
	catalogue, err := conformance.Load()
	if err != nil {
		panic(err)
	}
	c := &checker{find: func(id string) bool { _, ok := catalogue.Find(id); return ok }}
	ginkgo.AddTreeConstructionNodeArgsTransformer(c.check)
}

// checker looks at every node of the tree when it is added.
type checker struct {
	find func(id string) bool
	// inherited is, for each container around the node, whether it has a requirement.
	inherited []bool
}

func (c *checker) check(kind types.NodeType, offset ginkgo.Offset, text string, args []any) (string, []any, []error) {
	isSpec, isContainer := kind.Is(types.NodeTypeIt), kind.Is(types.NodeTypeContainer)
	if !isSpec && !isContainer {
		return text, args, nil
	}
	where := types.NewCodeLocation(int(offset))
	refuse := func(format string, a ...any) error {
		return types.GinkgoError{
			Heading: "A spec that the catalogue of requirements does not take", Message: fmt.Sprintf("%q: ", text) + fmt.Sprintf(format, a...),
			CodeLocation: where,
		}
	}
	var errs []error
	proves, timeout := false, false
	for _, arg := range args {
		switch a := arg.(type) {
		case ginkgo.Labels:
			for _, label := range a {
				id, ok := strings.CutPrefix(label, conformance.LabelPrefix)
				if !ok {
					continue
				}
				proves = true
				if !c.find(id) {
					errs = append(errs, refuse("no requirement is called %s: see manifests/conformance/requirements.yaml", id))
				}
			}
		case ginkgo.SpecTimeout, ginkgo.NodeTimeout:
			timeout = true
		}
	}
	if isContainer {
		return text, c.within(proves, args), errs
	}
	if !proves && !slices.Contains(c.inherited, true) {
		errs = append(errs, refuse("it proves no requirement: add proof.Of(id) to it, or to a container of it"))
	}
	if !timeout {
		errs = append(errs, refuse("it has no timeout: add SpecTimeout or NodeTimeout"))
	}
	return text, args, errs
}

// within has the specs that a container's body makes inherit its requirements.
func (c *checker) within(proves bool, args []any) []any {
	args = slices.Clone(args)
	for i, arg := range args {
		if body, ok := arg.(func()); ok {
			args[i] = func() {
				c.inherited = append(c.inherited, proves)
				defer func() { c.inherited = c.inherited[:len(c.inherited)-1] }()
				body()
			}
		}
	}
	return args
}
