package initdata

import (
	"encoding/hex"
	"errors"
	"maps"
	"strings"
	"testing"
)

// document is the file whose digests, annotations and image the tables hold; with printf into init-data.toml they are
// made by other tools.
const document = `algorithm = "sha256"
version = "0.1.0"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = 'http://my-as:8080'
'''
"policy.rego" = '''
package agent_policy
'''
`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"aa.toml":     "[token_configs.kbs]\nurl = 'http://my-as:8080'\n",
		"policy.rego": "package agent_policy\n",
	}
	if got.Version != "0.1.0" || got.Algorithm != "sha256" || !maps.Equal(got.Data, want) || string(got.Raw) != document {
		t.Errorf("Parse = %+v", got)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("Validate: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct{ document, want string }{
		"not TOML":        {"version = \"0.1.0\"\nalgorithm = sha256\n", `toml: line 2 (last key "algorithm"): expected value but found "sha" instead`},
		"integer version": {"version = 1\n", "field version must be a string, not integer"},
		"table algorithm": {"[algorithm]\nname = \"sha256\"\n", "field algorithm must be a string, not table"},
		"data a string":   {"data = \"x\"\n", "field data must be a table, not string"},
		"integer file":    {"[data]\n\"aa.toml\" = 1\n", `field data."aa.toml" must be a string, not integer`},
		"dotted file":     {"[data]\naa.toml = \"x\"\n", `field data."aa" must be a string, not table`},
		"array file":      {"[data]\nx = [\"a\"]\n", `field data."x" must be a string, not array`},
		"duplicate file":  {"[data]\nx = \"a\"\nx = \"b\"\n", "Key 'data.x' has already been defined"},
		"not UTF-8":       {"version = \"\xff\"\n", "invalid UTF-8"},
		"table in data":   {"[data.\"aa.toml\"]\n", `field data."aa.toml" must be a string, not table; give a file's content as one string`},
		"inline table":    {"[data]\n\"aa.toml\" = {x = 1}\n", `field data."aa.toml" must be a string, not table`},
		"date":            {"version = 2026-01-01\n", "field version must be a string, not date or time; put its value in quotes"},
		"boolean version": {"version = true\n", "field version must be a string, not boolean"},
		"float version":   {"version = 0.1\n", "field version must be a string, not float"},
		"array of tables": {"[[data]]\nx = ''\n", "field data must be a table, not array; write [data]"},
		"duplicate table": {"[data]\nx = ''\n[data]\n", "Key 'data' has already been defined"},
		"NUL":             {"version = \"\x00\"\n", "cannot contain control characters"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(c.document)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Parse: %v, want …%s…", err, c.want)
			}
		})
	}
}

// The texts are those of Kata's InitData::validate and of serde; those about missing fields begin with serde's.
func TestValidate(t *testing.T) {
	for name, c := range map[string]struct{ document, want string }{
		"good":               {"version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n", ""},
		"unknown field":      {"version = \"0.1.0\"\nalgorithm = \"sha512\"\nx = 1\n[data]\n", ""},
		"other version":      {"version = \"9.9.9\"\nalgorithm = \"sha256\"\n[data]\n", "unsupported version: 9.9.9, expected: 0.1.0"},
		"empty version":      {"version = \"\"\nalgorithm = \"sha256\"\n[data]\n", "unsupported version: , expected: 0.1.0"},
		"no version":         {"algorithm = \"sha256\"\n[data]\n", "missing field `version`; add version = \"0.1.0\" (names are case-sensitive)"},
		"capital Version":    {"Version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n", "missing field `version`; add version = \"0.1.0\" (names are case-sensitive)"},
		"no algorithm":       {"version = \"0.1.0\"\n[data]\n", "missing field `algorithm`; add algorithm = \"sha256\" (names are case-sensitive)"},
		"no data":            {"version = \"0.1.0\"\nalgorithm = \"sha256\"\n", "missing field `data`; add a [data] table, which may be empty (names are case-sensitive)"},
		"md5":                {"version = \"0.1.0\"\nalgorithm = \"md5\"\n[data]\n", "unsupported algorithm: md5, supported algorithms: sha256, sha384, sha512"},
		"capital SHA-256":    {"version = \"0.1.0\"\nalgorithm = \"SHA-256\"\n[data]\n", "unsupported algorithm: SHA-256, supported algorithms: sha256, sha384, sha512"},
		"version goes first": {"version = \"2\"\nalgorithm = \"md5\"\n[data]\n", "unsupported version: 2, expected: 0.1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := Parse([]byte(c.document))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := parsed.Validate(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("Validate: %q, want %q", got, c.want)
			}
		})
	}
}

