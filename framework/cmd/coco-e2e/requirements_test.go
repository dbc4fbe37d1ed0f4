package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/specs"
)

func runRequirements(t *testing.T, args ...string) (out, notes string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	command := requirementsCommand()
	command.SilenceUsage, command.SilenceErrors = true, true
	command.SetOut(&stdout)
	command.SetErr(&stderr)
	command.SetArgs(args)
	err = command.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

// Outside a checkout there are no suites: the catalogue is listed, and says so.
func TestRequirementsWithoutCheckout(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("COCO_E2E_ROOT", "")
	out, notes, err := runRequirements(t, "-o", "json", "--profile", "policy")
	var listed []conformance.Requirement
	if parse := json.Unmarshal([]byte(out), &listed); err != nil || parse != nil || len(listed) == 0 {
		t.Fatalf("%v, %v, %s", err, parse, out)
	}
	for _, r := range listed {
		if r.Profile != "policy" {
			t.Errorf("%s is of profile %s", r.ID, r.Profile)
		}
	}
	if !strings.Contains(notes, "without specs") {
		t.Errorf("notes: %q", notes)
	}
	for args, want := range map[string]string{
		"--check": "not inside a checkout", "--write": "not inside a checkout", "-o yaml": "use table, json or markdown", "--profile x": "use one of [policy",
		"--check --profile policy": "none of the others can be",
	} {
		if _, _, err := runRequirements(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want …%s…", args, err, want)
		}
	}
}

func TestCheckRequirements(t *testing.T) {
	c, err := conformance.Parse([]byte("requirements:\n  - {id: A-B-001, level: MUST, profile: pod, text: A pod MUST run., source: Kubernetes}\n"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	suites := []specs.Suite{{Name: "pod", Checked: true, Specs: []specs.Spec{{Suite: "pod", Text: "runs", Requirements: []string{"A-B-001"}}}}}
	var out, page bytes.Buffer
	if err := checkRequirements(&out, root, c, suites); err == nil || !strings.Contains(err.Error(), "requirements.md is not current") {
		t.Errorf("no page: %v", err)
	}
	if err := specs.Markdown(&page, c.Requirements, specs.Prove(suites)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, requirementsPage)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, page.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkRequirements(&out, root, c, suites); err != nil || !strings.HasPrefix(out.String(), "1 requirements, each with a spec; 1 specs in 1 suites") {
		t.Errorf("%v, %q", err, out.String())
	}
	suites[0].Checked = false
	if err := checkRequirements(&out, root, c, suites); err == nil || !strings.Contains(err.Error(), "suite pod does not import") {
		t.Errorf("not checked: %v", err)
	}
}
