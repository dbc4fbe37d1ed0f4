package initdata

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

func TestCheckNesting(t *testing.T) {
	deep := strings.Repeat("[", MaxNesting+1)
	for name, c := range map[string]struct {
		document string
		line     int // of the refusal; 0 for none
	}{
		"a document":          {document, 0},
		"nothing":             {"", 0},
		"arrays to the limit": {"x = " + strings.Repeat("[", MaxNesting) + strings.Repeat("]", MaxNesting), 0},
		"one array more":      {"x = " + deep, 1},
		"arrays side by side": {"x = [" + strings.Repeat("[],", 1000) + "]", 0},
		"inline tables":       {"a = 1\nx = " + strings.Repeat("{a = ", MaxNesting+1), 2},
		"dotted key":          {strings.Repeat("a.", MaxNesting+1) + "a = 1", 1},
		"dotted header":       {"[" + strings.Repeat("a.", MaxNesting) + "a]\n", 1},
		"array of tables":     {"[[" + strings.Repeat("a.", MaxNesting) + "a]]\n", 1},
		"header and key":      {"[" + strings.Repeat("a.", MaxNesting/2) + "a]\n" + strings.Repeat("a.", MaxNesting/2+1) + "a = 1", 2},
		"header after header": {"[" + strings.Repeat("a.", MaxNesting/2) + "a]\n[b]\n" + strings.Repeat("a.", MaxNesting/2+1) + "a = 1", 0},
		"keys with spaces":    {strings.Repeat("a . \t", MaxNesting+1) + "a = 1", 1},
		"quoted parts":        {strings.Repeat(`"a".`, MaxNesting+1) + "a = 1", 1},
		"inline dotted":       {"x = {" + strings.Repeat("a.", MaxNesting/2) + "a = {" + strings.Repeat("a.", MaxNesting/2) + "a = 1}}", 1},
		"many floats":         {"x = [" + strings.Repeat("1.5, ", 1000) + "]", 0},
		"floats on lines":     {strings.Repeat("x = 1.5\n", 1000), 0},
		"in a comment":        {"# " + deep, 0},
		"in a string":         {`x = "` + deep + `"`, 0},
		"after an escape":     {`x = "\"` + deep + `"`, 0},
		"in a literal string": {"x = '" + deep + `\'`, 0},
		"in a long string":    {"x = '''\n'" + deep + "\n''\n'''\n", 0},
		"after a long string": {"x = '''\n'''\ny = " + deep, 3},
		"quote at the end":    {`x = """"""""` + "\ny = " + deep, 2},
		"quotes at the end":   {`x = """a"""""` + "\ny = " + deep, 2},
		"over lines":          {"x = [\n" + strings.Repeat("[\n", MaxNesting), MaxNesting + 1},
		"open string":         {`x = "` + "\ny = " + deep, 2},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckNesting([]byte(c.document))
			if c.line == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var nesting *NestingError
			if !errors.As(err, &nesting) || nesting.Line != c.line {
				t.Errorf("%v, want a refusal in line %d", err, c.line)
			}
		})
	}
}

// A program that parsed this would be ended by Go's runtime: nothing can recover from the end of its stack.
func TestParseSurvivesBrackets(t *testing.T) {
	for _, open := range []string{"[", "{a=", "{a.a=", "[{a="} {
		raw := []byte("x = " + strings.Repeat(open, MaxSize/len(open)-4))
		start := time.Now()
		var nesting *NestingError
		if _, err := Parse(raw); !errors.As(err, &nesting) {
			t.Errorf("Parse: %v", err)
		}
		if err := checkTOML(raw); !errors.As(err, &nesting) {
			t.Errorf("as the shim: %v", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %s", took)
		}
	}
}

// What passes has no more levels than that once a parser has read it: a table header gives two for each of its parts
// where every one is an array of tables.
func FuzzCheckNesting(f *testing.F) {
	for _, text := range []string{
		document, "a.b.c = {x = [1.5, \"#\"]} # {\n[[t.u]]\n[t.u.v]\nx = '''\n[[['''\n", "x = [\n[ # ]\n'''[''', \"\"\"\\\"[\"\"\"]]\n",
		strings.Repeat("a.", MaxNesting) + "a = 1", "x = \"\"\"\"[\"\"\"\"\"\ny = " + strings.Repeat("[", 40) + strings.Repeat("]", 40),
		"[\"a.b\" . c ]\n'd' . \"e\" = {f.g.h = {i = [[]]}}\r\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if CheckNesting([]byte(text)) != nil {
			return
		}
		var read map[string]any
		if toml.Unmarshal([]byte(text), &read) != nil {
			return
		}
		if n := levels(read); n > 2*(MaxNesting+2) {
			t.Errorf("%d levels passed", n)
		}
	})
}

func levels(value any) int {
	deepest := 0
	switch value := value.(type) {
	case map[string]any:
		for _, v := range value {
			deepest = max(deepest, levels(v))
		}
	case []any:
		for _, v := range value {
			deepest = max(deepest, levels(v))
		}
	case []map[string]any:
		for _, v := range value {
			deepest = max(deepest, levels(v))
		}
	default:
		return 0
	}
	return deepest + 1
}
