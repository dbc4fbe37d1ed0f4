package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	yamlwriter "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// FileName is what a report is called among the artefacts of a run.
const FileName = "report.yaml"

// maxSize bounds what Parse reads: 64 MiB.
const maxSize = 64 << 20

// Marshal is the report as YAML, fields in the order of the model.
func (r *Report) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := yamlwriter.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return b.Bytes(), e.Close()
}

// Write validates the report and writes it, whole or not at all.
func (r *Report) Write(file string) error {
	b, err := r.Marshal()
	if err != nil {
		return err
	}
	if _, err := Parse(b); err != nil {
		return fmt.Errorf("the report is not valid: %w", err)
	}
	return WriteFile(file, b)
}

// WriteFile writes a file whole or not at all.
func WriteFile(file string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Read reads and validates a report.
func Read(file string) (*Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// Parse reads and validates a report: by its schema, and that all its verdicts
// follow from its results. The error names each field that is wrong.
func Parse(b []byte) (*Report, error) {
	if len(b) > maxSize {
		return nil, fmt.Errorf("%d bytes are more than a report has (%d)", len(b), maxSize)
	}
	asJSON, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, err
	}
	if err := checkSchema(asJSON); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(asJSON))
	d.DisallowUnknownFields()
	r := &Report{}
	if err := d.Decode(r); err != nil {
		return nil, err
	}
	return r, r.check()
}

// schemaFile is the schema's path below manifests/.
const schemaFile = "conformance/report.schema.json"

func checkSchema(asJSON []byte) error {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(manifests.Read(schemaFile)))
	if err != nil {
		return fmt.Errorf("manifests/%s: %w", schemaFile, err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat() // of run.started
	if err := c.AddResource(schemaFile, document); err != nil {
		return fmt.Errorf("manifests/%s: %w", schemaFile, err)
	}
	schema, err := c.Compile(schemaFile)
	if err != nil {
		return fmt.Errorf("manifests/%s: %w", schemaFile, err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		return err
	}
	var invalid *jsonschema.ValidationError
	if err := schema.Validate(value); errors.As(err, &invalid) {
		var lines []string
		leaves(invalid, &lines)
		return fmt.Errorf("not of the schema manifests/%s:\n  %s", schemaFile, strings.Join(lines, "\n  "))
	} else if err != nil {
		return err
	}
	return nil
}

// leaves are the innermost reasons, each with the field that it is about.
func leaves(e *jsonschema.ValidationError, lines *[]string) {
	if len(e.Causes) == 0 {
		*lines = append(*lines, strings.TrimSpace(strings.SplitN(e.Error(), "\n- ", 2)[len(strings.SplitN(e.Error(), "\n- ", 2))-1]))
		return
	}
	for _, cause := range e.Causes {
		leaves(cause, lines)
	}
}

// check is what a schema cannot say.
func (r *Report) check() error {
	var errs []error
	wrong := func(field, format string, a ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, a...)...))
	}
	r.checkClaim(wrong)
	r.checkCatalogue(wrong)
	ids := map[string]bool{}
	for _, q := range r.Requirements {
		field := "requirements " + q.ID
		if ids[q.ID] {
			wrong(field, "is there twice")
		}
		ids[q.ID] = true
		result, _ := Combine(q.Specs)
		applies := len(q.TEEs) == 0 || slices.ContainsFunc(r.TEEs(), func(tee string) bool { return slices.Contains(q.TEEs, tee) })
		if !applies && result != Failed && result != Inconclusive {
			result = NotApplicable
		}
		if q.Result != result {
			wrong(field+" result", "is %s, and its specs come to %s", q.Result, result)
		}
		if q.Result != Passed && q.Reason == "" {
			wrong(field+" reason", "is missing of what is %s", q.Result)
		}
		for _, s := range q.Specs {
			checkPaths(s, field, wrong)
			if s.Result != Passed && s.Reason == "" {
				wrong(field+" specs "+s.Text, "has no reason of what is %s", s.Result)
			}
		}
	}
	for _, s := range r.SetUp {
		checkPaths(s, "setUp", wrong)
	}
	if want := profiles(r.Requirements, len(r.SetUp) > 0); len(errs) == 0 {
		for i, p := range want {
			if i >= len(r.Profiles) || !sameProfile(p, r.Profiles[i]) {
				wrong("profiles", "%s does not follow from the requirements' results", p.Name)
			}
		}
	}
	if r.Run.Aborted != "" && len(r.SetUp) == 0 {
		wrong("setUp", "is empty in a run that was aborted")
	}
	if want := r.resultDigest(); len(errs) == 0 && r.ResultDigest != want {
		wrong("resultDigest", "is %s, and the results give %s", r.ResultDigest, want)
	}
	return errors.Join(errs...)
}

