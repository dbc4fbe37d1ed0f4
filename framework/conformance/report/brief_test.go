package report

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
)

// gomegaSays is the text of a failure as Gomega makes it.
func gomegaSays(t *testing.T, assert func(g gomega.Gomega)) string {
	t.Helper()
	var text string
	assert(gomega.NewGomega(func(message string, _ ...int) { text = message }))
	if text == "" {
		t.Fatal("the assertion held")
	}
	return text
}

func TestBrief(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, c := range map[string]struct {
		assert func(g gomega.Gomega)
		want   string
	}{
		"equal": {
			func(g gomega.Gomega) { g.Expect("foo").To(gomega.Equal("bar")) },
			"Expected <string>: foo to equal <string>: bar",
		},
		"described": {
			func(g gomega.Gomega) { g.Expect(137).To(gomega.Equal(1), "exit code of %s", "ls") },
			"exit code of ls Expected <int>: 137 to equal <int>: 1",
		},
		"field": {
			func(g gomega.Gomega) { g.Expect(struct{ A string }{"x"}).To(gomega.HaveField("A", "y")) },
			"Value for field 'A' failed to satisfy matcher. Expected <string>: x to equal <string>: y",
		},
		"error": {
			func(g gomega.Gomega) { g.Expect(errors.New("boom")).NotTo(gomega.HaveOccurred()) },
			"Unexpected error: <*errors.errorString>: boom occurred",
		},
		"several lines": {
			func(g gomega.Gomega) { g.Expect("one\ntwo").To(gomega.ContainSubstring("z")) },
			"Expected <string>: one two to contain substring <string>: z",
		},
		"element": {
			func(g gomega.Gomega) { g.Expect([]string{"a", "b"}).To(gomega.ContainElement("c")) },
			`Expected <[]string | len:2, cap:2>: ["a", "b"] to contain element matching <string>: c`,
		},
		"boolean": {
			func(g gomega.Gomega) { g.Expect(true).To(gomega.BeFalse()) },
			"Expected <bool>: true to be false",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := brief(gomegaSays(t, c.assert) + "\nsuites/pod/pod_test.go:7"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	got := brief(gomegaSays(t, func(g gomega.Gomega) { g.Expect(long).To(gomega.ContainSubstring("the denial")) }))
	if !strings.HasSuffix(got, "… to contain substring <string>: the denial") || len([]rune(got)) > 300 {
		t.Errorf("what was expected is lost beside a long value: %s", got)
	}
	got = brief(gomegaSays(t, func(g gomega.Gomega) {
		g.Eventually(func(g gomega.Gomega) { g.Expect(1).To(gomega.Equal(2)) }).WithTimeout(10 * time.Millisecond).Should(gomega.Succeed())
	}))
	if !strings.HasSuffix(got, "with: Expected <int>: 1 to equal <int>: 2") || !strings.Contains(got, "failed at framework/conformance/report/brief_test.go:") {
		t.Errorf("of an Eventually: %s", got)
	}
}

func TestBriefOfOther(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"one line":                 "one line",
		"the node did not come up": "the node did not come up",
		"pod a/b is not Ready\nevents:\n  FailedCreatePodSandBox: no":                              "pod a/b is not Ready events: FailedCreatePodSandBox: no",
		"\n\n  \nExpected\n    <int>: 1\nto equal\n    <int>: 2\n/home/x/suites/pod/pod_test.go:9": "Expected <int>: 1 to equal <int>: 2",
		strings.Repeat("é", 400): strings.Repeat("é", 299) + "…",
	} {
		if got := brief(in); got != want {
			t.Errorf("%q:\ngot  %q\nwant %q", in, got, want)
		}
	}
}

// The reason of a requirement and JUnit's message say what was expected.
func TestReasonSaysWhatWasExpected(t *testing.T) {
	in := input(allPassed()...)
	in.Ginkgo[0].SpecReports[0].State = types.SpecStateFailed
	in.Ginkgo[0].SpecReports[0].Failure.Message = gomegaSays(t, func(g gomega.Gomega) { g.Expect("allowed").To(gomega.Equal("denied")) })
	r := Build(catalogue(t), in)
	if got, want := find(t, r, "POLICY-EXEC-001").Reason, "group refuses: Expected <string>: allowed to equal <string>: denied"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var junit, diff strings.Builder
	if err := r.JUnit(&junit); err != nil || !strings.Contains(junit.String(), `message="Expected &lt;string&gt;: allowed to equal &lt;string&gt;: denied"`) {
		t.Errorf("%v\n%s", err, junit.String())
	}
	if err := Compare(Build(catalogue(t), input(allPassed()...)), r).Text(&diff); err != nil || !strings.Contains(diff.String(), "allowed to equal <string>: denied") {
		t.Errorf("%v\n%s", err, diff.String())
	}
}
