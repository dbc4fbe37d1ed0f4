package bench

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/progress"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []time.Duration
		want time.Duration
	}{
		{nil, 0},
		{[]time.Duration{3}, 3},
		{[]time.Duration{5, 1, 3}, 3},
		{[]time.Duration{8, 2, 4, 6}, 5},
	} {
		if got := median(c.in); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.in, got, c.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100) // 100 down to 1
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	for _, c := range []struct {
		in   []time.Duration
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0},
		{[]time.Duration{3}, 0.5, 3},
		{[]time.Duration{3}, 0.99, 3},
		{[]time.Duration{9, 1}, 0.5, 1},
		{[]time.Duration{5, 1, 3}, 0.5, 3},
		{[]time.Duration{5, 1, 3}, 0.99, 5},
		{[]time.Duration{5, 1, 3}, 0, 1},
		{[]time.Duration{5, 1, 3}, 1, 5},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred[:99], 0.99, 100}, // of 2 to 100
	} {
		before := slices.Clone(c.in)
		if got := quantile(c.in, c.q); got != c.want {
			t.Errorf("quantile %v of %v: %v, want %v", c.q, c.in, got, c.want)
		}
		if !slices.Equal(before, c.in) {
			t.Errorf("%v became %v", before, c.in)
		}
	}
}

func TestTable(t *testing.T) {
	r := &Result{
		runc: &kind{name: "runc", ready: []time.Duration{400 * time.Millisecond}, exec: []time.Duration{50 * time.Millisecond}},
		cc:   &kind{name: "kata-cc", ready: []time.Duration{600 * time.Millisecond}, exec: []time.Duration{50 * time.Millisecond}},
	}
	var out bytes.Buffer
	runs := []Phases{
		{"this run", []progress.Phase{{Name: "node: start", Seconds: 0.1}, {Name: "down", Seconds: 1}, {Name: "down", Seconds: 2}}},
		{"last on kind", []progress.Phase{{Name: "kind: create", Seconds: 20}, {Name: "down", Seconds: 5}}},
	}
	if err := r.Write(&out, runs...); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"seconds this run last on kind", "node: start 0.1", "down 3.0 5.0", "kind: create 20.0"} {
		found := false
		for line := range strings.SplitSeq(out.String(), "\n") {
			found = found || strings.Join(strings.Fields(line), " ") == want
		}
		if !found {
			t.Errorf("no line %q in\n%s", want, out.String())
		}
	}
	lines := strings.Split(out.String(), "\n")
	if got := strings.Fields(lines[2]); strings.Join(got, " ") != "create to Ready 400 ms 600 ms 1.50" {
		t.Errorf("row %q", got)
	}
}

func TestField(t *testing.T) {
	if n, err := field("/proc/meminfo", "MemTotal:"); err != nil || n < 1<<20 {
		t.Errorf("MemTotal: %d, %v", n, err)
	}
	if _, err := field("/proc/meminfo", "NoSuchField:"); err == nil {
		t.Error("a field that is not there was read")
	}
}
