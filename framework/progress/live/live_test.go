package live

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestState(t *testing.T) {
	var s State
	for _, line := range []string{"started\ta", "started\tb", "started\tc", "passed\tb", "failed\ta", "nonsense", "other\tx", "skipped\tnever begun"} {
		s.Line(line)
	}
	for _, c := range []struct {
		e     Expectation
		width int
		want  string
	}{
		{Expectation{}, 200, "3 specs, 1 failed, 7 s; 1 running: c"},
		{Expectation{Specs: 10, Seconds: 60}, 200, "3/10 specs, 1 failed, 7 s of about 60; 1 running: c"},
		{Expectation{Specs: 2, Seconds: 5}, 200, "3/3 specs, 1 failed, 7 s; 1 running: c"},
		{Expectation{}, 12, "3 specs, 1 …"},
	} {
		if got := s.Text(7*time.Second, c.e, c.width); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestTellAndShow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "live")
	t.Setenv(Variable, file)
	var tellers sync.WaitGroup
	for range 4 {
		tellers.Go(func() {
			for range 50 {
				Tell(Started, "a spec\twith a tab")
				Tell(Passed, "a spec\twith a tab")
			}
		})
	}
	tellers.Wait()
	Tell(Failed, "broken")
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	cancel()
	Show(ctx, &out, file, Expectation{}, func() int { return 80 })
	if got := out.String(); !strings.Contains(got, "FAILED broken\n") || !strings.Contains(got, "201 specs, 1 failed") || strings.Contains(got, "running") {
		t.Errorf("%q", got)
	}
	t.Setenv(Variable, "")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	Tell(Passed, "nobody watches")
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Error("told to nobody")
	}
}

func FuzzLine(f *testing.F) {
	f.Add("started\ta\npassed\ta\n")
	f.Fuzz(func(t *testing.T, text string) {
		var s State
		for line := range strings.SplitSeq(text, "\n") {
			s.Line(line)
		}
		if got := s.Text(time.Second, Expectation{}, 40); len([]rune(got)) > 40 {
			t.Errorf("%q", got)
		}
	})
}
