package main

import (
	"strings"
	"testing"
)

func TestSummarized(t *testing.T) {
	if got := string(summarized([]byte("long\nSummarizing 1 Failure:\n  it\n"))); got != "Summarizing 1 Failure:\n  it\n" {
		t.Errorf("%q", got)
	}
	if got := summarized([]byte(strings.Repeat("x", 2*maxSummarized))); len(got) != maxSummarized {
		t.Errorf("%d bytes", len(got))
	}
}
