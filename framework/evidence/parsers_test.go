package evidence

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// documents is good evidence of every kind that has hardware below, under test roots.
func documents(t testing.TB) map[string][]byte {
	report, digest := fromHex(t, reportData), fromHex(t, digestInPCR8)
	raw := signReport(t, goodReport(report, digest), vendors().vcek.key)
	return map[string][]byte{
		KindSNP:       asJSON(t, snpDocument(raw, vendors().vcek.cert)),
		KindTDX:       asJSON(t, tdxDocument(t, goodTDQuote(t, report, digest), []byte{0xff})),
		KindAzSNPVTPM: asJSON(t, goodAzure(t, KindAzSNPVTPM, report, fromHex(t, quotedPCR8)).document(t, 2)),
		KindAzTDXVTPM: asJSON(t, goodAzure(t, KindAzTDXVTPM, report, fromHex(t, quotedPCR8)).document(t, 2)),
		KindSample:    []byte(`{"svn":"1","report_data":"AAAA"}`),
	}
}

// Each field that the parsers read, in turn: missing, null, of another type, twice.
func TestParsersNameTheField(t *testing.T) {
	for kind, raw := range documents(t) {
		var document map[string]any
		if err := json.Unmarshal(raw, &document); err != nil {
			t.Fatal(err)
		}
		for _, path := range paths("", document) {
			name := path[strings.LastIndex(path, ".")+1:]
			// These may be missing; cert_chain is a list, whose items are below.
			optional := map[string]bool{
				"fmc": true, "cpuid_fam_id": true, "cpuid_mod_id": true, "cpuid_step": true, "launch_mit_vector": true,
				"current_mit_vector": true, "cc_eventlog": true,
			}[name]
			for problem, value := range map[string]any{"missing": missing{}, "null": nil, "other type": map[string]any{"x": true}} {
				if optional && problem != "other type" || kind == KindAzSNPVTPM && name == "version" || kind == KindAzTDXVTPM && name == "version" {
					continue
				}
				changed := asJSON(t, with(document, strings.Split(path, "."), value))
				_, err := Verify(kind, changed, fromHex(t, reportData), testOptions(t))
				var format *FormatError
				if !errors.As(err, &format) || !strings.Contains(err.Error(), name) {
					t.Errorf("%s: %s %s: %v", kind, path, problem, err)
				}
			}
		}
		twice := strings.Replace(string(raw), "{", `{"x":1,"x":2,`, 1)
		if _, err := Verify(kind, []byte(twice), fromHex(t, reportData), testOptions(t)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), `"x" occurs twice`) {
			t.Errorf("%s: a name twice: %v", kind, err)
		}
		if _, err := Verify(kind, append(raw, " {}"...), fromHex(t, reportData), testOptions(t)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "more than one JSON value") {
			t.Errorf("%s: something after it: %v", kind, err)
		}
	}
}

type missing struct{}

func paths(prefix string, document map[string]any) []string {
	var list []string
	for name, value := range document {
		list = append(list, prefix+name)
		if inner, ok := value.(map[string]any); ok {
			list = append(list, paths(prefix+name+".", inner)...)
		}
	}
	return list
}

// with is a copy of the document in which one field is replaced.
func with(document map[string]any, path []string, value any) map[string]any {
	changed := map[string]any{}
	for name, old := range document {
		changed[name] = old
	}
	if len(path) > 1 {
		changed[path[0]] = with(document[path[0]].(map[string]any), path[1:], value)
	} else if _, remove := value.(missing); remove {
		delete(changed, path[0])
	} else {
		changed[path[0]] = value
	}
	return changed
}

