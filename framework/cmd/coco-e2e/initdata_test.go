package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
)

// Digests by sha256sum and sha384sum; PCR8 by sha256sum of 32 zero bytes and the digest.
func TestInitDataCommand(t *testing.T) {
	for name, c := range map[string]struct {
		document string
		want     []string
		fails    string
	}{
		"sha256": {"version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n", []string{
			"digest (sha256): 5fbba2d190b4c600dc48b80802559460ecae499f76f079e9ad2ebd4e3c7eb65f\n",
			"PCR8: fd61c686b3fc6f87e7261bef285144d74d808bdfece9acb08a15e29d88216273\n",
			"size: 47 bytes, ", "262144 bytes of keys and values",
		}, ""},
		"sha384": {"version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n", []string{
			"digest (sha384): e2a3a5e0a842c539638ff1d392937c6d00b2ddfdf1d8a72b449e337ba4e7104a7b8788b61042c2c865a6017d8472bf2b\n",
			"PCR8: none: ",
		}, ""},
		"no data":       {"version = \"0.1.0\"\nalgorithm = \"sha256\"\n", nil, "missing field `data`"},
		"other version": {"version = \"1\"\nalgorithm = \"sha256\"\n[data]\n", nil, "unsupported version: 1, expected: 0.1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "initdata.toml")
			if err := os.WriteFile(path, []byte(c.document), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			command := initDataCommand()
			command.SetArgs([]string{path})
			command.SetOut(&out)
			command.SetErr(&out)
			err := command.Execute()
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || !strings.Contains(err.Error(), path) {
					t.Errorf("%v, want %s and the file's name", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, out.String())
				}
			}
			_, annotation, _ := strings.Cut(out.String(), "io.katacontainers.config.hypervisor.cc_init_data: ")
			if raw, err := initdata.DecodeAnnotation(strings.TrimSpace(annotation)); err != nil || string(raw) != c.document {
				t.Errorf("the annotation holds %q, %v", raw, err)
			}
		})
	}
}
