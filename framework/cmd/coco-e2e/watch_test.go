package main

import (
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
)

// The form of GitHub's annotations is that of its documentation: properties with
// %3A and %2C, messages on one line.
func TestTellFailures(t *testing.T) {
	r := &report.Report{
		Requirements: []report.RequirementResult{
			{Requirement: conformance.Requirement{ID: "POD-EXEC-001"}, Specs: []report.Spec{
				{Text: "exec, whoami: 100%", Suite: "pod", Result: report.Failed, Location: "suites/pod/exec_test.go:12", Reason: "Expected\n    <int>: 1\nto equal\n    <int>: 2\n::stop-commands::x\nsuites/pod/exec_test.go:20"},
				{Text: "fine", Suite: "pod", Result: report.Passed, Location: "suites/pod/exec_test.go:30"},
				{Text: "skipped", Suite: "pod", Result: report.Skipped, Location: "suites/pod/exec_test.go:31", Reason: "no KBS"},
			}},
			{Requirement: conformance.Requirement{ID: "POD-EXEC-002"}, Specs: []report.Spec{
				{Text: "exec, whoami: 100%", Suite: "pod", Result: report.Failed, Location: "suites/pod/exec_test.go:12", Reason: "as above"},
			}},
		},
		SetUp: []report.Spec{{Text: "suite host", Suite: "host", Result: report.Failed, Location: "suites/host", Reason: "timed out"}},
	}
	const text = `
FAILED pod: exec, whoami: 100% POD-EXEC-001 POD-EXEC-002
  suites/pod/exec_test.go:12
    Expected
        <int>: 1
    to equal
        <int>: 2
     : :stop-commands::x
    suites/pod/exec_test.go:20
`
	const annotation = "::error file=suites/pod/exec_test.go,line=12,title=POD-EXEC-001 POD-EXEC-002::pod: exec, whoami: 100%25%0AExpected <int>: 1 to equal <int>: 2 ::stop-commands::x\n"
	const setUp = "\nFAILED host: suite host\n  suites/host\n    timed out\n"
	const setUpAnnotation = "::error file=suites/host,title=set-up::host: suite host%0Atimed out\n"
	for _, c := range []struct {
		github bool
		want   string
	}{{false, text + setUp}, {true, text + annotation + setUp + setUpAnnotation}} {
		var got strings.Builder
		tellFailures(&got, r, c.github)
		if got.String() != c.want {
			t.Errorf("got\n%s\nwant\n%s", got.String(), c.want)
		}
	}
	var many report.Report
	for i := range 12 {
		many.SetUp = append(many.SetUp, report.Spec{Text: string(rune('a' + i)), Result: report.Failed})
	}
	var got strings.Builder
	if tellFailures(&got, &many, true); strings.Count(got.String(), "::error ") != 10 || strings.Count(got.String(), "FAILED ") != 12 {
		t.Errorf("%s", got.String())
	}
}

func TestSummarized(t *testing.T) {
	if got := string(summarized([]byte("long\nSummarizing 1 Failure:\n  it\n"))); got != "Summarizing 1 Failure:\n  it\n" {
		t.Errorf("%q", got)
	}
	if got := summarized([]byte(strings.Repeat("x", 2*maxSummarized))); len(got) != maxSummarized {
		t.Errorf("%d bytes", len(got))
	}
}
