package evidence

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// testdata/tpm.json holds what tpm2-tools made with a software TPM:
//
//	tpm2_pcrextend 8:sha256=bdc9a7390bb371258fb7fb8be5a8de5ced6a07dd077d1ce04ec26e06eaf68f60
//	tpm2_quote -c 0x81010002 -l sha256:all -q NONCE -m q.msg -s q.sig -f tss -g sha256
//	tpm2_pcrread sha256:all -o q.pcrs
//	tpm2_readpublic -c 0x81010002 -f der -o ak.der
//
// and openssl confirmed: tail -c +7 q.sig > raw; openssl dgst -sha256 -verify ak.pem -signature raw q.msg; the digest in
// q.msg is openssl dgst -sha256 q.pcrs. tpm-pcr8-only.json has a quote with -l sha256:8, tpm-two-banks.json one with
// -l sha256:all+sha1:8.
const (
	digestInPCR8 = "bdc9a7390bb371258fb7fb8be5a8de5ced6a07dd077d1ce04ec26e06eaf68f60"
	quotedPCR8   = "7aaf19294adabd752bf095e1f076baed85d4b088fa990cb575ad0f3e0569f292"
	nonce        = "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c"
	reportData   = nonce + "4597480a186427c813ca941da78870c3" // a SHA-384
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	value, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestVerify(t *testing.T) {
	claims, err := Verify("tpm", fixture(t, "tpm.json"), fromHex(t, reportData), Options{InitDataDigest: fromHex(t, digestInPCR8)})
	if err != nil {
		t.Fatal(err)
	}
	zeros, ones := strings.Repeat("00", 32), strings.Repeat("ff", 32)
	for index, want := range map[int]string{0: zeros, 7: zeros, 8: quotedPCR8, 9: zeros, 16: zeros, 17: ones, 22: ones, 23: zeros} {
		if claims.PCR(index) != want {
			t.Errorf("PCR %d = %s, want %s", index, claims.PCR(index), want)
		}
	}
	if claims.InitData != quotedPCR8 || claims.ReportData != nonce || claims.Kind != "tpm" || claims.AK.N.BitLen() != 2048 {
		t.Errorf("claims: %+v", claims)
	}
	asMap := claims.Map()
	if len(asMap) != 27 || asMap["pcr08"] != quotedPCR8 || asMap["pcr23"] != zeros || asMap["init_data"] != quotedPCR8 ||
		asMap["report_data"] != nonce || !strings.HasPrefix(asMap["ak_public"].(string), "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A") {
		t.Errorf("Map: %v", asMap)
	}
}

// testdata/tpm-trustee.json is what Trustee publishes in deps/verifier/test_data/tpm_evidence.json (here without its layout):
// a quote whose nonce is a SHA-384, zero-padded to 64 bytes. openssl says that the key signed it and what its PCRs hash to.
func TestNonceOf64Bytes(t *testing.T) {
	const report = "a04182b506878d4f29b91ee606a71a0d3361ccf1b22db20c98adcaa537bea393ef0e41a18b3569ab678f1497fbc5c120"
	claims, err := Verify("tpm", fixture(t, "tpm-trustee.json"), fromHex(t, report), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := report + strings.Repeat("00", 16); claims.ReportData != want || claims.Map()["report_data"] != want {
		t.Errorf("report data %s, want %s", claims.ReportData, want)
	}
	if claims.InitData != strings.Repeat("00", 32) || claims.PCR(17) != strings.Repeat("ff", 32) {
		t.Errorf("%+v", claims)
	}
	for what, other := range map[string]string{
		"cut to 32 bytes": report[:64], "another end": report[:94] + "ff", "padded already, and one more": report + strings.Repeat("00", 17),
		"none": "", "an end behind the zeros": report + strings.Repeat("00", 16) + "ff",
	} {
		if _, err := Verify("tpm", fixture(t, "tpm-trustee.json"), fromHex(t, other), Options{}); !errors.Is(err, ErrNonce) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Verify("tpm", fixture(t, "tpm-trustee.json"), fromHex(t, report+strings.Repeat("00", 16)), Options{}); err != nil {
		t.Errorf("padded already: %v", err)
	}
}

func TestVerifyRefusesOtherKinds(t *testing.T) {
	for _, kind := range []string{"", "TPM", "sgx", "az-snp", "cca"} {
		var unsupported *UnsupportedKindError
		_, err := Verify(kind, fixture(t, "tpm.json"), nil, Options{})
		if !errors.Is(err, ErrUnsupportedKind) || !errors.As(err, &unsupported) || unsupported.Kind != kind {
			t.Errorf("Verify(%q): %v", kind, err)
		}
	}
}

// Each case breaks one link of real evidence.
func TestVerifyNamesTheBrokenLink(t *testing.T) {
	flip := func(bytes []byte, at int) { bytes[at] ^= 1 }
	for name, c := range map[string]struct {
		fixture string
		change  func(*TPM)
		report  string
		options Options
		want    error
	}{
		"nothing":              {want: nil},
		"message changed":      {change: func(e *TPM) { flip(e.Message, 70) }, want: ErrSignature},
		"message cut":          {change: func(e *TPM) { e.Message = e.Message[:100] }, want: ErrSignature},
		"signature changed":    {change: func(e *TPM) { flip(e.Signature, 200) }, want: ErrSignature},
		"signature cut":        {change: func(e *TPM) { e.Signature = e.Signature[:255] }, want: ErrSignature},
		"signature missing":    {change: func(e *TPM) { e.Signature = nil }, want: ErrSignature},
		"another key":          {change: func(e *TPM) { e.AK = &softwareKey(t).PublicKey }, want: ErrSignature},
		"PCR 8 changed":        {change: func(e *TPM) { flip(e.PCRs[8][:], 0) }, want: ErrPCRDigest},
		"PCR 23 changed":       {change: func(e *TPM) { flip(e.PCRs[23][:], 31) }, want: ErrPCRDigest},
		"PCRs swapped":         {change: func(e *TPM) { e.PCRs[8], e.PCRs[9] = e.PCRs[9], e.PCRs[8] }, want: ErrPCRDigest},
		"only PCR 8 quoted":    {fixture: "tpm-pcr8-only.json", want: ErrPCRSelection},
		"two banks quoted":     {fixture: "tpm-two-banks.json", want: ErrPCRSelection},
		"other report data":    {report: "00" + reportData[2:], want: ErrNonce},
		"no report data":       {report: "none", want: ErrNonce},
		"short report data":    {report: nonce[:62], want: ErrNonce},
		"the nonce alone":      {report: nonce, want: nil},
		"differs after 32":     {report: nonce + "ff", want: nil},
		"no key trusted":       {options: Options{TrustedAKs: []*rsa.PublicKey{}}, want: ErrUntrustedKey},
		"other key trusted":    {options: Options{TrustedAKs: []*rsa.PublicKey{&softwareKey(t).PublicKey}}, want: ErrUntrustedKey},
		"other init-data":      {options: Options{InitDataDigest: make([]byte, 32)}, want: ErrInitData},
		"sha384 init-data":     {options: Options{InitDataDigest: make([]byte, 48)}, want: ErrInitData},
		"empty init-data hash": {options: Options{InitDataDigest: []byte{}}, want: ErrInitData},
	} {
		t.Run(name, func(t *testing.T) {
			if c.fixture == "" {
				c.fixture = "tpm.json"
			}
			parsed, err := ParseTPM(fixture(t, c.fixture))
			if err != nil {
				t.Fatal(err)
			}
			if c.change != nil {
				c.change(parsed)
			}
			switch c.report {
			case "":
				c.report = reportData
			case "none":
				c.report = ""
			}
			claims, err := parsed.Verify(fromHex(t, c.report), c.options)
			if !errors.Is(err, c.want) || (err == nil) != (claims != nil) {
				t.Errorf("Verify: %v, want %v", err, c.want)
			}
		})
	}
}

func TestVerifyTrustsListedKey(t *testing.T) {
	parsed, err := ParseTPM(fixture(t, "tpm.json"))
	if err != nil {
		t.Fatal(err)
	}
	listed := *parsed.AK
	options := Options{TrustedAKs: []*rsa.PublicKey{&softwareKey(t).PublicKey, &listed}}
	if _, err := parsed.Verify(fromHex(t, reportData), options); err != nil {
		t.Error(err)
	}
}

// A key that is not restricted to TPM structures could sign these; each is a real message with one field changed.
func TestVerifyJudgesSignedMessage(t *testing.T) {
	set := func(at int, to string) func([]byte) []byte {
		return func(message []byte) []byte {
			copy(message[at:], fromHex(t, to))
			return message
		}
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   error
		text   string
	}{
		"unchanged":            {func(m []byte) []byte { return m }, nil, ""},
		"magic":                {set(0, "ff544346"), ErrFormat, "not made by a TPM"},
		"a certification":      {set(4, "8017"), ErrFormat, "want TPM_ST_ATTEST_QUOTE"},
		"name beyond end":      {set(6, "ffff"), ErrFormat, "qualifiedSigner: "},
		"nonce":                {set(44, "0000"), ErrNonce, ""},
		"nonce one shorter":    {func(m []byte) []byte { m[43]--; return append(m[:44:44], m[45:]...) }, ErrNonce, ""},
		"two selections":       {set(104, "02"), ErrFormat, "pcrSelect.pcrSelect: "},
		"no selection":         {func(m []byte) []byte { m[104] = 0; return append(m[:105:105], m[111:]...) }, ErrPCRSelection, "0 banks"},
		"sha1 bank":            {set(105, "0004"), ErrPCRSelection, "bank 0x0004"},
		"all but PCR 8":        {set(109, "fe"), ErrPCRSelection, "bitmap fffeff"},
		"a fourth octet":       {func(m []byte) []byte { m[107] = 4; return append(append(m[:111:111], 0), m[111:]...) }, ErrPCRSelection, "ffffff00"},
		"4 billion selections": {set(101, "ffffffff"), ErrFormat, ""},
		"PCR digest":           {set(113, "00"), ErrPCRDigest, ""},
		"PCR digest cut":       {func(m []byte) []byte { return m[:len(m)-1] }, ErrFormat, "pcrDigest: "},
		"one byte left over":   {func(m []byte) []byte { return append(m, 0) }, ErrFormat, "1 bytes left over"},
		"empty":                {func([]byte) []byte { return nil }, ErrFormat, "magic: 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := ParseTPM(fixture(t, "tpm.json"))
			if err != nil {
				t.Fatal(err)
			}
			key := softwareKey(t)
			parsed.AK, parsed.Message = &key.PublicKey, c.change(bytes.Clone(parsed.Message))
			hash := sha256.Sum256(parsed.Message)
			if parsed.Signature, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, hash[:]); err != nil {
				t.Fatal(err)
			}
			_, err = parsed.Verify(fromHex(t, reportData), Options{})
			if !errors.Is(err, c.want) || (err != nil && !strings.Contains(err.Error(), c.text)) {
				t.Errorf("Verify: %v, want %v: …%s…", err, c.want, c.text)
			}
		})
	}
}

var software *rsa.PrivateKey

func softwareKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	if software == nil {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		software = key
	}
	return software
}

