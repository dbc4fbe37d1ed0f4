package initdata

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// annotation = python3 -c 'base64.b64encode(gzip.compress(raw, 9, mtime=0))'
const annotation = "H4sIAAAAAAACAzWMwQrCMBBE7/sVIZecTKOglIJfUkpZa0xC02xItkL/3lbxMJd5bwajoxLYL+Iu" +
	"ZPV4ud4kvG2pgdJRGX3WRgL0T2QcQCJqpiXKnSmloGeabRonSq/gqp4fdYC1xIN65tw1zbKdsHat" +
	"aY2CYyEzxTBtulhH/5eM04zOij2Jx5/wlT+aZhk+ngAAAA=="

// legacyAnnotation = base64 -w0 init-data.toml
const legacyAnnotation = "YWxnb3JpdGhtID0gInNoYTI1NiIKdmVyc2lvbiA9ICIwLjEuMCIKCltkYXRhXQoiYWEudG9tbCIgPSAnJycKW3Rva2Vu" +
	"X2NvbmZpZ3Mua2JzXQp1cmwgPSAnaHR0cDovL215LWFzOjgwODAnCicnJwoicG9saWN5LnJlZ28iID0gJycnCnBhY2thZ2UgYWdlbnRfcG9saWN5" +
	"CicnJwo="

func TestDecodeAnnotation(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"python3":             {annotation, document},
		"base64.encodebytes":  {annotation[:76] + "\n" + annotation[76:152] + "\n" + annotation[152:] + "\n", document},
		"CRLF":                {annotation[:76] + "\r\n" + annotation[76:], document},
		"algorithm md5":       {"H4sIAAAAAAACA0vMSc8vyizJyFWwVVDKTTFV4gIABJqVmRIAAAA=", "algorithm = \"md5\"\n"},
		"empty TOML":          {"H4sIAAAAAAACAwMAAAAAAAAAAAA=", ""},
		"version 9.9.9":       {"H4sIAAAAAAACA0vMSc8vyizJyFWwVVAqzkg0MjVT4ipLLSrOzM8DCVnqAaESV3RKYkliLBcA2Ylaxy4AAAA=", "algorithm = \"sha256\"\nversion = \"9.9.9\"\n[data]\n"},
		"two gzip members":    {twoMembers, "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n"},
		"no init-data at all": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := DecodeAnnotation(c.value); err != nil || string(got) != c.want {
				t.Errorf("DecodeAnnotation = %q, %v", got, err)
			}
		})
	}
}

// The texts before the annotation's name were recorded from Kata 4.1's Go shim, or follow from the standard library's
// rules, which are Kata's too; the remedies after it are our own. The values were made with python3's gzip and base64.
func TestDecodeAnnotationRefuses(t *testing.T) {
	const (
		alphabet = "encode with the standard base64 alphabet"
		early    = "the value ends early"
		noGzip   = "what the base64 holds is no gzip, or has other bytes after it"
		toml     = "correct the TOML"
	)
	for name, c := range map[string]struct{ value, want, remedy string }{
		"bad base64":         {"!!!not base64!!!", "initdata create gzip reader error: illegal base64 data at input byte 0", alphabet},
		"base64 of text":     {"VGhpcyBpcyBub3QgZ3ppcHBlZA==", "initdata create gzip reader error: gzip: invalid header", noGzip},
		"base64 of TOML":     {legacyAnnotation, "initdata create gzip reader error: gzip: invalid header", "compress the document with gzip before base64"},
		"truncated gzip":     {"H4sIAAAAAAACAzWMwQrCMBBE7/sVIZecTKOglIJfUkpZa0xC02xItkL/3lbxMJd5bwajoxLYL+IuZPV4ud4kvG2pgdJRGX3WRgL0T2QcQCJqpiXKnSmloGeabRonSq/gqp4fdYC1xIN65tw1zbKdsHataY2CYyEzxTBtulhH/5c=", "uncompressing initdata with gzip error: unexpected EOF", early},
		"truncated base64":   {annotation[:130], "uncompressing initdata with gzip error: unexpected EOF", early},
		"base64url alphabet": {strings.NewReplacer("+", "-", "/", "_").Replace(annotation), "uncompressing initdata with gzip error: illegal base64 data at input byte 25", alphabet},
		"broken TOML":        {"H4sIAAAAAAACAytLLSrOzM9TsFVQMtAz1DNQ4krMSc8vyizJyAWKFWckGpmacQEAkknL6CUAAAA=", `parsing initdata annotation failed: toml: line 2 (last key "algorithm"): expected value but found "sha" instead`, toml},
		"checksum":           {annotation[:len(annotation)-12] + "AAAA" + annotation[len(annotation)-8:], "uncompressing initdata with gzip error: gzip: invalid checksum", "the value is damaged"},
		"only three bytes":   {"AAAA", "initdata create gzip reader error: unexpected EOF", early},
		"only line ends":     {"\n\n", "initdata create gzip reader error: EOF", early},
		"a blank before":     {" " + annotation, "initdata create gzip reader error: illegal base64 data at input byte 0", alphabet},
		"bytes after gzip":   {"H4sIAAAAAAACAytLLSrOzM9TsFVQMtAz1DNQ4krMSc8vyizJyAWJFWckGpmaKXFxRackliTGcgEAwFeFLC8AAAB0cmFpbGluZyB0ZXh0Li4u", "uncompressing initdata with gzip error: gzip: invalid header", noGzip},
		"zeros after gzip":   {"H4sIAAAAAAACAytLLSrOzM9TsFVQMtAz1DNQ4krMSc8vyizJyAWJFWckGpmaKXFxRackliTGcgEAwFeFLC8AAAAAAAAAAAAAAAAAAAAAAAAA", "uncompressing initdata with gzip error: gzip: invalid header", noGzip},
		"duplicate file":     {encode(t, "algorithm = \"sha256\"\n[data]\nx = ''\nx = ''\n"), `parsing initdata annotation failed: toml: line 4 (last key "data.x"): Key 'data.x' has already been defined.`, toml},
		"duplicate table":    {encode(t, "[data]\nx = ''\n[data]\n"), `parsing initdata annotation failed: toml: line 3`, toml},
		"not UTF-8":          {encode(t, "algorithm = \"sha256\"\nversion = \"\xff\"\n"), "parsing initdata annotation failed: toml: line 2", toml},
		"a table in data":    {encode(t, "[data.\"aa.toml\"]\nx = ''\n"), "parsing initdata annotation failed: toml: ", toml},
		"brackets":           {encode(t, "\nx = "+strings.Repeat("[", 1<<20)), "parsing initdata annotation failed: line 2: tables, arrays or dotted keys lie more than 32 deep", "make the document flatter"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeAnnotation(c.value)
			var typed *AnnotationError
			if !errors.As(err, &typed) || typed.Annotation != AnnotationKey {
				t.Fatalf("DecodeAnnotation: %v", err)
			}
			kata, remedy, ok := strings.Cut(err.Error(), "; annotation io.katacontainers.config.hypervisor.cc_init_data: ")
			if !ok || !matches(kata, c.want) || !strings.Contains(remedy, c.remedy) {
				t.Errorf("DecodeAnnotation:\n got %v\nwant %s\n     %s", err, c.want, c.remedy)
			}
		})
	}
}

