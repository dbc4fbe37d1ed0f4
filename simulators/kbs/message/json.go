package message

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// fields reads a JSON object whose names are exact and unique, as serde does. encoding/json alone matches names in any
// case and lets the last of two win.
func fields(raw []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if first, err := decoder.Token(); err != nil || first != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	parsed := map[string]json.RawMessage{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name, ok := token.(string)
		if !ok {
			return nil, errors.New("not a JSON object")
		}
		if _, twice := parsed[name]; twice {
			return nil, fmt.Errorf("duplicate field `%s`", name)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		parsed[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return parsed, nil
}

// text takes a string out of an object.
func text(object map[string]json.RawMessage, name string) (string, error) {
	raw, ok := object[name]
	if !ok {
		return "", fmt.Errorf("missing field `%s`", name)
	}
	var value *string
	if err := json.Unmarshal(raw, &value); err != nil || value == nil {
		return "", fmt.Errorf("field `%s`: not a string", name)
	}
	return *value, nil
}

// texts takes strings out of an object, into what the map's values point to.
func texts(object map[string]json.RawMessage, into map[string]*string) error {
	for name, value := range into {
		var err error
		if *value, err = text(object, name); err != nil {
			return err
		}
	}
	return nil
}

// object takes an object out of an object.
func object(outer map[string]json.RawMessage, name string) (map[string]json.RawMessage, error) {
	raw, ok := outer[name]
	if !ok {
		return nil, fmt.Errorf("missing field `%s`", name)
	}
	inner, err := fields(raw)
	if err != nil {
		return nil, fmt.Errorf("field `%s`: %w", name, err)
	}
	return inner, nil
}
