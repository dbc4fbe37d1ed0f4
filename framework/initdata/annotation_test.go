package initdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
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
		"no init-data at all": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := DecodeAnnotation(c.value); err != nil || string(got) != c.want {
				t.Errorf("DecodeAnnotation = %q, %v", got, err)
			}
		})
	}
}

// The texts were recorded from Kata 4.1's Go shim. The values were made with python3's gzip and base64.
func TestDecodeAnnotationRefuses(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"bad base64":         {"!!!not base64!!!", "initdata create gzip reader error: illegal base64 data at input byte 0"},
		"base64 of text":     {"VGhpcyBpcyBub3QgZ3ppcHBlZA==", "initdata create gzip reader error: gzip: invalid header"},
		"base64 of TOML":     {legacyAnnotation, "initdata create gzip reader error: gzip: invalid header"},
		"truncated gzip":     {"H4sIAAAAAAACAzWMwQrCMBBE7/sVIZecTKOglIJfUkpZa0xC02xItkL/3lbxMJd5bwajoxLYL+IuZPV4ud4kvG2pgdJRGX3WRgL0T2QcQCJqpiXKnSmloGeabRonSq/gqp4fdYC1xIN65tw1zbKdsHataY2CYyEzxTBtulhH/5c=", "uncompressing initdata with gzip error: unexpected EOF"},
		"truncated base64":   {annotation[:130], "uncompressing initdata with gzip error: unexpected EOF"},
		"base64url alphabet": {strings.NewReplacer("+", "-", "/", "_").Replace(annotation), "uncompressing initdata with gzip error: illegal base64 data at input byte 25"},
		"broken TOML":        {"H4sIAAAAAAACAytLLSrOzM9TsFVQMtAz1DNQ4krMSc8vyizJyAWKFWckGpmacQEAkknL6CUAAAA=", `parsing initdata annotation failed: toml: line 2 (last key "algorithm"): expected value but found "sha" instead`},
		"checksum":           {annotation[:len(annotation)-12] + "AAAA" + annotation[len(annotation)-8:], "uncompressing initdata with gzip error: gzip: invalid checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeAnnotation(c.value)
			if err == nil || err.Error() != c.want {
				t.Errorf("DecodeAnnotation:\n got %v\nwant %s", err, c.want)
			}
		})
	}
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

func TestDecodeAnnotationBounds(t *testing.T) {
	var bomb bytes.Buffer
	encoder := gzip.NewWriter(&bomb)
	blank := bytes.Repeat([]byte("\n"), 1<<20)
	for range MaxSize>>20 + 1 {
		if _, err := encoder.Write(blank); err != nil {
			t.Fatal(err)
		}
	}
	if err := encoder.Close(); err != nil {
		t.Fatal(err)
	}
	var large *TooLargeError
	if _, err := DecodeAnnotation(base64.StdEncoding.EncodeToString(bomb.Bytes())); !errors.As(err, &large) {
		t.Errorf("DecodeAnnotation of %d bytes that decompress to more than the limit: %v", bomb.Len(), err)
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
		"!!!":      "decoding initdata annotation failed: illegal base64 data at input byte 0",
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
