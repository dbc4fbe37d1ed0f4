// Package conformance is the catalogue of requirements: what must hold of a
// platform for confidential pods, by whom it is said, and to which profile it
// belongs. The catalogue itself is manifests/conformance/requirements.yaml.
//
// It must not know specs, Ginkgo or clusters: package suite ties specs to
// requirements, package report says what came of them.
package conformance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// Level is how binding a requirement is, in the words of RFC 2119.
type Level string

// The levels. Of a profile only MUSTs decide whether a platform conforms.
const (
	Must   Level = "MUST"
	Should Level = "SHOULD"
)

// Profile is a part of what a platform does; platforms conform to profiles.
type Profile string

// Profiles are all profiles, in the order of reports.
var Profiles = []Profile{"policy", "init-data", "attestation", "secret-release", "agent-api", "pod", "host"}

// Requirement is one thing that must hold.
type Requirement struct {
	// ID is of the form POLICY-EXEC-001, and is never given to anything else.
	ID      string  `json:"id" yaml:"id"`
	Level   Level   `json:"level" yaml:"level"`
	Profile Profile `json:"profile" yaml:"profile"`
	// Text is one sentence with the level as its verb.
	Text string `json:"text" yaml:"text"`
	// Source is who says so: a section of the article, or a file, section or
	// behaviour of Kata, Trustee or Kubernetes.
	Source string `json:"source" yaml:"source"`
	// TEEs are the kinds of evidence that it applies to; none means all.
	TEEs []string `json:"tees,omitempty" yaml:"tees,omitempty"`
}

// TEEEntry is the name of the Ginkgo report entry that holds the kind of evidence
// that a spec turned out to be about, where only the platform says.
const TEEEntry = "tee"

// About says whether a spec about a kind of evidence, or "" for any, is about the
// requirement.
func (r Requirement) About(tee string) bool {
	return tee == "" || len(r.TEEs) == 0 || slices.Contains(r.TEEs, tee)
}

// Catalogue is all requirements, ordered by profile and id.
type Catalogue struct {
	Requirements []Requirement
	// Digest is of the file, SHA-256, "sha256:" before its hex digits.
	Digest string

	byID map[string]Requirement
}

// catalogueFile is the catalogue's path below manifests/.
const catalogueFile = "conformance/requirements.yaml"

// Load reads and validates the catalogue that this program was built with.
func Load() (*Catalogue, error) {
	c, err := Parse(manifests.Read(catalogueFile))
	if err != nil {
		return nil, fmt.Errorf("manifests/%s: %w", catalogueFile, err)
	}
	return c, nil
}

var idForm = regexp.MustCompile(`^[A-Z]+(-[A-Z0-9]+)+-[0-9]{3}$`)

// Parse reads and validates a catalogue; the error names every requirement
// that is wrong, and its field.
func Parse(b []byte) (*Catalogue, error) {
	var file struct {
		Requirements []Requirement `json:"requirements" yaml:"requirements"`
	}
	if err := yaml.UnmarshalStrict(b, &file); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	c := &Catalogue{Requirements: file.Requirements, Digest: "sha256:" + hex.EncodeToString(sum[:]), byID: map[string]Requirement{}}
	var errs []error
	wrong := func(id, field, why string) { errs = append(errs, fmt.Errorf("requirement %s: %s: %s", id, field, why)) }
	kinds := evidence.Kinds
	for _, r := range c.Requirements {
		if !idForm.MatchString(r.ID) {
			wrong(fmt.Sprintf("%q", r.ID), "id", "wants words and a number of three digits, as POLICY-EXEC-001")
		}
		if _, twice := c.byID[r.ID]; twice {
			wrong(r.ID, "id", "is given twice")
		}
		c.byID[r.ID] = r
		if !slices.Contains(Profiles, r.Profile) {
			wrong(r.ID, "profile", fmt.Sprintf("%q is none of %v", r.Profile, Profiles))
		}
		switch r.Level {
		case Must, Should:
			if !strings.Contains(r.Text, string(r.Level)) {
				wrong(r.ID, "text", "does not say "+string(r.Level))
			}
		default:
			wrong(r.ID, "level", fmt.Sprintf("%q is neither MUST nor SHOULD", r.Level))
		}
		if !strings.HasSuffix(r.Text, ".") || strings.Contains(strings.TrimSuffix(r.Text, "."), ". ") {
			wrong(r.ID, "text", "wants one sentence, with its full stop")
		}
		if r.Source == "" {
			wrong(r.ID, "source", "is missing")
		}
		for _, tee := range r.TEEs {
			if !slices.Contains(kinds, tee) {
				wrong(r.ID, "tees", fmt.Sprintf("%q is none of %v", tee, kinds))
			}
		}
	}
	slices.SortStableFunc(c.Requirements, func(a, b Requirement) int {
		if d := slices.Index(Profiles, a.Profile) - slices.Index(Profiles, b.Profile); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	return c, errors.Join(errs...)
}

// Find returns the requirement with an id.
func (c *Catalogue) Find(id string) (Requirement, bool) {
	r, ok := c.byID[id]
	return r, ok
}

// LabelPrefix begins the Ginkgo label by which a spec says which requirement
// it proves: "requirement:POLICY-EXEC-001".
const LabelPrefix = "requirement:"