// Keys made with openssl: genrsa 1024, and ecparam -name prime256v1 -genkey; each then with -pubout -outform DER.
const (
	rsa1024 = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCqxe9lWPhHp3Fl3FsYhcT+h5CjghsYyB98jSzdPzEQBXBIFEUSg7tQl9wrfczF8pWmb4TyRmmfmr4VQ4FR/j/17gM7+0TYFqXOxW4JBkERWS7kiElbKOSvOmjRo1EZAZjI9t2Uh+ObCtkoLLBU4I7jULoS3p5gRb2gYA3ibm/73QIDAQAB"
	p256    = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEp32lo7bIme5bSoObcZ4WLkRb25TX/sppOUyfwNI6TykupkaeEJaCQgt+3kJIoGiqxTWHhEGFIByDRFsfcrfMqg=="
)

func TestParseTPMRefuses(t *testing.T) {
	base64OfSignature := func(header string) string {
		return base64.StdEncoding.EncodeToString(append(fromHex(t, header), make([]byte, 256)...))
	}
	for name, c := range map[string]struct {
		path  string // field to replace
		value any
		want  error
		text  string
	}{
		"no key":             {"ak_public", nil, ErrFormat, "field ak_public: not a string"},
		"key a number":       {"ak_public", 1, ErrFormat, "field ak_public: not a string"},
		"key not base64":     {"ak_public", "-----BEGIN", ErrFormat, "field ak_public: illegal base64"},
		"key not DER":        {"ak_public", "AAAA", ErrFormat, "field ak_public: not a SubjectPublicKeyInfo"},
		"key of 1024 bits":   {"ak_public", rsa1024, ErrAlgorithm, "RSA key of 1024 bits"},
		"elliptic-curve key": {"ak_public", p256, ErrAlgorithm, "want an RSA key"},
		"quote a list":       {"tpm_quote", []any{}, ErrFormat, "field tpm_quote: not a JSON object"},
		"quote null":         {"tpm_quote", nil, ErrFormat, "field tpm_quote: not a JSON object"},
		"quote empty":        {"tpm_quote", map[string]any{}, ErrFormat, "field tpm_quote.signature: missing"},
		"no message":         {"tpm_quote.message", nil, ErrFormat, "field tpm_quote.message: not a string"},
		"message not base64": {"tpm_quote.message", "/1RD\n", ErrFormat, "field tpm_quote.message: illegal base64: newline at byte 4"},
		"RSAPSS":             {"tpm_quote.signature", base64OfSignature("0016000b0100"), ErrAlgorithm, "scheme 0x0016"},
		"ECDSA":              {"tpm_quote.signature", base64OfSignature("0018000b0100"), ErrAlgorithm, "scheme 0x0018"},
		"SHA-1":              {"tpm_quote.signature", base64OfSignature("001400040100"), ErrAlgorithm, "hash 0x0004"},
		"raw signature":      {"tpm_quote.signature", base64OfSignature(""), ErrAlgorithm, "scheme 0x0000"},
		"signature cut":      {"tpm_quote.signature", base64OfSignature("0014000b0101"), ErrFormat, "256 bytes where 257 belong"},
		"signature longer":   {"tpm_quote.signature", base64OfSignature("0014000b00ff"), ErrFormat, "1 bytes left over"},
		"signature empty":    {"tpm_quote.signature", "", ErrFormat, "sigAlg"},
		"PCRs a map":         {"tpm_quote.pcrs", map[string]any{}, ErrFormat, "field tpm_quote.pcrs: not a list of strings"},
		"no PCRs":            {"tpm_quote.pcrs", []any{}, ErrPCRSelection, "lists 0"},
		"23 PCRs":            {"tpm_quote.pcrs", slicesOf(23, quotedPCR8), ErrPCRSelection, "lists 23"},
		"25 PCRs":            {"tpm_quote.pcrs", slicesOf(25, quotedPCR8), ErrPCRSelection, "lists 25"},
		"PCR null":           {"tpm_quote.pcrs", slicesOf(24, nil), ErrFormat, "field tpm_quote.pcrs[0]: not a string"},
		"PCR of 20 bytes":    {"tpm_quote.pcrs", slicesOf(24, quotedPCR8[:40]), ErrFormat, "field tpm_quote.pcrs[0]: PCR should be 64 hex characters (32 bytes), got 40"},
		"PCR not hex":        {"tpm_quote.pcrs", slicesOf(24, strings.Repeat("x", 64)), ErrFormat, "field tpm_quote.pcrs[0]: encoding/hex"},
	} {
		t.Run(name, func(t *testing.T) {
			var document map[string]any
			if err := json.Unmarshal(fixture(t, "tpm.json"), &document); err != nil {
				t.Fatal(err)
			}
			object, field := document, c.path
			if inner, ok := strings.CutPrefix(c.path, "tpm_quote."); ok {
				object, field = document["tpm_quote"].(map[string]any), inner
			}
			object[field] = c.value
			raw, err := json.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseTPM(raw); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("ParseTPM: %v, want %v: …%s…", err, c.want, c.text)
			}
		})
	}
}

