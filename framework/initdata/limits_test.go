package initdata

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"runtime"
	"strings"
	"testing"
)

// twoMembers is base64 of gzip.compress(raw[:20]) + gzip.compress(raw[20:]).
const twoMembers = "H4sIAAAAAAACAytLLSrOzM9TsFVQMtAz1DNQ4krMAQAXiLbEFAAAAB+LCAAAAAAAAgNLzy/KLMnIVbBVUCrOSDQyNVPi4opOSSxJjOUCAI/6Y4sbAAAA"

func encode(t testing.TB, raw string) string {
	t.Helper()
	value, err := EncodeAnnotation([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// A GiB, as a thousand gzip members of a MiB each: what reads it has to stop, and to need no more than it may keep.
func TestDecodeAnnotationBounds(t *testing.T) {
	member, err := compress(bytes.Repeat([]byte("\n"), 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	bomb := base64.StdEncoding.EncodeToString(bytes.Repeat(member, 1<<10))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = DecodeAnnotation(bomb)
	runtime.ReadMemStats(&after)
	var (
		typed *AnnotationError
		large *TooLargeError
	)
	if !errors.As(err, &typed) || !errors.As(err, &large) || !strings.Contains(err.Error(), "longer than 4128768 bytes") {
		t.Errorf("DecodeAnnotation: %v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 10*MaxSize {
		t.Errorf("refusing took %d bytes of memory, limit %d", used, 10*MaxSize)
	}
	if _, err := DecodeLegacyAnnotation(EncodeLegacyAnnotation(make([]byte, MaxSize+1))); !errors.As(err, &large) {
		t.Errorf("DecodeLegacyAnnotation: %v", err)
	}
	if _, err := Parse(make([]byte, MaxSize+1)); !errors.As(err, &large) {
		t.Errorf("Parse: %v", err)
	}
}

// The edge itself is inside.
func TestDecodeAnnotationLargest(t *testing.T) {
	raw := strings.Repeat("#", MaxSize-1) + "\n"
	if got, err := DecodeAnnotation(encode(t, raw)); err != nil || string(got) != raw {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	var large *TooLargeError
	if _, err := DecodeAnnotation(encode(t, raw+"\n")); !errors.As(err, &large) {
		t.Errorf("a byte more: %v", err)
	}
}

func TestParseErrorsAreTyped(t *testing.T) {
	_, err := Parse([]byte("version = \"0.1.0\"\nalgorithm = sha256\n"))
	var syntax *SyntaxError
	if !errors.As(err, &syntax) || syntax.Line != 2 || syntax.Key != "algorithm" {
		t.Errorf("not TOML: %#v", err)
	}
	_, err = Parse([]byte("[data]\naa.toml = \"x\"\n"))
	var field *FieldTypeError
	if !errors.As(err, &field) || field.Field != `data."aa"` || field.Want != "string" || field.Got != "table" ||
		!strings.Contains(err.Error(), `its name in quotes if it has a dot: "aa.toml"`) {
		t.Errorf("name without quotes: %v", err)
	}
}

// Expectations: `sha256sum`, `sha384sum`, `sha512sum`, which agree with `openssl dgst`, of the bytes as written. What a
// line ends with, and whether the last one ends at all, is part of them.
func TestDigestOfLineEnds(t *testing.T) {
	const text = "version = \"0.1.0\"\nalgorithm = \"shaN\"\n\n[data]\n"
	for algorithm, want := range map[string]struct{ lf, crlf, open string }{
		"sha256": {
			"5fbba2d190b4c600dc48b80802559460ecae499f76f079e9ad2ebd4e3c7eb65f",
			"0929e0fa10783e41c340b139ca1c935cda2514bb854ba13b00196182113f973c",
			"96f072eaac0873b55a4c9d4fafbc87a4f18a629760770d57ee801ef4390ce9c0",
		},
		"sha384": {
			"e2a3a5e0a842c539638ff1d392937c6d00b2ddfdf1d8a72b449e337ba4e7104a7b8788b61042c2c865a6017d8472bf2b",
			"53375848da0e50b27f391785f9a80e0e36d35948b8da8615f68f773887c9dad3d9c64310cc517c321161af2bf59c506f",
			"0a21ca59979d69d42c44b88fbdfc9f09763da626aaac8a4653cac78a3713434d0da865249af5fa02e1a864deb997e3db",
		},
		"sha512": {
			"b2990822659a11d57c0bc2cc7219bc2468d507e4c9acb0e2203678ca198de3b806d4794f17ee976b41028b8735ea0dabb3b1b2742c20d7e944bcd8e9c92a0952",
			"e2f68fa9f9dfff9101bc4225099e213097752b8ee732acd890ab49b67aa70a9bfe3fa714d5e1cdb2835e39415959d662821e4b05a3ff03e56258b20109d45f35",
			"1e09fa6999ff9acdfeaabd6e8234db38c8351339f347c1498d34a5bffed0dd25aada4ed91105df27b7b43d745e44494f56f53b10544e4164a47c75b0af83a3de",
		},
	} {
		lf := strings.Replace(text, "shaN", algorithm, 1)
		for raw, want := range map[string]string{
			lf:                                   want.lf,
			strings.ReplaceAll(lf, "\n", "\r\n"): want.crlf,
			strings.TrimSuffix(lf, "\n"):         want.open,
		} {
			parsed, err := Parse([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			if digest, err := parsed.Digest(); err != nil || hex.EncodeToString(digest) != want {
				t.Errorf("%q: %x, %v; want %s", raw, digest, err, want)
			}
		}
	}
}
