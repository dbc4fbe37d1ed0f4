package initdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

const (
	// AnnotationKey is the pod annotation that carries base64(gzip(TOML)).
	AnnotationKey = "io.katacontainers.config.hypervisor.cc_init_data"
	// LegacyAnnotationKey is the pod annotation that carried base64(TOML) before Kata dropped it.
	LegacyAnnotationKey = "io.katacontainers.config.runtime.cc_init_data"

	// MaxSize bounds a document, in bytes, decompressed: 4 MiB, which is all that a ttrpc message may hold, less some room
	// for what else the message holds that takes a document to the pod VM daemon (CreateVM). Kata itself sets no bound;
	// Kubernetes bounds a pod's annotations to 256 KiB, which gzip can blow up a thousandfold.
	MaxSize = 4<<20 - 64<<10
)

// EncodeAnnotation makes the value of [AnnotationKey] from a document's raw bytes: the same value for the same bytes.
func EncodeAnnotation(raw []byte) (string, error) {
	compressed, err := compress(raw)
	if err != nil {
		return "", fmt.Errorf("encode init-data annotation: %w", err)
	}
	return base64.StdEncoding.EncodeToString(compressed), nil
}

// DecodeAnnotation takes a document's raw bytes out of the value of [AnnotationKey]. Its errors are [*AnnotationError],
// and begin, to the letter, with those of Kata's Go shim (src/runtime/pkg/oci/utils.go addHypervisorInitdataOverrides),
// which streams base64 into gzip: so the same breakage is found at the same step and the same offset. As in Kata, line
// ends in the base64 do no harm, several gzip members make one document, the document must be TOML with strings where
// strings belong, while its version and algorithm are not judged, and an empty value is no init-data: the result is
// nil. Unlike Kata it refuses more than [MaxSize] and [MaxNesting], and needs memory of that order only.
func DecodeAnnotation(value string) ([]byte, error) {
	if value == "" {
		return nil, nil
	}
	refuse := func(step string, err error) ([]byte, error) {
		return nil, annotationError(AnnotationKey, value, step, err)
	}
	decoder, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(value)))
	if err != nil {
		return refuse(stepOpen, err)
	}
	raw, err := readLimited(decoder)
	if err != nil {
		return refuse(stepUnzip, err)
	}
	if err := checkTOML(raw); err != nil {
		return refuse(stepTOML, err)
	}
	return raw, nil
}

// EncodeLegacyAnnotation makes the value of [LegacyAnnotationKey] from a document's raw bytes.
func EncodeLegacyAnnotation(raw []byte) string {
	return base64.StdEncoding.EncodeToString(raw)
}

// DecodeLegacyAnnotation takes a document's raw bytes out of the value of [LegacyAnnotationKey]. Its errors are
// [*AnnotationError]. An empty value is no init-data: the result is nil.
func DecodeLegacyAnnotation(value string) ([]byte, error) {
	if value == "" {
		return nil, nil
	}
	refuse := func(step string, err error) ([]byte, error) {
		return nil, annotationError(LegacyAnnotationKey, value, step, err)
	}
	raw, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return refuse(stepBase64, err)
	}
	if len(raw) > MaxSize {
		return refuse(stepBase64, &TooLargeError{})
	}
	if err := checkTOML(raw); err != nil {
		return refuse(stepTOML, err)
	}
	return raw, nil
}

// checkTOML decodes as Kata's shim does: into Go fields, whose names the TOML library matches in any case. Parse, which
// speaks for the agent, is stricter.
func checkTOML(raw []byte) error {
	var document struct {
		Version   string            `toml:"version"`
		Algorithm string            `toml:"algorithm"`
		Data      map[string]string `toml:"data"`
	}
	return unmarshal(raw, &document)
}

func compress(raw []byte) ([]byte, error) {
	var out bytes.Buffer
	encoder, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := encoder.Write(raw); err != nil {
		return nil, err
	}
	if err := encoder.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// readLimited reads all of r, but not more than MaxSize.
func readLimited(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxSize {
		return nil, &TooLargeError{}
	}
	return raw, nil
}
