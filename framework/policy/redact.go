package policy

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// gone stands where a value was.
const gone = "[redacted]"

// minPart is the length in bytes from which a value is looked for within other
// texts, and other texts within a value: what is shorter is in too many.
const minPart = 4

// environment is a variable with its value, as containers have them. The value
// may have several lines.
var environment = regexp.MustCompile(`(?s)^([A-Za-z_][A-Za-z0-9_.-]*=).+`)

// wellKnown are variables that every image or runtime sets. What is part of their values is in arguments and mounts as well
// (/bin, /root), where hiding it would take an explanation its sense.
var wellKnown = map[string]bool{"PATH": true, "HOME": true, "HOSTNAME": true, "TERM": true}

// hidden are the values of a request that are shown to nobody who did not ask
// for them, wherever the policy brought them. nil knows none.
type hidden struct {
	// values are those of environment variables.
	values map[string]bool
	// written replaces values, and variables with them, in a text.
	written *strings.Replacer
	// literals are the texts of the policy. The host reads them in the pod's
	// annotation, and an explanation needs them: they are what was expected.
	literals map[string]bool
}

// hide finds what of a request is not shown. c may be nil.
func hide(request any, c *ast.Compiler) *hidden {
	h := &hidden{values: map[string]bool{}, literals: map[string]bool{}}
	if c != nil {
		for _, m := range c.Modules {
			ast.WalkTerms(m, func(t *ast.Term) bool {
				if s, ok := t.Value.(ast.String); ok {
					h.literals[string(s)] = true
				}
				return false
			})
		}
	}
	written := map[string]string{}
	for _, variable := range variablesIn(request) {
		name, value, named := strings.Cut(variable, "=")
		if wellKnown[name] {
			continue
		}
		if named {
			name += "="
		} else {
			name, value = "", variable
		}
		if value == "" || h.literals[value] || h.literals[variable] {
			continue
		}
		h.values[value] = true
		if named {
			for _, form := range forms(variable) {
				written[form] = name + gone
			}
		}
		if len(value) >= minPart {
			for _, form := range forms(value) {
				written[form] = gone
			}
		}
	}
	longestFirst := slices.SortedFunc(maps.Keys(written), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
	var pairs []string
	for _, old := range longestFirst {
		pairs = append(pairs, old, written[old])
	}
	h.written = strings.NewReplacer(pairs...)
	return h
}

// variablesIn are the environment variables of a request, of all its processes.
func variablesIn(request any) []string {
	var out []string
	switch v := request.(type) {
	case []any:
		for _, x := range v {
			out = append(out, variablesIn(x)...)
		}
	case map[string]any:
		for k, x := range v {
			list, isList := x.([]any)
			if !isList || !isEnvironment(k) {
				out = append(out, variablesIn(x)...)
				continue
			}
			for _, entry := range list {
				if s, ok := entry.(string); ok {
					out = append(out, s)
				}
			}
		}
	}
	return out
}

func isEnvironment(name string) bool { return strings.EqualFold(name, "env") }

// forms are a text as it is, and as it stands in a print of a list, in JSON and
// in the message that the agent makes of prints.
func forms(s string) []string {
	all := map[string]bool{s: true}
	for _, quoted := range []string{strconv.Quote(s), DebugString(s), marshalled(s), string(jsonText(s))} {
		inner := quoted[1 : len(quoted)-1]
		message := DebugString(inner)
		all[inner], all[message[1:len(message)-1]] = true, true
	}
	return slices.Collect(maps.Keys(all))
}

func marshalled(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return string(b)
}

// text takes the values out of a text that people read.
func (h *hidden) text(s string) string {
	if h == nil {
		return s
	}
	return h.written.Replace(s)
}

// value takes the values out of a string that the policy worked with, which may
// be a piece of one of them, or made of several.
func (h *hidden) value(s string) string {
	if h != nil {
		if _, value, named := strings.Cut(s, "="); h.literals[s] || named && h.literals[value] {
			return s
		}
	}
	if environment.MatchString(s) {
		return environment.ReplaceAllString(s, "${1}"+gone)
	}
	switch {
	case h == nil:
		return s
	case h.values[s]:
		return gone
	}
	s = h.text(s)
	if len(s) < minPart {
		return s
	}
	for v := range h.values {
		if strings.Contains(v, s) {
			return gone
		}
	}
	return s
}

// redacted is a document without the values.
func (h *hidden) redacted(v any) any {
	switch v := v.(type) {
	case string:
		return h.value(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = h.redacted(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			list, isList := v[k].([]any)
			_, isObject := v[k].(map[string]any)
			switch {
			case carriesData(k) && !isObject:
				out[h.value(k)] = gone
			case isList && isEnvironment(k):
				out[h.value(k)] = h.unvalued(list)
			default:
				out[h.value(k)] = h.redacted(v[k])
			}
		}
		return out
	}
	return v
}

// unvalued is an environment without values, whatever its variables are called.
// What the policy has itself, the whole variable or its value, stays.
func (h *hidden) unvalued(list []any) []any {
	out := make([]any, len(list))
	for i := range list {
		out[i] = gone
		if s, ok := list[i].(string); ok {
			name, value, named := strings.Cut(s, "=")
			switch {
			case h != nil && (h.literals[s] || named && h.literals[value]), named && value == "":
				out[i] = s
			case named:
				out[i] = name + "=" + gone
			}
		}
	}
	return out
}

// carriesData says whether a field has what passes through the agent: standard
// input, or a file's content.
func carriesData(name string) bool { return name == "data" || name == "input.data" }

// Redact takes the values of environment variables, and the data of streams and
// files, out of an explanation: also where the policy took them apart, printed
// them, or answers with them. What it makes of a value by other means, such as
// encoding it, is not known again.
func (x *Explanation) Redact() {
	h := x.hidden
	for i := range x.Rules {
		x.Rules[i].Value = h.redacted(x.Rules[i].Value)
		for _, expressions := range [][]Expression{x.Rules[i].Failed, x.Rules[i].Because} {
			for _, e := range expressions {
				for k := range e.Values {
					e.Values[k].redact(h)
				}
			}
		}
	}
	for i := range x.Prints {
		x.Prints[i] = h.text(x.Prints[i])
	}
	x.Message = h.text(x.Message)
	if x.value != "" {
		whole := h.text(x.value)
		x.Summary = strings.ReplaceAll(x.Summary, oneLine(x.value), oneLine(whole))
		x.value = whole
	}
	x.Summary = h.text(x.Summary)
}

func (v *Value) redact(h *hidden) {
	path := cmp.Or(v.From, v.Name)
	field := path[strings.LastIndexByte(path, '.')+1:]
	for n := range v.Values {
		list, isList := v.Values[n].([]any)
		switch {
		case carriesData(v.Name) || carriesData(index.ReplaceAllString(path, "")) || carriesData(strings.TrimSuffix(path, "[_]")):
			v.Values[n] = gone
		case isList && isEnvironment(field):
			v.Values[n] = h.unvalued(list)
		default:
			v.Values[n] = h.redacted(v.Values[n])
		}
	}
}

// RedactJSON takes out of a document, such as the request or the policy's state,
// what Redact takes out of the explanation. What is no JSON is taken out as a whole.
func (x *Explanation) RedactJSON(doc []byte) []byte {
	const nothing = `"` + gone + `"`
	var v any
	if err := util.UnmarshalJSON(doc, &v); err != nil {
		return []byte(nothing)
	}
	b, err := json.Marshal(x.hidden.redacted(v))
	if err != nil {
		return []byte(nothing)
	}
	return b
}