// Expectations: sed s/sha256/shaN/ init-data.toml | openssl dgst -shaN
func TestDigest(t *testing.T) {
	for algorithm, want := range map[string]string{
		"sha256": "73b961c00062ba4b8c9924b3321ce5bd2490bc0e0ce93dc2b314c8f8686c3683",
		"sha384": "b216b8377a906e024a932e6a2792e7b0e3b037f5822e46f0f30148a76cbbfa84d93ff270e2b33d5bee52ba47c8cf45d4",
		"sha512": "314c75335909f12fc9481eba67903d38aa43069b97c98014eb7554663352578b" +
			"0cac21d42dbc47a2cc775228875cb114a99aba787a7aa24f1b2ecf2c620d9dfe",
	} {
		parsed, err := Parse([]byte(strings.Replace(document, "sha256", algorithm, 1)))
		if err != nil {
			t.Fatal(err)
		}
		digest, err := parsed.Digest()
		if err != nil || hex.EncodeToString(digest) != want {
			t.Errorf("%s: %x, %v; want %s", algorithm, digest, err, want)
		}
	}
}

// A digest is over bytes, not over meaning: a space more is another document.
func TestDigestIsOverRawBytes(t *testing.T) {
	parsed, err := Parse([]byte(document + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := parsed.Digest()
	// (cat init-data.toml; echo) | openssl dgst -sha256
	if want := "74692f4ef3e26eba7222d7eaf82b4c23a5f08f332f87bb8ceac8b4ed7291d43a"; err != nil || hex.EncodeToString(digest) != want {
		t.Errorf("%x, %v; want %s", digest, err, want)
	}
}

func TestDigestRefuses(t *testing.T) {
	for _, algorithm := range []string{"", "md5", "SHA256", "sha-256"} {
		var unsupported *UnsupportedAlgorithmError
		_, err := (&InitData{Algorithm: algorithm, Raw: []byte{}}).Digest()
		if !errors.As(err, &unsupported) || unsupported.Algorithm != algorithm || !strings.Contains(err.Error(), "sha256, sha384, sha512") {
			t.Errorf("%q: %v", algorithm, err)
		}
	}
	if _, err := (&InitData{Algorithm: "sha256"}).Digest(); err == nil {
		t.Error("a digest without a raw document")
	}
}

func TestNewIsReadable(t *testing.T) {
	got, err := New("sha256", map[string]string{
		"policy.rego": "package agent_policy\n",
		"aa.toml":     "[token_configs.kbs]\nurl = 'http://my-as:8080'\n",
	})
	if err != nil || string(got.Raw) != document {
		t.Errorf("New: %v\n%s", err, got.Raw)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New("md5", nil); err == nil || !strings.Contains(err.Error(), "unsupported algorithm: md5") {
		t.Errorf("New(md5): %v", err)
	}
	if _, err := New("sha256", map[string]string{"aa.toml": "\xff"}); err == nil || !strings.Contains(err.Error(), `data."aa.toml"`) {
		t.Errorf("New with content that is not UTF-8: %v", err)
	}
}

func TestMarshalRoundTrip(t *testing.T) {
	contents := []string{
		"", "\n", "\n\nx", "x", "'", "''", "'''", "x'", "'x", `"""`, `\`, `\n`, "\t", "\r\n", "a\rb", "\x00", "\x7f", "\x1b[0m",
		"ü€𐍈", "\ufeff", "\u2028", "a'''b\n", "ends with backslash\\", "'''\r",
	}
	for _, content := range contents {
		for _, name := range []string{"aa.toml", "", `a"b`, "ü\n", content} {
			made, err := New("sha384", map[string]string{name: content})
			if err != nil {
				t.Fatal(err)
			}
			back, err := Parse(made.Raw)
			if err != nil {
				t.Fatalf("%q: %v\n%s", content, err, made.Raw)
			}
			if !maps.Equal(back.Data, made.Data) || back.Algorithm != "sha384" || back.Validate() != nil {
				t.Errorf("%q = %q came back as %q", name, content, back.Data)
			}
		}
	}
}

// Deliberately wrong documents can be authored for negative tests.
func TestMarshalDoesNotJudge(t *testing.T) {
	raw, err := (&InitData{Version: "9.9.9", Algorithm: "md5"}).Marshal()
	if want := "algorithm = \"md5\"\nversion = \"9.9.9\"\n\n[data]\n"; err != nil || string(raw) != want {
		t.Errorf("Marshal = %q, %v", raw, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(document))
	f.Add([]byte("[data]\nx = [{}]\n"))
	f.Add([]byte("version = '0.1.0'\r\nalgorithm = 'sha512'\r\n[data]\r\n\"a\" = \"\"\"\r\nb\"\"\""))
	f.Add([]byte("a.b.c = {x = [1.5, \"#\"]} # {\n[[t.u]]\n"))
	f.Add([]byte("x = " + strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		parsed, err := Parse(raw)
		if err != nil || parsed.Validate() != nil {
			return
		}
		if _, err := parsed.Digest(); err != nil {
			t.Fatal(err)
		}
		again, err := New(parsed.Algorithm, parsed.Data)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(again.Raw)
		if err != nil || !maps.Equal(back.Data, parsed.Data) {
			t.Fatalf("%v: %q became %q", err, parsed.Data, back.Data)
		}
	})
}
