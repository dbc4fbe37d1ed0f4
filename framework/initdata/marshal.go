package initdata

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// New authors a document of version [Version] from files. Raw holds the TOML that [InitData.Marshal] makes. The
// algorithm must be one of [Algorithms]; to author a deliberately wrong document, fill an InitData and Marshal it.
func New(algorithm string, files map[string]string) (*InitData, error) {
	initData := &InitData{Version: Version, Algorithm: algorithm, Data: maps.Clone(files)}
	if initData.Data == nil {
		initData.Data = map[string]string{}
	}
	if err := initData.Validate(); err != nil {
		return nil, fmt.Errorf("new init-data: %w", err)
	}
	raw, err := initData.Marshal()
	if err != nil {
		return nil, fmt.Errorf("new init-data: %w", err)
	}
	initData.Raw = raw
	return initData, nil
}

// Marshal writes Version, Algorithm and Data as TOML: the same bytes for the same content, files sorted by name,
// contents as literal strings that people can read wherever TOML permits. It judges nothing but that every string is
// UTF-8, and leaves Raw alone.
func (i *InitData) Marshal() ([]byte, error) {
	var out strings.Builder
	for _, field := range []struct{ name, value string }{{"algorithm", i.Algorithm}, {"version", i.Version}} {
		if !utf8.ValidString(field.value) {
			return nil, fmt.Errorf("marshal init-data: field %s is not UTF-8; TOML holds nothing else", field.name)
		}
		fmt.Fprintf(&out, "%s = %s\n", field.name, basicString(field.value))
	}
	out.WriteString("\n[data]\n")
	for _, name := range sortedKeys(i.Data) {
		content := i.Data[name]
		if !utf8.ValidString(name) || !utf8.ValidString(content) {
			return nil, fmt.Errorf("marshal init-data: field data.%q is not UTF-8; TOML holds nothing else", name)
		}
		fmt.Fprintf(&out, "%s = %s\n", basicString(name), contentString(content))
	}
	return []byte(out.String()), nil
}

// contentString prefers a multi-line literal string, in which nothing is escaped. TOML drops the newline after the
// opening quotes, so a leading newline of the content survives.
func contentString(content string) string {
	if fitsLiteral(content) {
		return "'''\n" + content + "'''"
	}
	return basicString(content)
}

// fitsLiteral says whether every TOML parser reads content back from a multi-line literal string unchanged. Carriage
// returns are out because parsers may normalise line ends; a trailing quote is out because it is legal before the
// closing quotes only since TOML 1.0.
func fitsLiteral(content string) bool {
	if strings.Contains(content, "'''") || strings.HasSuffix(content, "'") {
		return false
	}
	return !strings.ContainsFunc(content, func(r rune) bool {
		return (r < 0x20 && r != '\t' && r != '\n') || r == 0x7f
	})
}

// basicString is a TOML basic string: quoted, on one line, control characters escaped.
func basicString(content string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range content {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\t':
			out.WriteString(`\t`)
		case r == '\r':
			out.WriteString(`\r`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&out, `\u%04X`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
