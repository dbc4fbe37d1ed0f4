package initdata

import (
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/BurntSushi/toml"
)

// AnnotationError says that the value of an annotation holds no init-data. Its text begins with that of Kata's Go shim
// (src/runtime/pkg/oci/utils.go addHypervisorInitdataOverrides), to the letter.
type AnnotationError struct {
	Annotation string // key of the annotation
	Step       string // what failed, in Kata's words
	Err        error
	Remedy     string
}

func (e *AnnotationError) Error() string {
	return fmt.Sprintf("%s: %v; annotation %s: %s", e.Step, e.Err, e.Annotation, e.Remedy)
}

func (e *AnnotationError) Unwrap() error { return e.Err }

// The steps of decoding an annotation, in Kata's words.
const (
	stepBase64 = "decoding initdata annotation failed"
	stepOpen   = "initdata create gzip reader error"
	stepUnzip  = "uncompressing initdata with gzip error"
	stepTOML   = "parsing initdata annotation failed"
)

// annotationError finds the remedy for err.
func annotationError(annotation, value, step string, err error) error {
	e := &AnnotationError{Annotation: annotation, Step: step, Err: err}
	var (
		corrupt base64.CorruptInputError
		large   *TooLargeError
		nesting *NestingError
	)
	switch {
	case errors.As(err, &large):
		e.Remedy = "make the document smaller"
	case errors.As(err, &nesting):
		e.Remedy = "make the document flatter"
	case step == stepTOML:
		e.Remedy = "correct the TOML and encode it again"
	case errors.As(err, &corrupt):
		e.Remedy = "encode with the standard base64 alphabet (no - or _), padded with =, with nothing after it"
	case errors.Is(err, gzip.ErrHeader) && isPlain(value):
		e.Remedy = "the base64 is of plain text: compress the document with gzip before base64"
	case errors.Is(err, gzip.ErrHeader):
		e.Remedy = "what the base64 holds is no gzip, or has other bytes after it: give base64(gzip(TOML))"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Remedy = "the value ends early: copy or encode it again, whole"
	default:
		e.Remedy = "the value is damaged: encode the document again as base64(gzip(TOML))"
	}
	return e
}

// isPlain says whether value is base64 of TOML, as the annotation of older Kata had it.
func isPlain(value string) bool {
	raw, err := base64.StdEncoding.DecodeString(value)
	return err == nil && checkTOML(raw) == nil
}

// SyntaxError says that a document is not TOML.
type SyntaxError struct {
	Line int    // from 1; 0 if the parser does not say
	Key  string // the last key before the fault; empty for none
	Err  error
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("parse init-data: %v; correct the TOML there", e.Err)
}

func (e *SyntaxError) Unwrap() error { return e.Err }

func syntaxError(err error) error {
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return fmt.Errorf("parse init-data: %w", err)
	}
	return &SyntaxError{Line: parse.Position.Line, Key: parse.LastKey, Err: err}
}

// TooLargeError says that a document is longer than [MaxSize].
type TooLargeError struct{}

func (*TooLargeError) Error() string {
	return fmt.Sprintf("init-data is longer than %d bytes", MaxSize)
}

// UnsupportedVersionError says that a document's version is not [Version]. Its text is Kata's.
type UnsupportedVersionError struct{ Version string }

func (e *UnsupportedVersionError) Error() string {
	return fmt.Sprintf("unsupported version: %s, expected: %s", e.Version, Version)
}

// UnsupportedAlgorithmError says that a document's algorithm is not one of [Algorithms]. Its text is Kata's.
type UnsupportedAlgorithmError struct{ Algorithm string }

func (e *UnsupportedAlgorithmError) Error() string {
	return fmt.Sprintf("unsupported algorithm: %s, supported algorithms: %s", e.Algorithm, strings.Join(algorithms, ", "))
}

// MissingFieldError says that a document lacks a field that Kata's agent requires. Its text begins with serde's, as the
// agent's does.
type MissingFieldError struct{ Field string }

func (e *MissingFieldError) Error() string {
	remedy := map[string]string{
		"version":   fmt.Sprintf("version = %q", Version),
		"algorithm": fmt.Sprintf("algorithm = %q", SHA256),
		"data":      "a [data] table, which may be empty",
	}[e.Field]
	return fmt.Sprintf("missing field `%s`; add %s (names are case-sensitive)", e.Field, remedy)
}

// FieldTypeError says that a field of a document has the wrong TOML type.
type FieldTypeError struct {
	Field string // such as version, or data."aa.toml"
	Want  string // TOML type that the field must have
	Got   string // TOML type that it has
}

func (e *FieldTypeError) Error() string {
	text := fmt.Sprintf("field %s must be a %s, not %s", e.Field, e.Want, e.Got)
	switch {
	case e.Want == "table":
		return text + "; write [data] and the files below it"
	case e.Got == "table" && strings.HasPrefix(e.Field, "data."):
		return text + `; give a file's content as one string, and its name in quotes if it has a dot: "aa.toml" = '''…'''`
	}
	return text + "; put its value in quotes"
}

// ImageError says that a block-device image holds no init-data that can be read.
type ImageError struct {
	Part string // header, length or gzip stream
	Err  error
}

func (e *ImageError) Error() string {
	return fmt.Sprintf("read init-data image: %s: %v; write the image again", e.Part, e.Err)
}

func (e *ImageError) Unwrap() error { return e.Err }