func slicesOf(count int, value any) []any {
	list := make([]any, count)
	for i := range list {
		list[i] = value
	}
	return list
}

func TestParseTPMReadsJSONStrictly(t *testing.T) {
	good := string(fixture(t, "tpm.json"))
	for name, c := range map[string]struct{ raw, want string }{
		"nothing":        {"", "not a JSON object"},
		"null":           {"null", "not a JSON object"},
		"text":           {`"tpm"`, "not a JSON object"},
		"cut":            {good[:len(good)-4], "unexpected EOF"},
		"two values":     {good + "{}", "more than one JSON value"},
		"name twice":     {strings.Replace(good, `"ak_public"`, `"ak_public":"x","ak_public"`, 1), `"ak_public" occurs twice`},
		"inner twice":    {strings.Replace(good, `"pcrs"`, `"pcrs":[],"pcrs"`, 1), `"pcrs" occurs twice`},
		"name in caps":   {strings.Replace(good, `"ak_public"`, `"AK_PUBLIC"`, 1), "field ak_public: missing"},
		"more than 64 K": {good + strings.Repeat(" ", 64<<10), "limit 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseTPM([]byte(c.raw)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseTPM: %v, want …%s…", err, c.want)
			}
		})
	}
	// Trustee ignores what it does not know; attestation-agent has sent report_data along at times.
	if _, err := ParseTPM([]byte(strings.Replace(good, `"ak_public"`, `"report_data":"AA==","ak_public"`, 1))); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
}