func TestParseSNPReadsNumbersStrictly(t *testing.T) {
	good := string(documents(t)[KindSNP])
	for name, c := range map[string]struct{ old, replaced, want string }{
		"byte too big":       {`"vmpl":0`, `"vmpl":4294967296`, "field attestation_report.vmpl: not a number that fits uint32"},
		"fraction":           {`"vmpl":0`, `"vmpl":0.5`, "attestation_report.vmpl"},
		"negative":           {`"vmpl":0`, `"vmpl":-1`, "attestation_report.vmpl"},
		"list too short":     {`"host_data":[`, `"host_data":[],"x":[`, "field attestation_report.host_data: 0 bytes, want 32"},
		"number in list":     {`"host_data":[`, `"host_data":[256,`, "attestation_report.host_data"},
		"null in list":       {`"image_id":[0`, `"image_id":[null`, "attestation_report.image_id[0]: not a number"},
		"list as text":       {`"image_id":[0`, `"image_id":"","x":[0`, "attestation_report.image_id"},
		"FMC before Turin":   {`"fmc":null`, `"fmc":1`, "no processor before Turin"},
		"two keys":           {`"cert_chain":[`, `"cert_chain":[{"cert_type":"VCEK","data":[0]},`, "cert_chain"},
		"no key":             {`"cert_type":"VCEK"`, `"cert_type":"ARK"`, "cert_chain: no VCEK"},
		"no chain":           {`"cert_chain":[`, `"cert_chain":null,"x":[`, "does not ask AMD's server"},
		"reserved not zero":  {`"signature":{`, `"signature":{"_reserved":[` + strings.Repeat("1,", 367) + `1],`, "bytes after the signature"},
		"reserved too short": {`"signature":{`, `"signature":{"_reserved":[1],`, "signature._reserved: 1 bytes, want 368"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(good, c.old, c.replaced, 1)
			if changed == good {
				t.Fatal("nothing was replaced")
			}
			if _, err := ParseSNP([]byte(changed)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseSNP: %v, want …%s…", err, c.want)
			}
		})
	}
}

func TestLoadRoots(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadRoots(dir); err == nil || !strings.Contains(err.Error(), "has neither") {
		t.Errorf("empty: %v", err)
	}
	write := func(name string, raw []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("amd-ark.pem", intelRootPEM)
	if _, err := LoadRoots(dir); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("ARK alone: %v", err)
	}
	write("amd-ask.pem", intelRootPEM)
	write("intel-root.pem", intelRootPEM)
	roots, err := LoadRoots(dir)
	if err != nil || len(roots.AMD) != 1 || len(roots.Intel) != 1 || roots.Intel[0].Subject.CommonName != "Intel SGX Root CA" {
		t.Errorf("%+v, %v", roots, err)
	}
	write("intel-root.pem", []byte("nonsense"))
	if _, err := LoadRoots(dir); err == nil || !strings.Contains(err.Error(), "intel-root.pem: not a PEM certificate") {
		t.Errorf("no PEM: %v", err)
	}
}

// fuzz checks that a parser neither panics nor gives evidence beside an error, and that changed evidence never verifies
// with other claims than the good one.
func fuzz(f *testing.F, kind string) {
	good := documents(f)[kind]
	f.Add(good)
	f.Add([]byte("{}"))
	options := testOptions(f)
	report := fromHex(f, reportData)
	want, err := Verify(kind, good, report, options)
	if err != nil {
		f.Fatal(err)
	}
	expected := string(asJSON(f, want.Map()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		claims, err := Verify(kind, raw, report, options)
		if (err == nil) != (claims != nil) {
			t.Fatalf("%v beside %v", claims, err)
		}
		if err == nil && string(asJSON(t, claims.Map())) != expected {
			t.Fatalf("forged: %s", raw)
		}
	})
}

func FuzzParseSNP(f *testing.F)   { fuzz(f, KindSNP) }
func FuzzParseTDX(f *testing.F)   { fuzz(f, KindTDX) }
func FuzzParseAzSNP(f *testing.F) { fuzz(f, KindAzSNPVTPM) }
func FuzzParseAzTDX(f *testing.F) { fuzz(f, KindAzTDXVTPM) }

func FuzzParseTDXQuote(f *testing.F) {
	f.Add(tdxTestdata(f, "ccel/cos-113-tdx-quote.dat"))
	f.Add(goodTDQuote(f, nil, nil).bytes(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if quote, err := parseTDXQuote("quote", raw); err == nil {
			_, _, _ = quote.verify(Options{})
		}
	})
}

func FuzzParseHCL(f *testing.F) {
	azure, err := ParseAzSNP(fixture(f, "az-snp-vtpm-v2.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(azure.HCLReport, uint32(2))
	f.Fuzz(func(t *testing.T, raw []byte, kind uint32) {
		if hcl, err := parseHCL("hcl_report", raw, kind); err == nil && (hcl.ak == nil || len(hcl.varData) > len(raw)) {
			t.Fatalf("%+v", hcl)
		}
	})
}

func FuzzParseSample(f *testing.F) {
	f.Add([]byte(`{"svn":"1","report_data":"AAAA"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if sample, err := ParseSample(raw); (err == nil) != (sample != nil) {
			t.Fatalf("%v beside %v", sample, err)
		}
	})
}