func sameProfile(a, b ProfileResult) bool {
	return a.Name == b.Name && a.Conforms == b.Conforms && slices.Equal(a.Open, b.Open) && reflect.DeepEqual(a.Statistics, b.Statistics)
}

// checkClaim refuses a simulation that is reported as hardware.
func (r *Report) checkClaim(wrong func(field, format string, a ...any)) {
	for _, c := range r.Implementation.Classes {
		if c.Simulated && !r.Implementation.Simulated {
			wrong("implementation simulated", "is false, and RuntimeClass %s is simulated", c.Name)
		}
	}
	if r.Claim != Hardware {
		return
	}
	for _, why := range r.noHardware() {
		wrong("claim", "%s %s: the report can claim %s only", Hardware, why, Simulated)
	}
}

// checkPaths refuses artefacts that are not below the report's directory.
func checkPaths(s Spec, field string, wrong func(field, format string, a ...any)) {
	for _, f := range s.Files {
		if !filepath.IsLocal(f.Path) || strings.Contains(f.Path, `\`) {
			wrong(field+" specs "+s.Text+" files", "%q does not lead to below the report's directory", f.Path)
		}
	}
}

// CatalogueKnown says whether the report's catalogue is this program's, with which
// its requirements have been compared.
func (r *Report) CatalogueKnown() bool {
	c, err := conformance.Load()
	return err == nil && c.Digest == r.Suite.Catalogue
}

// CheckFiles compares the artefacts that lie in dir, the report's, with what the
// report says of them. It returns how many it has compared and how many are not
// there: they may have been left where the run was.
func (r *Report) CheckFiles(dir string) (compared, absent int, err error) {
	var errs []error
	seen := map[string]bool{}
	for _, s := range r.AllSpecs() {
		for _, f := range s.Files {
			if seen[f.Path] {
				continue
			}
			seen[f.Path] = true
			content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)))
			if errors.Is(err, os.ErrNotExist) {
				absent++
				continue
			} else if err != nil {
				errs = append(errs, err)
				continue
			}
			compared++
			if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != f.SHA256 || int64(len(content)) != f.Size {
				errs = append(errs, fmt.Errorf("files: %s is another than the report's: %d bytes with sha256 %x, want %d with %s", f.Path, len(content), sum, f.Size, f.SHA256))
			}
		}
	}
	return compared, absent, errors.Join(errs...)
}

// checkCatalogue compares with the catalogue of this program, when it is the
// report's: of another version nothing is known here.
func (r *Report) checkCatalogue(wrong func(field, format string, a ...any)) {
	c, err := conformance.Load()
	if err != nil || c.Digest != r.Suite.Catalogue {
		return
	}
	for _, want := range c.Requirements {
		i := slices.IndexFunc(r.Requirements, func(q RequirementResult) bool { return q.ID == want.ID })
		switch {
		case i < 0:
			wrong("requirements", "%s of the catalogue is missing", want.ID)
		case !reflect.DeepEqual(r.Requirements[i].Requirement, want):
			wrong("requirements "+want.ID, "is not what the catalogue says")
		}
	}
	if len(r.Requirements) > len(c.Requirements) {
		wrong("requirements", "has %d more than the catalogue", len(r.Requirements)-len(c.Requirements))
	}
}