// matches compares texts as a whole, but for what is wrong with TOML only how it begins: the parser may word it anew.
func matches(text, want string) bool {
	return text == want || strings.HasPrefix(want, "parsing ") && strings.HasPrefix(text, want)
}

func TestDecodeAnnotationTypes(t *testing.T) {
	for name, value := range map[string]string{
		"version = 1": "H4sIAAAAAAACAytLLSrOzM9TsFUw5AIANjxS9wwAAAA=",
		"data x = 1":  "H4sIAAAAAAACA4tOSSxJjOWqULBVMOQCABvx5L8NAAAA",
	} {
		_, err := DecodeAnnotation(value)
		if err == nil || !strings.HasPrefix(err.Error(), "parsing initdata annotation failed: toml: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEncodeAnnotation(t *testing.T) {
	first, err := EncodeAnnotation([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecodeAnnotation(first); err != nil || string(back) != document {
		t.Errorf("came back as %q, %v", back, err)
	}
	if second, err := EncodeAnnotation([]byte(document)); err != nil || second != first {
		t.Errorf("not the same value for the same bytes: %v", err)
	}
}

func TestLegacyAnnotation(t *testing.T) {
	if got := EncodeLegacyAnnotation([]byte(document)); got != legacyAnnotation {
		t.Errorf("EncodeLegacyAnnotation = %s", got)
	}
	if got, err := DecodeLegacyAnnotation(legacyAnnotation); err != nil || string(got) != document {
		t.Errorf("DecodeLegacyAnnotation = %q, %v", got, err)
	}
	if got, err := DecodeLegacyAnnotation(""); err != nil || got != nil {
		t.Errorf("DecodeLegacyAnnotation of nothing = %q, %v", got, err)
	}
	for value, want := range map[string]string{
		"!!!":      "decoding initdata annotation failed: illegal base64 data at input byte 0; annotation io.katacontainers.config.runtime.cc_init_data: ",
		annotation: "parsing initdata annotation failed: toml: ",
	} {
		if _, err := DecodeLegacyAnnotation(value); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("DecodeLegacyAnnotation(%.20s): %v, want %s…", value, err, want)
		}
	}
}

func FuzzDecodeAnnotation(f *testing.F) {
	f.Add(annotation)
	f.Add(legacyAnnotation)
	f.Add(annotation[:100])
	f.Add(strings.NewReplacer("+", "-", "/", "_").Replace(annotation))
	f.Add(encode(f, "x = "+strings.Repeat("[", 100)))
	f.Add(encode(f, "[data]\n\"a.b\" = \"\"\"\\u0000\"\"\"\n"))
	f.Add(twoMembers)
	f.Fuzz(func(t *testing.T, value string) {
		raw, err := DecodeAnnotation(value)
		if err != nil || raw == nil {
			return
		}
		again, err := EncodeAnnotation(raw)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeAnnotation(again); err != nil || !bytes.Equal(back, raw) {
			t.Fatalf("%q came back as %q, %v", raw, back, err)
		}
	})
}
