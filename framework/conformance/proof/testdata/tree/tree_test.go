// Package tree_test is a suite of one spec, which the variable SPEC chooses.
package tree_test

import (
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

func TestTree(t *testing.T) { RunSpecs(t, "tree") }

var _ = Describe("a spec", func() {
	body := func(SpecContext) {}
	switch os.Getenv("SPEC") {
	case "whole":
		It("is whole", proof.Of("POLICY-EXEC-001"), SpecTimeout(time.Minute), body)
	case "unproven":
		It("proves nothing", SpecTimeout(time.Minute), body)
	case "unknown":
		It("proves what nobody asks for", proof.Of("POLICY-EXEC-999"), SpecTimeout(time.Minute), body)
	case "endless":
		It("has no timeout", proof.Of("POLICY-EXEC-001"), body)
	}
})
