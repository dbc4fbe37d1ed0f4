// Package initdata authors, encodes, decodes and digests Confidential Containers init-data: the TOML document that
// carries a guest's configuration and agent policy from the pod's author, through an untrusted host, into the guest.
//
// Formats are those of Kata Containers 4.1 (src/libs/kata-types/src/initdata.rs, src/runtime/pkg/oci/utils.go,
// src/agent/src/initdata.rs) and of the init-data specification in Trustee (kbs/docs/initdata.md).
//
// The package is linked into small guest programs, so it imports nothing but a TOML parser. It must not know
// Kubernetes, TEEs or policies: what a digest becomes in a register is package measure's business.
package initdata

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Version is the only version of the init-data specification that Kata's agent accepts.
const Version = "0.1.0"

// Names of the hash algorithms that the init-data specification allows.
const (
	SHA256 = "sha256"
	SHA384 = "sha384"
	SHA512 = "sha512"
)

// Keys of the files that Kata's agent takes out of [data]. Other keys are measured but not used.
const (
	AAConfig  = "aa.toml"
	CDHConfig = "cdh.toml"
	Policy    = "policy.rego"
)

var algorithms = []string{SHA256, SHA384, SHA512}

// Algorithms lists the names of the hash algorithms that init-data may name.
func Algorithms() []string { return slices.Clone(algorithms) }

// InitData is one init-data document.
type InitData struct {
	// Version of the specification, as written in the document; empty when the document does not say.
	Version string
	// Algorithm that the document asks to be measured with, as written; empty when it does not say.
	Algorithm string
	// Data maps file names to contents.
	Data map[string]string
	// Raw is the document's exact bytes. Digests are taken over these, never over a re-serialised form.
	Raw []byte

	// missing names the fields that a parsed document leaves out; Kata's shim passes such documents on and its
	// agent rejects them, so this is Validate's to judge and not Parse's.
	missing []string
}

// Parse reads a TOML document. Field names are case-sensitive and types are strict, as in Kata's agent; unknown fields
// are ignored. Parse judges neither version nor algorithm nor missing fields: that is [InitData.Validate]. The errors are [*TooLargeError], [*NestingError], [*SyntaxError] and [*FieldTypeError].
func Parse(raw []byte) (*InitData, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("parse init-data: %w", &TooLargeError{})
	}
	var document map[string]any
	if err := unmarshal(raw, &document); err != nil {
		return nil, syntaxError(err)
	}
	initData := &InitData{Raw: slices.Clone(raw)}
	for _, field := range []struct {
		name string
		into *string
	}{{"version", &initData.Version}, {"algorithm", &initData.Algorithm}} {
		value, ok := document[field.name]
		if !ok {
			initData.missing = append(initData.missing, field.name)
			continue
		}
		if *field.into, ok = value.(string); !ok {
			return nil, fmt.Errorf("parse init-data: %w", &FieldTypeError{field.name, "string", typeName(value)})
		}
	}
	value, ok := document["data"]
	if !ok {
		initData.missing = append(initData.missing, "data")
		return initData, nil
	}
	data, err := parseData(value)
	if err != nil {
		return nil, fmt.Errorf("parse init-data: %w", err)
	}
	initData.Data = data
	return initData, nil
}

func parseData(value any) (map[string]string, error) {
	table, ok := value.(map[string]any)
	if !ok {
		return nil, &FieldTypeError{"data", "table", typeName(value)}
	}
	data := make(map[string]string, len(table))
	for _, name := range sortedKeys(table) {
		content, ok := table[name].(string)
		if !ok {
			return nil, &FieldTypeError{fmt.Sprintf("data.%q", name), "string", typeName(table[name])}
		}
		data[name] = content
	}
	return data, nil
}

// typeName names a decoded value's type in TOML's words.
func typeName(value any) string {
	switch value.(type) {
	case map[string]any:
		return "table"
	case []any, []map[string]any:
		return "array"
	case int64:
		return "integer"
	case float64:
		return "float"
	case bool:
		return "boolean"
	case time.Time:
		return "date or time"
	default:
		return fmt.Sprintf("%T", value)
	}
}

// Validate judges what Kata's agent judges before it uses a document: all fields there, version equal to [Version],
// algorithm one of [Algorithms]. The errors are [*MissingFieldError], [*UnsupportedVersionError] and
// [*UnsupportedAlgorithmError], in this order.
func (i *InitData) Validate() error {
	if len(i.missing) > 0 {
		return &MissingFieldError{i.missing[0]}
	}
	if i.Version != Version {
		return &UnsupportedVersionError{i.Version}
	}
	if !slices.Contains(algorithms, i.Algorithm) {
		return &UnsupportedAlgorithmError{i.Algorithm}
	}
	return nil
}

// Digest is the hash of the document's raw bytes with the algorithm that it names: 32, 48 or 64 bytes. An algorithm
// outside [Algorithms] is an [*UnsupportedAlgorithmError].
func (i *InitData) Digest() ([]byte, error) {
	if i.Raw == nil {
		return nil, errors.New("init-data digest: no raw document; use Parse or New")
	}
	switch i.Algorithm {
	case SHA256:
		sum := sha256.Sum256(i.Raw)
		return sum[:], nil
	case SHA384:
		sum := sha512.Sum384(i.Raw)
		return sum[:], nil
	case SHA512:
		sum := sha512.Sum512(i.Raw)
		return sum[:], nil
	}
	return nil, &UnsupportedAlgorithmError{i.Algorithm}
}
