package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// object is a JSON object whose names are exact and unique. encoding/json alone matches names in any case and lets the
// last of two win, so that two readers could see different evidence in the same bytes.
type object struct {
	prefix string // of its fields' names in errors
	fields map[string]json.RawMessage
}

func parseObject(name string, raw []byte) (*object, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, &FormatError{name, "not a JSON object"}
	}
	parsed := &object{fields: map[string]json.RawMessage{}}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, &FormatError{name, err.Error()}
		}
		key := token.(string) // in an object, encoding/json lets nothing else stand here
		if _, twice := parsed.fields[key]; twice {
			return nil, &FormatError{name, fmt.Sprintf("%q occurs twice", key)}
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, &FormatError{name, err.Error()}
		}
		parsed.fields[key] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, &FormatError{name, err.Error()}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, &FormatError{name, "more than one JSON value"}
	}
	return parsed, nil
}

func (o *object) field(name string, into any, want string) error {
	value, ok := o.fields[name]
	if !ok {
		return &FormatError{o.prefix + name, "missing"}
	}
	if bytes.Equal(value, []byte("null")) || json.Unmarshal(value, into) != nil {
		return &FormatError{o.prefix + name, "not " + want}
	}
	return nil
}

func (o *object) object(name string) (*object, error) {
	var value json.RawMessage
	if err := o.field(name, &value, "a JSON object"); err != nil {
		return nil, err
	}
	inner, err := parseObject(o.prefix+name, value)
	if err != nil {
		return nil, err
	}
	inner.prefix = o.prefix + name + "."
	return inner, nil
}

func (o *object) string(name string) (string, error) {
	var value string
	err := o.field(name, &value, "a string")
	return value, err
}

func (o *object) strings(name string) ([]string, error) {
	// Pointers, because encoding/json would take null for an empty string.
	var values []*string
	if err := o.field(name, &values, "a list of strings"); err != nil {
		return nil, err
	}
	list := make([]string, len(values))
	for i, value := range values {
		if value == nil {
			return nil, &FormatError{fmt.Sprintf("%s%s[%d]", o.prefix, name, i), "not a string"}
		}
		list[i] = *value
	}
	return list, nil
}

func (o *object) base64(name string) ([]byte, error) {
	encoded, err := o.string(name)
	if err != nil {
		return nil, err
	}
	return decodeBase64(o.prefix+name, encoded)
}

// decodeBase64 allows no newlines, which Go's decoder skips and Trustee's does not.
func decodeBase64(field, encoded string) ([]byte, error) {
	if at := strings.IndexAny(encoded, "\r\n"); at >= 0 {
		return nil, &FormatError{field, fmt.Sprintf("illegal base64: newline at byte %d", at)}
	}
	value, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, &FormatError{field, err.Error()}
	}
	return value, nil
}

// bytes reads a list of numbers, as serde writes a byte array. size is the length that it must have, or 0 for any.
func (o *object) bytes(name string, size int) ([]byte, error) {
	var values []*uint8
	// encoding/json would decode a string into a []uint8, but not into this.
	if err := o.field(name, &values, "a list of numbers from 0 to 255"); err != nil {
		return nil, err
	}
	if size != 0 && len(values) != size {
		return nil, &FormatError{o.prefix + name, fmt.Sprintf("%d bytes, want %d", len(values), size)}
	}
	list := make([]byte, len(values))
	for i, value := range values {
		if value == nil {
			return nil, &FormatError{fmt.Sprintf("%s%s[%d]", o.prefix, name, i), "not a number"}
		}
		list[i] = *value
	}
	return list, nil
}

// objects reads a list of JSON objects.
func (o *object) objects(name string) ([]*object, error) {
	var values []json.RawMessage
	if err := o.field(name, &values, "a list"); err != nil {
		return nil, err
	}
	list := make([]*object, len(values))
	for i, value := range values {
		at := fmt.Sprintf("%s%s[%d]", o.prefix, name, i)
		item, err := parseObject(at, value)
		if err != nil {
			return nil, err
		}
		item.prefix = at + "."
		list[i] = item
	}
	return list, nil
}

// absent says whether a field is missing or null, which serde takes for the same thing.
func (o *object) absent(name string) bool {
	value, ok := o.fields[name]
	return !ok || bytes.Equal(value, []byte("null"))
}

func number[N uint8 | uint32 | uint64](o *object, name string) (N, error) {
	var value N
	err := o.field(name, &value, fmt.Sprintf("a number that fits %T", value))
	return value, err
}

// hex reads lower or upper case hexadecimal.
func (o *object) hex(name string) ([]byte, error) {
	encoded, err := o.string(name)
	if err != nil {
		return nil, err
	}
	value, err := hex.DecodeString(encoded)
	if err != nil {
		return nil, &FormatError{o.prefix + name, err.Error()}
	}
	return value, nil
}

// base64url reads URL-safe base64 with padding; Azure's attesters also omit it.
func (o *object) base64url(name string) ([]byte, error) {
	encoded, err := o.string(name)
	if err != nil {
		return nil, err
	}
	if at := strings.IndexAny(encoded, "\r\n"); at >= 0 {
		return nil, &FormatError{o.prefix + name, fmt.Sprintf("illegal base64: newline at byte %d", at)}
	}
	encoding := base64.URLEncoding
	if !strings.HasSuffix(encoded, "=") {
		encoding = base64.RawURLEncoding
	}
	value, err := encoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, &FormatError{o.prefix + name, err.Error()}
	}
	return value, nil
}

// parseDocument is parseObject for a whole evidence.
func parseDocument(raw []byte, limit int) (*object, error) {
	if len(raw) > limit {
		return nil, &FormatError{"evidence", fmt.Sprintf("%d bytes, limit %d", len(raw), limit)}
	}
	return parseObject("evidence", raw)
}
