package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

func TestRequirements(t *testing.T) {
	c, err := conformance.Parse([]byte(`requirements:
  - {id: POLICY-A-001, level: MUST, profile: policy, text: It MUST | a., source: s}
  - {id: POLICY-A-002, level: SHOULD, profile: policy, text: It SHOULD b., source: s}
`))
	if err != nil {
		t.Fatal(err)
	}
	spec := func(text string, labels ...string) types.SpecReport {
		return types.SpecReport{LeafNodeText: text, LeafNodeType: types.NodeTypeIt, LeafNodeLabels: labels}
	}
	setUp := types.SpecReport{LeafNodeType: types.NodeTypeBeforeSuite}
	suites := []types.Report{{SuiteDescription: "x", SpecReports: types.SpecReports{spec("two", "requirement:POLICY-A-001"), spec("one", "requirement:POLICY-A-001"), setUp}}}
	list, orphans := proofs(c, suites)
	if len(list) != 2 || strings.Join(list[0].Specs, ";") != "x: one;x: two" || len(orphans) != 0 {
		t.Errorf("%+v %v", list, orphans)
	}
	var out bytes.Buffer
	if err := complete(&out, list, orphans); err == nil || !strings.Contains(err.Error(), "POLICY-A-002 has no spec") || strings.Contains(err.Error(), "POLICY-A-001") {
		t.Error(err)
	}
	suites[0].SpecReports = append(suites[0].SpecReports, spec("three", "requirement:POLICY-A-002"), spec("four"))
	list, orphans = proofs(c, suites)
	if err := complete(&out, list, orphans); err == nil || !strings.Contains(err.Error(), `spec "x: four" proves no requirement`) {
		t.Error(err)
	}
	if err := complete(&out, list, nil); err != nil || out.String() != "requirements: 2, each with a spec; 3 proofs\n" {
		t.Errorf("%v %q", err, out.String())
	}
	for format, want := range map[string]string{
		"markdown": `| POLICY-A-001 | MUST | policy | It MUST \| a. | s | x: one<br>x: two |`, "table": "POLICY-A-001  MUST    policy   2      It MUST | a.", "json": `"id": "POLICY-A-001"`,
	} {
		out.Reset()
		if err := writeRequirements(&out, list, format); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v: without %q:\n%s", format, err, want, out.String())
		}
	}
	if err := writeRequirements(&out, list, "xml"); err == nil {
		t.Error("another format is taken")
	}
}
