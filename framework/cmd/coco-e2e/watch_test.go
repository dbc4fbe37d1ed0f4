package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
)

func TestAnnotate(t *testing.T) {
	bad := report.Spec{Suite: "a", Text: "is 100%, or: not", Location: "suites/a/a_test.go:7", Result: report.Failed, Reason: "first\nsecond, 50%"}
	r := &report.Report{Requirements: []report.RequirementResult{
		{Specs: []report.Spec{bad, {Suite: "a", Text: "fine", Result: report.Passed}}}, {Specs: []report.Spec{bad}},
	}}
	var out bytes.Buffer
	annotate(&out, r)
	if want := "::error file=suites/a/a_test.go,line=7,title=is 100%25%2C or%3A not::first%0Asecond, 50%25\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
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
