package live

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// took are figures that depend on how fast the machine is.
var took = regexp.MustCompile(`\b[0-9]+ s\b`)

func stateOf(lines ...string) *State {
	var s State
	for _, line := range lines {
		if e, ok := parse(line); ok {
			s.add(e)
		}
	}
	return &s
}

func TestState(t *testing.T) {
	s := stateOf("started\tpod\ta", "started\tpod\tb", "started\tpod\tc", "started\tpod\td", "passed\tpod\tb", "failed\tpod\ta", "nonsense", "passed\tx", "other\tpod\tx", "skipped\tpod\tnever begun")
	for _, c := range []struct {
		e    Expectation
		want string
	}{
		{Expectation{}, "3 specs, 1 failed, 7 s; 2 running: c | d"},
		{Expectation{Specs: 10, Seconds: 60}, "3/10 specs, 1 failed, 7 s of about 60; 2 running: c | d"},
		{Expectation{Specs: 2, Seconds: 5}, "3/3 specs, 1 failed, 7 s; 2 running: c | d"},
	} {
		if got := s.Text(7*time.Second, c.e); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if got, want := stateOf().Text(0, Expectation{}), "0 specs, 0 failed, 0 s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestBlock(t *testing.T) {
	s := stateOf("started\tpod\texec: whoami is allowed by the policy", "started\tpod\texec: ls is refused by the policy", "started\tpod\tshort")
	for _, c := range []struct {
		width, height int
		want          []string
	}{
		{80, 10, []string{"0/9 specs, 0 failed, 7 s of about 60, 3 running", "  exec: whoami is allowed by the policy", "  exec: ls is refused by the policy", "  short"}},
		{20, 10, []string{"0/9 sp…60, 3 running", "  exec…by the policy", "  exec…by the policy", "  short"}},
		{80, 3, []string{"0/9 specs, 0 failed, 7 s of about 60, 3 running", "  exec: whoami is allowed by the policy", "  and 2 more"}},
		{80, 1, []string{"0/9 specs, 0 failed, 7 s of about 60, 3 running"}},
	} {
		got := s.Block(7*time.Second, Expectation{Specs: 9, Seconds: 60}, c.width, c.height)
		for i := range got {
			if len([]rune(got[i])) > c.width {
				t.Errorf("%q has more than %d characters", got[i], c.width)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d×%d: %q, want %q", c.width, c.height, got, c.want)
		}
	}
}

func TestShortened(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"abcdefghij", 10, "abcdefghij"},
		{"abcdefghijk", 10, "abc…fghijk"},
		{"äöüäöüäöü", 4, "ä…öü"},
		{"abc", 2, "…c"},
		{"abc", 1, "…"},
		{"abc", 0, ""},
		{"abc", -3, ""},
	} {
		if got := shortened(c.in, c.most); got != c.want {
			t.Errorf("%q to %d: %q, want %q", c.in, c.most, got, c.want)
		}
	}
}

// told is a file with these lines, and a context that has ended: what is told of
// it is told once.
func told(t *testing.T, lines ...string) (context.Context, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "live")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx, file
}

var twoSuites = []string{
	"started\thost\thost a", "passed\thost\thost a", "started\thost\thost b", "failed\thost\thost b", "skipped\thost\thost c",
	"started\tpod\tpod a", "started\tpod\tpod b", "passed\tpod\tpod a",
}

func TestLines(t *testing.T) {
	for name, c := range map[string]struct {
		github bool
		want   []string
	}{
		"plain": {false, []string{
			"suite host …",
			"FAILED host: host b",
			"suite host: 1 passed, 1 failed, 1 skipped in N s",
			"suite pod …",
			"4/9 specs, 1 failed, N s of about 60; 1 running: pod b",
			"suite pod: 1 passed, 0 failed, 0 skipped in N s",
		}},
		"GitHub": {true, []string{
			"!::group::suite host",
			"passed host a",
			"FAILED host: host b",
			"!::endgroup::",
			"suite host: 1 passed, 1 failed, 1 skipped in N s",
			"!::group::suite pod",
			"passed pod a",
			"4/9 specs, 1 failed, N s of about 60; 1 running: pod b",
			"!::endgroup::",
			"suite pod: 1 passed, 0 failed, 0 skipped in N s",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, file := told(t, twoSuites...)
			var got []string
			p := Plain{Line: func(text string) { got = append(got, took.ReplaceAllString(text, "N s")) }}
			if c.github {
				p.Command = func(text string) { got = append(got, "!"+text) }
			}
			Lines(ctx, p, file, Expectation{Specs: 9, Seconds: 60})
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// While nothing new happens the state is told every so often, and not more often.
func TestLinesEvery(t *testing.T) {
	_, file := told(t, "started\tpod\ta")
	ctx, cancel := context.WithTimeout(t.Context(), 3*refresh)
	defer cancel()
	var got []string
	Lines(ctx, Plain{Line: func(text string) { got = append(got, text) }, Every: time.Hour}, file, Expectation{})
	if len(got) != 2 || got[0] != "suite pod …" || !strings.HasPrefix(got[1], "suite pod: 0 passed") {
		t.Errorf("%q", got)
	}
}

func TestShow(t *testing.T) {
	ctx, file := told(t, twoSuites...)
	var out bytes.Buffer
	Show(ctx, &out, file, Expectation{Specs: 9, Seconds: 60}, func() (int, int) { return 80, 24 })
	const want = "\r\x1b[JFAILED host: host b\n" + "\r\x1b[J4/9 specs, 1 failed, N s of about 60, 1 running\n  pod b" + "\x1b[1A\r\x1b[J"
	if got := took.ReplaceAllString(out.String(), "N s"); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestTell(t *testing.T) {
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
	var s State
	var last event
	read(file, 0, func(e event) { s.add(e); last = e })
	if s.Passed != 200 || s.Failed != 1 || len(s.Running) != 0 || last != (event{Failed, "live", "broken"}) {
		t.Errorf("%+v, %+v", s, last)
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
	f.Add("started\tpod\ta\npassed\tpod\ta\n")
	f.Fuzz(func(t *testing.T, text string) {
		s := stateOf(strings.Split(text, "\n")...)
		for _, line := range s.Block(time.Second, Expectation{}, 40, 5) {
			if len([]rune(line)) > 40 {
				t.Errorf("%q", line)
			}
		}
	})
}
