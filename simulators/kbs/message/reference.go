package message

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// rvpsVersion is the only version of the reference value provider service's messages.
const rvpsVersion = "0.1.0"

// ParseReferenceValues reads the body of /reference-value, a message to the reference value provider service of type
// sample: values by name. Numbers are json.Number.
func ParseReferenceValues(body []byte) (map[string]any, error) {
	parsed, err := fields(body)
	if err != nil {
		return nil, fmt.Errorf("parse message: %w", err)
	}
	var version, kind, payload string
	if err := texts(parsed, map[string]*string{"version": &version, "type": &kind, "payload": &payload}); err != nil {
		return nil, fmt.Errorf("parse message: %w", err)
	}
	if version != rvpsVersion {
		return nil, fmt.Errorf("version unmatched, wanted %s, got %.32s", rvpsVersion, version)
	}
	if kind != "sample" {
		return nil, fmt.Errorf("message type %.32q: this simulator of Trustee knows sample only", kind)
	}
	decoded, err := decodeBase64(base64.StdEncoding, payload)
	if err != nil {
		return nil, fmt.Errorf("field `payload`: %w", err)
	}
	named, err := fields(decoded)
	if err != nil {
		return nil, fmt.Errorf("field `payload`: %w", err)
	}
	values := make(map[string]any, len(named))
	for name, raw := range named {
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil {
			return nil, fmt.Errorf("field `payload`: reference value %q: %w", name, err)
		}
		values[name] = value
	}
	return values, nil
}
