// Package live shows how a run of specs goes on: how many have ended, which are
// running, how long it takes and may take; on a terminal in lines that are drawn
// anew, elsewhere in lines that stay. The processes of the run append lines to a
// file; this package reads it.
//
// It must not know what specs are about, nor how they are run.
package live

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Variable names the environment variable with the file. Without it nobody watches.
const Variable = "COCO_E2E_LIVE"

// What a line of the file says of a spec.
const (
	Started = "started"
	Passed  = "passed"
	Failed  = "failed"
	Skipped = "skipped"
)

// Tell appends what happened to a spec to the file, if somebody watches. Lines of
// several processes do not mix: each is one write to a file opened for appending.
// The suite is the one that this process is the program of.
func Tell(what, spec string) {
	file := os.Getenv(Variable)
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return // nobody to tell
	}
	defer f.Close()
	suite := strings.TrimSuffix(filepath.Base(os.Args[0]), ".test")
	_, _ = fmt.Fprintf(f, "%s\t%s\t%s\n", what, suite, strings.NewReplacer("\n", " ", "\t", " ").Replace(spec))
}

// event is a line of the file.
type event struct{ what, suite, spec string }

// parse reads a line. What is none says nothing.
func parse(line string) (event, bool) {
	parts := strings.Split(line, "\t")
	if len(parts) != 3 {
		return event{}, false
	}
	switch parts[0] {
	case Started, Passed, Failed, Skipped:
		return event{parts[0], parts[1], parts[2]}, true
	}
	return event{}, false
}

// Expectation is what an earlier run took: nothing when there was none.
type Expectation struct {
	Specs   int     `json:"specs"`
	Seconds float64 `json:"seconds"`
}

// State is how far a run is.
type State struct {
	Passed, Failed, Skipped int
	// Running are the specs that have begun and not ended, the oldest first.
	Running []string
}

// add takes in an event.
func (s *State) add(e event) {
	switch e.what {
	case Started:
		s.Running = append(s.Running, e.spec)
		return
	case Passed:
		s.Passed++
	case Failed:
		s.Failed++
	case Skipped:
		s.Skipped++
	}
	if i := slices.Index(s.Running, e.spec); i >= 0 {
		s.Running = slices.Delete(s.Running, i, i+1)
	}
}

// counts are how many have ended, and how long it takes and may take.
func (s *State) counts(elapsed time.Duration, e Expectation) string {
	done := s.Passed + s.Failed + s.Skipped
	text := fmt.Sprintf("%d", done)
	if e.Specs > 0 {
		text += fmt.Sprintf("/%d", max(e.Specs, done))
	}
	text += fmt.Sprintf(" specs, %d failed, %.0f s", s.Failed, elapsed.Seconds())
	if e.Seconds > elapsed.Seconds() {
		text += fmt.Sprintf(" of about %.0f", e.Seconds)
	}
	return text
}

// plainSpec is as much of a running spec's text as a plain line has.
const plainSpec = 60

// Text is the state on one line, with every running spec shortened.
func (s *State) Text(elapsed time.Duration, e Expectation) string {
	text := s.counts(elapsed, e)
	if len(s.Running) > 0 {
		var running []string
		for _, spec := range s.Running {
			running = append(running, shortened(spec, plainSpec))
		}
		text += fmt.Sprintf("; %d running: %s", len(running), strings.Join(running, " | "))
	}
	return text
}

// Block is the state in lines of at most width characters: the counts, and below
// them a line for each running spec. Of more than height lines the last says how
// many there are.
func (s *State) Block(elapsed time.Duration, e Expectation, width, height int) []string {
	lines := []string{shortened(s.counts(elapsed, e)+fmt.Sprintf(", %d running", len(s.Running)), width)}
	room := max(height-1, 0)
	for i, spec := range s.Running {
		if more := len(s.Running) - i; i == room-1 && more > 1 {
			return append(lines, shortened(fmt.Sprintf("  and %d more", more), width))
		} else if i >= room {
			break
		}
		lines = append(lines, shortened("  "+spec, width))
	}
	return lines
}

