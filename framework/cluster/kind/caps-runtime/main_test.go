package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestDocuments(t *testing.T) {
	for name, tc := range map[string]struct {
		args            []string
		bundle, process string
	}{
		"create as containerd calls it": {
			[]string{"--root", "/r", "--log", "/l", "create", "--bundle", "/b", "--pid-file", "/p", "id"}, "/b/config.json", "",
		},
		"joined":            {[]string{"run", "--bundle=/b", "id"}, "/b/config.json", ""},
		"the working one":   {[]string{"create", "id"}, "config.json", ""},
		"exec":              {[]string{"--root", "/r", "exec", "--process", "/tmp/p.json", "--detach", "id"}, "", "/tmp/p.json"},
		"exec, short":       {[]string{"exec", "-p", "/tmp/p.json", "id"}, "", "/tmp/p.json"},
		"nothing to change": {[]string{"kill", "--all", "id", "9"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if bundle, process := documents(tc.args); bundle != tc.bundle || process != tc.process {
				t.Errorf("bundle %q, process %q; want %q, %q", bundle, process, tc.bundle, tc.process)
			}
		})
	}
}

func TestRewrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	text := `{"ociVersion":"1.0.2","process":{"args":["a"],"oomScoreAdj":-999,"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"ambient":[]}}}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	process := func(d map[string]any) map[string]any { p, _ := d["process"].(map[string]any); return p }
	if err := rewrite(file, process, []string{"CAP_CHOWN"}, 5); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{"ociVersion":"1.0.2","process":{"args":["a"],"oomScoreAdj":5,"capabilities":{"bounding":["CAP_CHOWN"],"ambient":[]}}}`), &want); err != nil {
		t.Fatal(err)
	}
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}
