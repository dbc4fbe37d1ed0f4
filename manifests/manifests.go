// Package manifests holds the YAML, TOML, Rego and shell files that people
// read and edit, embedded for the code that needs them. It knows nothing of
// what they mean: whoever reads a file fills in its template and parses it.
package manifests

import (
	"bytes"
	"embed"
	"fmt"
	"text/template"
)

// FS holds every file of this directory under its path.
//
//go:embed conformance existing kind node simulator kbs walkthrough
var FS embed.FS

// Read returns the file at path, for example "node/kubeadm.yaml". A path that
// does not exist is a mistake in the caller and panics.
func Read(path string) []byte {
	b, err := FS.ReadFile(path)
	if err != nil {
		panic(fmt.Sprintf("manifests: %v", err))
	}
	return b
}

// Fill renders the file at path as a text/template with data. A field that the
// template names and data lacks is an error that names both.
func Fill(path string, data any) ([]byte, error) {
	t, err := template.New(path).Option("missingkey=error").Parse(string(Read(path)))
	if err != nil {
		return nil, fmt.Errorf("manifests/%s: %w", path, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("manifests/%s: %w", path, err)
	}
	return b.Bytes(), nil
}