// shortened is a text of at most so many characters: of a long one the begin,
// which says what it is about, and more of the end, which tells specs apart.
func shortened(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	if most < 2 {
		return strings.Repeat("…", max(most, 0))
	}
	front := (most - 1) / 3
	return string(runes[:front]) + "…" + string(runes[len(runes)-(most-1-front):])
}

// refresh is how often the file is looked into.
const refresh = 500 * time.Millisecond

// follow calls each with the events of the file in order, and tick after each look
// into it, until ctx ends; then once more, for what was told at the end.
func follow(ctx context.Context, file string, each func(event), tick func()) {
	var at int64
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	for last := false; !last; {
		select {
		case <-ctx.Done():
			last = true
		case <-ticker.C:
		}
		at = read(file, at, each)
		tick()
	}
}

// read calls each with the whole lines of the file from an offset on, and returns
// where the next begins.
func read(file string, at int64, each func(event)) int64 {
	f, err := os.Open(file)
	if err != nil {
		return at
	}
	defer f.Close()
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return at
	}
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return at // half a line is read again
		}
		at += int64(len(line))
		if e, ok := parse(strings.TrimSuffix(line, "\n")); ok {
			each(e)
		}
	}
}

// maxBlock is how many lines are drawn at most.
const maxBlock = 10

// Show draws the state anew until ctx ends, with a line for each running spec, and
// leaves a line for each spec that fails. size asks the terminal for its columns
// and rows.
func Show(ctx context.Context, out io.Writer, file string, e Expectation, size func() (width, height int)) {
	begin := time.Now()
	var s State
	drawn := 0
	erase := func() {
		if drawn > 1 {
			fmt.Fprintf(out, "\x1b[%dA", drawn-1)
		}
		fmt.Fprint(out, "\r\x1b[J")
		drawn = 0
	}
	follow(ctx, file, func(ev event) {
		s.add(ev)
		if ev.what == Failed {
			erase()
			fmt.Fprintf(out, "FAILED %s: %s\n", ev.suite, ev.spec)
		}
	}, func() {
		erase()
		width, height := size()
		lines := s.Block(time.Since(begin), e, width-1, min(maxBlock, height-1))
		fmt.Fprint(out, strings.Join(lines, "\n"))
		drawn = len(lines)
	})
	erase()
}

// Plain is where lines go that stay.
type Plain struct {
	// Line prints one.
	Line func(text string)
	// Command prints one that a CI system acts on: GitHub's ::group:: and
	// ::endgroup::. nil where there is none that does.
	Command func(text string)
	// Every is how often the state is told while specs run.
	Every time.Duration
}

// Lines tells how the run goes on until ctx ends: when a suite begins and ends,
// each spec that fails, and now and then the state. On GitHub each suite is a
// group, which also has a line for each spec that passes.
func Lines(ctx context.Context, p Plain, file string, e Expectation) {
	begin := time.Now()
	var all State
	told := begin
	var suite string
	var of State // the suite's
	var since time.Time
	end := func() {
		if suite == "" {
			return
		}
		if p.Command != nil {
			p.Command("::endgroup::")
		}
		p.Line(fmt.Sprintf("suite %s: %d passed, %d failed, %d skipped in %.0f s", suite, of.Passed, of.Failed, of.Skipped, time.Since(since).Seconds()))
	}
	follow(ctx, file, func(ev event) {
		if ev.suite != suite {
			end()
			suite, of, since = ev.suite, State{}, time.Now()
			if p.Command != nil {
				p.Command("::group::suite " + suite)
			} else {
				p.Line("suite " + suite + " …")
			}
		}
		all.add(ev)
		of.add(ev)
		switch {
		case ev.what == Failed:
			p.Line("FAILED " + suite + ": " + ev.spec)
		case ev.what == Passed && p.Command != nil:
			p.Line("passed " + ev.spec)
		}
	}, func() {
		if time.Since(told) >= p.Every && len(all.Running) > 0 {
			p.Line(all.Text(time.Since(begin), e))
			told = time.Now()
		}
	})
	end()
}
