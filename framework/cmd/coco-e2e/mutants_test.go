package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/conformance/mutants"
)

func TestChooseMutants(t *testing.T) {
	all := []mutants.Mutant{{Name: "a", Suites: []string{"agent", "pod"}}, {Name: "b", Suites: []string{"agent"}}, {Name: "c", Suites: []string{"pod"}}}
	for name, c := range map[string]struct {
		only       []string
		noClusters bool
		want       string // names, or what the error says
	}{
		"all": {nil, false, "b a c"}, "some": {[]string{"c", "a"}, false, "a c"}, "no cluster": {nil, true, "b"},
		"unknown": {[]string{"x"}, false, `no mutant is called "x"`}, "none left": {[]string{"a"}, true, "no mutant is left"},
	} {
		t.Run(name, func(t *testing.T) {
			chosen, err := chooseMutants(all, c.only, c.noClusters)
			var names []string
			for _, m := range chosen {
				names = append(names, m.Name)
			}
			got := strings.Join(names, " ")
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.want) || err == nil && got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestPrintMutants(t *testing.T) {
	right := judged{mutants.Mutant{Name: "a", Breaks: "All."}, []string{"1", "2", "3", "4", "5", "6", "7"}, nil, 90 * time.Second}
	var out bytes.Buffer
	err := printMutants(&out, []judged{right})
	if want := "a       All.            1 2 3 4 5 and 2 more      as expected  90\n"; err != nil || !strings.HasSuffix(out.String(), want) {
		t.Errorf("%v\n%q, want …%q", err, out.String(), want)
	}
	wrong := judged{mutants.Mutant{Name: "b"}, nil, errors.New("survived: X-X-001"), time.Second}
	err = printMutants(&out, []judged{right, wrong})
	if !errors.Is(err, errMutants) || !strings.Contains(err.Error(), "mutant b: survived: X-X-001") || !strings.Contains(out.String(), "WRONG") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// What two caches share is one: clusters, and what takes long to make.
func TestShareCache(t *testing.T) {
	cache := t.TempDir()
	own := filepath.Join(cache, "own")
	for range 2 {
		if err := shareCache(cache, own); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(own, "clusters", "x"), []byte("here"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(cache, "clusters", "x")); err != nil || string(got) != "here" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(own, "simulation", "debs")); err != nil {
		t.Error(err)
	}
}
