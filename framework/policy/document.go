package policy

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// document is the value that JSON stands for. What the serialiser writes is
// read in one pass; any other JSON is left to OPA's reader, which needs two and
// takes a good part of a decision's time.
func document(text []byte) (ast.Value, error) {
	if utf8.Valid(text) {
		r := compact{text: text}
		if t, ok := r.value(0); ok && len(r.text) == 0 {
			return t.Value, nil
		}
	}
	var doc any
	if err := util.UnmarshalJSON(text, &doc); err != nil {
		return nil, err
	}
	return ast.InterfaceToValue(doc)
}

// maxNesting is how deep documents are read; the protocol's are less deep.
const maxNesting = 32

// compact reads JSON without blanks whose numbers are integers. Its methods say
// whether it is that.
type compact struct{ text []byte }

// take passes over a text that is next.
func (r *compact) take(next string) bool {
	if !bytes.HasPrefix(r.text, []byte(next)) {
		return false
	}
	r.text = r.text[len(next):]
	return true
}

func (r *compact) value(depth int) (*ast.Term, bool) {
	if len(r.text) == 0 || depth > maxNesting {
		return nil, false
	}
	switch r.text[0] {
	case '{':
		return r.object(depth)
	case '[':
		return r.array(depth)
	case '"':
		s, ok := r.string()
		return ast.StringTerm(s), ok
	case 't':
		return ast.InternedTerm(true), r.take("true")
	case 'f':
		return ast.InternedTerm(false), r.take("false")
	case 'n':
		return ast.NullTerm(), r.take("null")
	}
	return r.integer()
}

func (r *compact) object(depth int) (*ast.Term, bool) {
	object := ast.NewObject()
	r.take("{")
	for !r.take("}") {
		if object.Len() > 0 && !r.take(",") {
			return nil, false
		}
		key, ok := r.string()
		if !ok || !r.take(":") {
			return nil, false
		}
		value, ok := r.value(depth + 1)
		if !ok {
			return nil, false
		}
		object.Insert(ast.StringTerm(key), value) // of two of one name, the last one
	}
	return ast.NewTerm(object), true
}

func (r *compact) array(depth int) (*ast.Term, bool) {
	var list []*ast.Term
	r.take("[")
	for !r.take("]") {
		if len(list) > 0 && !r.take(",") {
			return nil, false
		}
		value, ok := r.value(depth + 1)
		if !ok {
			return nil, false
		}
		list = append(list, value)
	}
	return ast.ArrayTerm(list...), true
}

// string reads one; the text is known to be UTF-8.
func (r *compact) string() (string, bool) {
	if !r.take(`"`) {
		return "", false
	}
	escaped := false
	for i := 0; i < len(r.text); i++ {
		switch c := r.text[i]; {
		case c < ' ':
			return "", false
		case c == '\\':
			escaped = true
			i++ // what is escaped ends nothing
		case c == '"' && !escaped:
			s := string(r.text[:i])
			r.text = r.text[i+1:]
			return s, true
		case c == '"':
			var s string
			err := json.Unmarshal([]byte(`"`+string(r.text[:i+1])), &s)
			r.text = r.text[i+1:]
			return s, err == nil
		}
	}
	return "", false
}

func (r *compact) integer() (*ast.Term, bool) {
	n := 0
	if r.text[0] == '-' {
		n++
	}
	first := n
	for n < len(r.text) && r.text[n] >= '0' && r.text[n] <= '9' {
		n++
	}
	if n == first || n > first+1 && r.text[first] == '0' {
		return nil, false
	}
	number := json.Number(r.text[:n])
	r.text = r.text[n:]
	return ast.NumberTerm(number), true // a fraction or exponent is no part of compact JSON
}
