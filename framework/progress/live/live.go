// Package live shows on a terminal how a run of specs goes on: how many have
// ended, which are running, how long it takes and may take. The processes of the
// run append lines to a file; this package reads it.
//
// It must not know what specs are about, nor how they are run.
package live

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
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
	_, _ = fmt.Fprintf(f, "%s\t%s\n", what, strings.NewReplacer("\n", " ", "\t", " ").Replace(spec))
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
	// Broken are the specs that failed, in order.
	Broken []string
}

// Line takes in a line of the file. What is none is passed over.
func (s *State) Line(line string) {
	what, spec, ok := strings.Cut(line, "\t")
	if !ok {
		return
	}
	if what == Started {
		s.Running = append(s.Running, spec)
		return
	}
	switch what {
	case Passed:
		s.Passed++
	case Failed:
		s.Failed++
		s.Broken = append(s.Broken, spec)
	case Skipped:
		s.Skipped++
	default:
		return
	}
	if i := slices.Index(s.Running, spec); i >= 0 {
		s.Running = slices.Delete(s.Running, i, i+1)
	}
}

// Text is the state on one line of at most width characters.
func (s *State) Text(elapsed time.Duration, e Expectation, width int) string {
	done := s.Passed + s.Failed + s.Skipped
	text := fmt.Sprintf("%d", done)
	if e.Specs > 0 {
		text += fmt.Sprintf("/%d", max(e.Specs, done))
	}
	text += fmt.Sprintf(" specs, %d failed, %.0f s", s.Failed, elapsed.Seconds())
	if e.Seconds > elapsed.Seconds() {
		text += fmt.Sprintf(" of about %.0f", e.Seconds)
	}
	if len(s.Running) > 0 {
		text += fmt.Sprintf("; %d running: %s", len(s.Running), s.Running[0])
	}
	if runes := []rune(text); len(runes) > width && width > 1 {
		text = string(runes[:width-1]) + "…"
	}
	return text
}

// refresh is how often the line is drawn anew.
const refresh = 500 * time.Millisecond

// Show draws the state until ctx ends, and a line of its own for each spec that
// fails. width asks the terminal.
func Show(ctx context.Context, out io.Writer, file string, e Expectation, width func() int) {
	begin := time.Now()
	var s State
	var at int64
	told := 0
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	for {
		at = s.read(file, at)
		for ; told < len(s.Broken); told++ {
			fmt.Fprintf(out, "\r\x1b[KFAILED %s\n", s.Broken[told])
		}
		fmt.Fprintf(out, "\r\x1b[K%s", s.Text(time.Since(begin), e, width()))
		select {
		case <-ctx.Done():
			fmt.Fprint(out, "\r\x1b[K")
			return
		case <-ticker.C:
		}
	}
}

// read takes in the whole lines of the file from an offset on, and returns where
// the next begins.
func (s *State) read(file string, at int64) int64 {
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
		s.Line(strings.TrimSuffix(line, "\n"))
	}
}
