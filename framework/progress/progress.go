// Package progress shows long work to the person who waits for it: one line
// when a step starts, one now and then while it goes on, one when it ends,
// each with the elapsed time. It also keeps how long each step took, for
// benchmarks. It must not know what the steps are.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// heartbeat is how often a step that goes on says so.
const heartbeat = 20 * time.Second

// Phase is a finished step.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Log prints steps to W and remembers them. The zero value prints nowhere.
// It is safe for concurrent use.
type Log struct {
	W io.Writer

	mu     sync.Mutex
	start  time.Time
	phases []Phase
}

// New returns a Log that prints to w, with its clock started.
func New(w io.Writer) *Log { return &Log{W: w, start: time.Now()} }

// Printf prints one line with the time since the log began.
func (l *Log) Printf(format string, args ...any) {
	if l == nil || l.W == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.start.IsZero() {
		l.start = time.Now()
	}
	fmt.Fprintf(l.W, "[%6.1fs] %s\n", time.Since(l.start).Seconds(), fmt.Sprintf(format, args...))
}

// Quietly is Do for a step that shows by itself how it goes on.
func (l *Log) Quietly(name string, f func() error) error {
	begin := time.Now()
	err := f()
	return l.end(name, time.Since(begin), err)
}

// Do runs f as the step name and returns f's error. Steps shorter than a
// second print one line only.
func (l *Log) Do(name string, f func() error) error {
	begin := time.Now()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		announced := false
		t := time.NewTimer(time.Second)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				if announced {
					l.Printf("%s … %.0f s so far", name, time.Since(begin).Seconds())
				} else {
					l.Printf("%s …", name)
					announced = true
				}
				t.Reset(heartbeat)
			}
		}
	}()
	err := f()
	close(stop)
	<-done
	return l.end(name, time.Since(begin), err)
}

// end tells of a finished step and remembers it.
func (l *Log) end(name string, took time.Duration, err error) error {
	if err != nil {
		l.Printf("%s: FAILED after %.1f s", name, took.Seconds())
		return err
	}
	l.Printf("%s: %.1f s", name, took.Seconds())
	if l != nil {
		l.mu.Lock()
		l.phases = append(l.phases, Phase{Name: name, Seconds: took.Seconds()})
		l.mu.Unlock()
	}
	return nil
}

// Phases returns the steps that ended well, in the order in which they ended.
func (l *Log) Phases() []Phase {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Phase(nil), l.phases...)
}
