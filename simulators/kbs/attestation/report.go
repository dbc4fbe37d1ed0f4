package attestation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const indent = "        "

// Report is the appraisal for people to read and grep in a log: the verified claims, one a line, then the reference
// values that the policy consulted, one value a line. It has neither the token nor init-data's content.
func (a *Appraisal) Report() string {
	var out strings.Builder
	fmt.Fprintf(&out, "claims of the verified %s evidence:\n    {\n", a.TEE)
	flattened := map[string]any{"init_data": a.Claims["init_data"], "report_data": a.Claims["report_data"]}
	flatten(flattened, a.TEE, a.Claims[a.TEE])
	for _, name := range slices.Sorted(maps.Keys(flattened)) {
		fmt.Fprintf(&out, "%s%q: %s,\n", indent, name, claimText(flattened[name]))
	}
	out.WriteString("    }\nacceptable reference values that the attestation policy consulted:\n    {\n")
	for _, consulted := range a.Consulted {
		fmt.Fprintf(&out, "%s%q: %s,\n", indent, consulted.Name, referenceText(consulted.Value))
	}
	out.WriteString("    }\n")
	return out.String()
}

// flatten puts nested claims under names joined by dots.
func flatten(into map[string]any, prefix string, value any) {
	object, ok := value.(map[string]any)
	if !ok {
		into[prefix] = value
		return
	}
	for name, inner := range object {
		flatten(into, prefix+"."+name, inner)
	}
}

func claimText(value any) string {
	if text, ok := value.(string); ok {
		return fmt.Sprintf("String(%q)", text)
	}
	return jsonText(value)
}

func referenceText(value any) string {
	values, ok := value.([]any)
	if !ok || len(values) == 0 {
		return jsonText(value)
	}
	var out strings.Builder
	out.WriteString("[\n")
	for _, one := range values {
		fmt.Fprintf(&out, "%s    %s,\n", indent, jsonText(one))
	}
	out.WriteString(indent + "]")
	return out.String()
}

func jsonText(value any) string {
	raw, err := json.Marshal(value)
	if err != nil {
		return "null"
	}
	return string(raw)
}
