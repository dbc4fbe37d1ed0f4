package progress

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestDo(t *testing.T) {
	var out bytes.Buffer
	l := New(&out)
	if err := l.Do("good", func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := l.Do("bad", func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Do returned %v", err)
	}
	if p := l.Phases(); len(p) != 1 || p[0].Name != "good" {
		t.Errorf("phases %v: only steps that ended well are phases", p)
	}
	if s := out.String(); !strings.Contains(s, "good: 0.0 s") || !strings.Contains(s, "bad: FAILED after 0.0 s") {
		t.Errorf("printed:\n%s", s)
	}
}

func TestNilLogIsSilent(t *testing.T) {
	var l *Log
	if err := l.Do("x", func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	l.Printf("nothing")
}