func FuzzParseTPM(f *testing.F) {
	for _, name := range []string{"tpm.json", "tpm-pcr8-only.json", "tpm-two-banks.json"} {
		f.Add(fixture(f, name))
	}
	f.Add([]byte(`{"ak_public":"","tpm_quote":{"signature":"","message":"","pcrs":[null]}}`))
	good, err := ParseTPM(fixture(f, "tpm.json"))
	if err != nil {
		f.Fatal(err)
	}
	report := fromHex(f, reportData)
	f.Fuzz(func(t *testing.T, raw []byte) {
		parsed, err := ParseTPM(raw)
		if err != nil {
			if parsed != nil {
				t.Fatal("evidence beside an error")
			}
			return
		}
		// Only the TPM's own message and values verify under its key.
		if _, err := parsed.Verify(report, Options{TrustedAKs: []*rsa.PublicKey{good.AK}}); err == nil {
			if parsed.PCRs != good.PCRs || !bytes.Equal(parsed.Message, good.Message) {
				t.Fatalf("forged: %s", raw)
			}
		}
	})
}

func FuzzParseQuote(f *testing.F) {
	good, err := ParseTPM(fixture(f, "tpm.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.Message)
	f.Fuzz(func(t *testing.T, message []byte) {
		if quote, err := parseQuote("message", message); err == nil && len(quote.extraData) > len(message) {
			t.Fatal("longer than the message")
		}
	})
}

func TestKeyIsSubjectPublicKeyInfo(t *testing.T) {
	parsed, err := ParseTPM(fixture(t, "tpm.json"))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(parsed.AK)
	if err != nil || base64.StdEncoding.EncodeToString(der) != parsed.AKPublic {
		t.Errorf("%v: AK and AKPublic differ", err)
	}
}
