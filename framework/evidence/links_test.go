package evidence

import (
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// testOptions trusts the test roots and demands the init-data of the other tests.
func testOptions(t testing.TB) Options {
	return Options{Roots: vendors().roots(), InitDataDigest: fromHex(t, digestInPCR8)}
}

// expect runs Verify and checks the link that broke, or that none did.
func expect(t *testing.T, kind string, document any, report []byte, options Options, want error, text string) *Claims {
	t.Helper()
	claims, err := Verify(kind, asJSON(t, document), report, options)
	if !errors.Is(err, want) || (err == nil) != (claims != nil) || (err != nil && !strings.Contains(err.Error(), text)) {
		t.Fatalf("Verify: %v, want %v: …%s…", err, want, text)
	}
	return claims
}

func TestSNPNamesTheBrokenLink(t *testing.T) {
	v, report, digest := vendors(), fromHex(t, reportData), fromHex(t, digestInPCR8)
	vcekFor := func(id []byte, bootloader, tee, snp, microcode int) *pair {
		return issue(t, "OTHER VCEK", v.vcek.key, v.ask, false, vcekExtensions(id, bootloader, tee, snp, microcode)...)
	}
	foreign := issue(t, "FOREIGN ASK", rsaKey(t), issue(t, "FOREIGN ARK", rsaKey(t), nil, true), true)
	type machine struct {
		raw     []byte
		vcek    *pair
		after   func(raw []byte) // signing
		report  []byte
		options Options
	}
	for name, c := range map[string]struct {
		change func(*machine)
		want   error
		text   string
	}{
		"nothing":       {func(*machine) {}, nil, ""},
		"no test roots": {func(m *machine) { m.options.Roots = Roots{} }, ErrChain, `TEST VCEK`},
		"foreign ASK": {func(m *machine) {
			m.vcek = issue(t, "V", v.vcek.key, foreign, false, vcekExtensions(chipID, 4, 0, 24, 219)...)
		}, ErrChain, ""},
		"expired": {func(m *machine) { m.options.Now = func() time.Time { return time.Now().Add(48 * time.Hour) } }, ErrChain, "expired"},
		"not by this key": {func(m *machine) {
			m.vcek = issue(t, "V", ecKey(t, elliptic.P384()), v.ask, false, vcekExtensions(chipID, 4, 0, 24, 219)...)
		}, ErrReportSignature, ""},
		"P-256 key":       {func(m *machine) { m.vcek = issue(t, "V", ecKey(t, elliptic.P256()), v.ask, false) }, ErrAlgorithm, "P-384"},
		"measurement":     {func(m *machine) { m.after = func(raw []byte) { raw[0x90] ^= 1 } }, ErrReportSignature, ""},
		"signature":       {func(m *machine) { m.after = func(raw []byte) { raw[0x2a0] ^= 1 } }, ErrReportSignature, ""},
		"microcode":       {func(m *machine) { m.vcek = vcekFor(chipID, 4, 0, 24, 218) }, ErrTCB, "microcode: report has 219, certificate 218"},
		"snp":             {func(m *machine) { m.vcek = vcekFor(chipID, 4, 0, 23, 219) }, ErrTCB, "snp: report has 24, certificate 23"},
		"tee":             {func(m *machine) { m.vcek = vcekFor(chipID, 4, 1, 24, 219) }, ErrTCB, "tee: report has 0, certificate 1"},
		"bootloader":      {func(m *machine) { m.vcek = vcekFor(chipID, 3, 0, 24, 219) }, ErrTCB, "bootloader: report has 4, certificate 3"},
		"no extensions":   {func(m *machine) { m.vcek = issue(t, "V", v.vcek.key, v.ask, false) }, ErrTCB, "chip_id"},
		"other chip":      {func(m *machine) { m.vcek = vcekFor(bytesOf(1, 64), 4, 0, 24, 219) }, ErrTCB, "chip_id"},
		"VMPL 1":          {func(m *machine) { m.raw[0x30] = 1 }, ErrVMPL, "VMPL 1"},
		"debug":           {func(m *machine) { m.raw[0x0a] |= 8 }, ErrDebug, "bit 19"},
		"debug allowed":   {func(m *machine) { m.raw[0x0a] |= 8; m.options.AllowDebug = true }, nil, ""},
		"report data":     {func(m *machine) { m.report = append([]byte{1}, report[1:]...) }, ErrReportData, ""},
		"65 bytes":        {func(m *machine) { m.report = make([]byte, 65) }, ErrReportData, ""},
		"host data":       {func(m *machine) { m.options.InitDataDigest = bytesOf(1, 32) }, ErrInitData, "HOST_DATA is"},
		"sha384, cut":     {func(m *machine) { m.options.InitDataDigest = append(append([]byte{}, digest...), bytesOf(9, 16)...) }, nil, ""},
		"no init-data":    {func(m *machine) { m.options.InitDataDigest = nil }, nil, ""},
		"version 2":       {func(m *machine) { m.raw[0] = 2 }, ErrFormat, "attestation_report.version: 2, want 3 to 5"},
		"version 6":       {func(m *machine) { m.raw[0] = 6 }, ErrFormat, "want 3 to 5"},
		"RSA report":      {func(m *machine) { m.raw[0x34] = 2 }, ErrAlgorithm, "sig_algo: 2"},
		"unsigned report": {func(m *machine) { m.raw[0x48] = 7 << 2 }, ErrFormat, "not signed"},
		"VLEK report":     {func(m *machine) { m.raw[0x48] = 1 << 2 }, ErrFormat, "VCEK, but the report says that a VLEK signed it"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &machine{raw: goodReport(report, digest), vcek: v.vcek, report: report, options: testOptions(t)}
			c.change(m)
			signReport(t, m.raw, v.vcek.key)
			if m.after != nil {
				m.after(m.raw)
			}
			claims := expect(t, KindSNP, snpDocument(m.raw, m.vcek.cert), m.report, m.options, c.want, c.text)
			if claims != nil && !claims.TestRoot {
				t.Error("claims do not say that a test root vouched")
			}
		})
	}
}

func TestSNPClaims(t *testing.T) {
	raw := signReport(t, goodReport(fromHex(t, reportData), fromHex(t, digestInPCR8)), vendors().vcek.key)
	claims := expect(t, KindSNP, snpDocument(raw, vendors().vcek.cert), fromHex(t, reportData), testOptions(t), nil, "").Map()
	for name, want := range map[string]any{
		"policy_abi_major": uint8(0), "policy_abi_minor": uint8(31), "policy_smt_allowed": true, "policy_migrate_ma": false,
		"policy_debug_allowed": false, "policy_single_socket": false, "reported_tcb_bootloader": uint8(4), "reported_tcb_tee": uint8(0),
		"reported_tcb_snp": uint8(24), "reported_tcb_microcode": uint8(219), "platform_tsme_enabled": false,
		"platform_smt_enabled": true, "measurement": strings.Repeat("77", 48), "init_data": digestInPCR8,
		"report_data": reportData + strings.Repeat("00", 16),
	} {
		if claims[name] != want {
			t.Errorf("%s = %v (%T), want %v", name, claims[name], claims[name], want)
		}
	}
	if len(claims) != 15 {
		t.Errorf("%d claims: %v", len(claims), claims)
	}
}

func TestTDXNamesTheBrokenLink(t *testing.T) {
	report, digest := fromHex(t, reportData), fromHex(t, digestInPCR8)
	foreign := issue(t, "FOREIGN CA", ecKey(t, elliptic.P256()), issue(t, "FOREIGN", ecKey(t, elliptic.P256()), nil, true), true)
	separator := make([]byte, 0, 80) // EV_SEPARATOR in CC register 4, with the digest that openssl dgst -sha384 gives of 4 zeros
	separator = binary.LittleEndian.AppendUint32(separator, 4)
	separator = binary.LittleEndian.AppendUint32(separator, 4)
	separator = binary.LittleEndian.AppendUint32(separator, 1)
	separator = binary.LittleEndian.AppendUint16(separator, 0x0c)
	separator = append(separator, fromHex(t, "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e576573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0")...)
	separator = append(separator, 4, 0, 0, 0, 0, 0, 0, 0)
	// (head -c 48 /dev/zero; head -c 4 /dev/zero | openssl dgst -sha384 -binary) | openssl dgst -sha384
	const rtmr3 = "518923b0f955d08da077c96aaba522b9decede61c599cea6c41889cfbea4ae4d50529d96fe4d1afdafb65e7f95bf23c4"
	type machine struct {
		quote   *tdQuote
		log     []byte
		report  []byte
		options Options
	}
	for name, c := range map[string]struct {
		change func(*machine)
		want   error
		text   string
	}{
		"nothing":       {func(*machine) {}, nil, ""},
		"no test roots": {func(m *machine) { m.options.Roots = Roots{} }, ErrChain, "TEST PCK"},
		"foreign PCK": {func(m *machine) {
			m.quote.pck = issue(t, "P", vendors().pck.key, foreign, false)
			m.quote.pckCA = foreign
		}, ErrChain, ""},
		"QE signed by other": {func(m *machine) { m.quote.qeSigner = foreign }, ErrQEReport, "not signed by the PCK"},
		"QE can be debugged": {func(m *machine) { m.quote.qeReport[48] = 2 }, ErrQEReport, "can be debugged"},
		"QE about other key": {func(m *machine) { m.quote.qeReport[320] = 1 }, ErrQEReport, "about another key"},
		"body changed":       {func(m *machine) { m.quote.afterSignature = func(raw []byte) { raw[48+136] ^= 1 } }, ErrReportSignature, ""},
		"header changed":     {func(m *machine) { m.quote.afterSignature = func(raw []byte) { raw[30] ^= 1 } }, ErrReportSignature, ""},
		"debug":              {func(m *machine) { m.quote.body[120] |= 1 }, ErrDebug, "bit 0"},
		"debug allowed":      {func(m *machine) { m.quote.body[120] |= 1; m.options.AllowDebug = true }, nil, ""},
		"report data":        {func(m *machine) { m.report = report[1:] }, ErrReportData, ""},
		"init-data":          {func(m *machine) { m.options.InitDataDigest = bytesOf(1, 48) }, ErrInitData, "MRCONFIGID is"},
		"log fits":           {func(m *machine) { m.log = separator; copy(m.quote.body[472:], fromHex(t, rtmr3)) }, nil, ""},
		"log does not fit":   {func(m *machine) { m.log = separator }, ErrEventLog, "register 4: it leads to " + rtmr3},
		"log forged": {func(m *machine) {
			m.log = append(append([]byte{}, separator[:len(separator)-1]...), 1)
			copy(m.quote.body[472:], fromHex(t, rtmr3))
		}, ErrEventLog, "event 1 (EV_SEPARATOR) has data"},
		"log cut": {func(m *machine) { m.log = separator[:30] }, ErrFormat, "cc_eventlog"},
		"register not logged": {func(m *machine) {
			m.log = separator[:0]
			m.log = []byte{0xff}
			copy(m.quote.body[472:], fromHex(t, rtmr3))
		}, ErrEventLog, "not in the log"},
		"zeros after":  {func(m *machine) { m.quote.trailing = make([]byte, 100) }, nil, ""},
		"bytes after":  {func(m *machine) { m.quote.trailing = []byte{0, 1} }, ErrFormat, "2 bytes left over"},
		"version 5":    {func(m *machine) { m.quote.header[0] = 5 }, ErrFormat, "header.version: 5, want 4"},
		"SGX":          {func(m *machine) { m.quote.header[4] = 0 }, ErrFormat, "tee_type"},
		"P-384 key":    {func(m *machine) { m.quote.header[2] = 3 }, ErrAlgorithm, "att_key_type"},
		"other vendor": {func(m *machine) { m.quote.header[12] = 0 }, ErrFormat, "vendor_id"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &machine{quote: goodTDQuote(t, report, digest), report: report, options: testOptions(t)}
			c.change(m)
			claims := expect(t, KindTDX, tdxDocument(t, m.quote, m.log), m.report, m.options, c.want, c.text)
			if claims != nil && (!claims.TestRoot || claims.InitData != digestInPCR8+strings.Repeat("00", 16)) {
				t.Errorf("%+v", claims)
			}
		})
	}
}

func TestAzureNamesTheBrokenLink(t *testing.T) {
	report, v := fromHex(t, reportData), vendors()
	type machine struct {
		vm      *azureVM
		report  []byte
		options Options
	}
	key := func(m *machine) map[string]any { return m.vm.varData["keys"].([]any)[0].(map[string]any) }
	other := rsaKey(t)
	for name, c := range map[string]struct {
		change func(*machine)
		want   error
		text   string
		only   string // kind, or versions from which the link exists
	}{
		"nothing":           {func(*machine) {}, nil, "", ""},
		"quote by other AK": {func(m *machine) { m.vm.ak = other }, ErrSignature, "", ""},
		"AK not trusted":    {func(m *machine) { m.options.TrustedAKs = []*rsa.PublicKey{&other.PublicKey} }, ErrUntrustedKey, "", ""},
		"AK trusted":        {func(m *machine) { m.options.TrustedAKs = []*rsa.PublicKey{&m.vm.ak.PublicKey} }, nil, "", ""},
		"no AK":             {func(m *machine) { key(m)["kid"] = "HCLEkPub" }, ErrAKBinding, "none is called", ""},
		"two AKs":           {func(m *machine) { m.vm.varData["keys"] = []any{key(m), key(m)} }, ErrAKBinding, "two keys", ""},
		"no keys":           {func(m *machine) { delete(m.vm.varData, "keys") }, ErrAKBinding, "missing", ""},
		"elliptic AK":       {func(m *machine) { key(m)["kty"] = "EC" }, ErrAlgorithm, "want RSA", ""},
		"short AK":          {func(m *machine) { key(m)["n"] = "AQAB" }, ErrAlgorithm, "RSA key of 17 bits", ""},
		"not a quote":       {func(m *machine) { m.vm.message = func(b []byte) { b[5] = 0x17 } }, ErrFormat, "want TPM_ST_ATTEST_QUOTE", ""},
		"PCR selection":     {func(m *machine) { m.vm.selection = fromHex(t, "00000001000b03ff0000") }, ErrPCRSelection, "bitmap ff0000", ""},
		"8 PCRs listed":     {func(m *machine) { m.vm.listed = m.vm.pcrs[:8] }, ErrPCRSelection, "lists 8", ""},
		"PCR digest":        {func(m *machine) { m.vm.listed = append([][]byte{bytesOf(1, 32)}, m.vm.pcrs[1:]...) }, ErrPCRDigest, "", ""},
		"nonce":             {func(m *machine) { m.report = append([]byte{1}, report[1:]...) }, ErrNonce, "", ""},
		"nonce, cut":        {func(m *machine) { m.report = report[:32] }, ErrNonce, "", ""},
		"no report data":    {func(m *machine) { m.report = nil }, ErrNonce, "cannot be verified without", ""},
		"var data": {func(m *machine) {
			m.vm.afterHCL = func(hcl []byte) { hcl[strings.Index(string(hcl), "tpm-enabled")] ^= 0x20 }
		}, ErrHCLBinding, "", ""},
		"user-data":        {func(m *machine) { m.vm.varData["user-data"] = strings.Repeat("00", 64) }, ErrUserData, "", "2"},
		"no user-data":     {func(m *machine) { delete(m.vm.varData, "user-data") }, ErrUserData, "", "2"},
		"user-data longer": {func(m *machine) { m.vm.varData["user-data"] = reportData + strings.Repeat("11", 16) }, ErrUserData, "", "2"},
		"short user-data":  {func(m *machine) { m.vm.varData["user-data"] = "00" }, ErrFormat, "user-data", ""},
		"no test roots":    {func(m *machine) { m.options.Roots = Roots{} }, ErrChain, "", ""},
		"init-data":        {func(m *machine) { m.options.InitDataDigest = bytesOf(1, 32) }, ErrInitData, "PCR 8 is", ""},
		"sha384 init-data": {func(m *machine) { m.options.InitDataDigest = bytesOf(1, 48) }, ErrInitData, "48 bytes, want 32", ""},
		"HCL magic":        {func(m *machine) { m.vm.afterHCL = func(hcl []byte) { hcl[0] = 'X' } }, ErrFormat, `begins with "XCLA"`, ""},
		"HCL status":       {func(m *machine) { m.vm.afterHCL = func(hcl []byte) { hcl[16] = 1 } }, ErrFormat, "status: 1, want 0", ""},
		"HCL other TEE":    {func(m *machine) { m.vm.reportType = 3 }, ErrFormat, "report_type: 3", ""},
		"HCL hash":         {func(m *machine) { m.vm.afterHCL = func(hcl []byte) { hcl[1228] = 2 } }, ErrFormat, "hash_type: 2", ""},
		"HCL sizes":        {func(m *machine) { m.vm.afterHCL = func(hcl []byte) { hcl[1216]++ } }, ErrFormat, "data_size", ""},
		"HCL trailing":     {func(m *machine) { m.vm.afterHCL = func(hcl []byte) { hcl[2599] = 1 } }, ErrFormat, "left over", ""},
		"hardware report of another machine": {func(m *machine) {
			m.vm.hwReport = func([]byte) []byte { return signReport(t, goodReport(bytesOf(3, 32), nil), v.vcek.key) }
		}, ErrHCLBinding, "", KindAzSNPVTPM},
		"SNP report changed": {func(m *machine) { m.vm.afterHCL = func(hcl []byte) { hcl[32+0x90] ^= 1 } }, ErrReportSignature, "", KindAzSNPVTPM},
		"SNP trailing":       {func(m *machine) { m.vm.afterHCL = func(hcl []byte) { hcl[32+1183] = 1 } }, ErrFormat, "after the signature", KindAzSNPVTPM},
		"SNP TCB": {func(m *machine) {
			m.vm.vcek = issue(t, "V", v.vcek.key, v.ask, false, vcekExtensions(chipID, 4, 0, 24, 1)...).cert
		}, ErrTCB, "microcode", KindAzSNPVTPM},
		"SNP VMPL": {func(m *machine) {
			m.vm.hwReport = func(data []byte) []byte {
				raw := goodReport(data, nil)
				raw[0x30] = 2
				return signReport(t, raw, v.vcek.key)
			}
		}, ErrVMPL, "VMPL 2", KindAzSNPVTPM},
		"TD quote of another machine": {func(m *machine) {
			m.vm.quote = func([]byte) *tdQuote { return goodTDQuote(t, bytesOf(3, 32), nil) }
		}, ErrHCLBinding, "", KindAzTDXVTPM},
		"TD quote changed": {func(m *machine) {
			m.vm.quote = func(data []byte) *tdQuote {
				q := goodTDQuote(t, data, nil)
				q.afterSignature = func(raw []byte) { raw[48+136] ^= 1 }
				return q
			}
		}, ErrReportSignature, "", KindAzTDXVTPM},
	} {
		for _, kind := range []string{KindAzSNPVTPM, KindAzTDXVTPM} {
			for version := range 3 {
				if strings.HasPrefix(c.only, "az-") && c.only != kind || c.only == "2" && version < 2 {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/v%d", name, kind, version), func(t *testing.T) {
					m := &machine{vm: goodAzure(t, kind, report, fromHex(t, quotedPCR8)), report: report, options: testOptions(t)}
					c.change(m)
					claims := expect(t, kind, m.vm.document(t, version), m.report, m.options, c.want, c.text)
					if claims != nil && (claims.InitData != quotedPCR8 || claims.ReportData != reportData || !claims.TestRoot) {
						t.Errorf("%+v", claims)
					}
				})
			}
		}
	}
}

func TestSampleNamesTheBrokenLink(t *testing.T) {
	report := fromHex(t, reportData)
	document := map[string]any{"svn": "1", "report_data": base64.StdEncoding.EncodeToString(report)}
	claims := expect(t, KindSample, document, report, Options{}, nil, "").Map()
	if claims["svn"] != "1" || claims["report_data"] != document["report_data"] || claims["launch_digest"] != "abcde" {
		t.Error(claims)
	}
	expect(t, KindSample, document, report[1:], Options{}, ErrReportData, "")
	expect(t, KindSample, document, report, testOptions(t), ErrInitData, "kind sample binds none")
	expect(t, KindSample, map[string]any{"svn": 1}, report, Options{}, ErrFormat, "field svn: not a string")
}

// Nothing that test roots vouch for verifies without them, whatever the vendors' roots are.
func TestTestRootsAreNotVendors(t *testing.T) {
	report, digest := fromHex(t, reportData), sha256.Sum256(nil)
	raw := signReport(t, goodReport(report, digest[:]), vendors().vcek.key)
	for kind, document := range map[string]any{
		KindSNP: snpDocument(raw, vendors().vcek.cert), KindTDX: tdxDocument(t, goodTDQuote(t, report, nil), nil),
		KindAzSNPVTPM: goodAzure(t, KindAzSNPVTPM, report, digest[:]).document(t, 2),
		KindAzTDXVTPM: goodAzure(t, KindAzTDXVTPM, report, digest[:]).document(t, 2),
	} {
		expect(t, kind, document, report, Options{}, ErrChain, "")
		expect(t, kind, document, report, Options{Roots: vendors().roots()}, nil, "")
	}
}

// From Turin on, a TCB version has another layout and one more level, and certificates have chip ids of 8 bytes (AMD
// documents 56860 and 57230).
func TestTurin(t *testing.T) {
	v := vendors()
	id := bytesOf(0x33, 8)
	raw := goodReport(nil, nil)
	copy(raw[0x188:], []byte{0x1a, 0x02, 1})
	copy(raw[0x180:], []byte{7, 4, 1, 24, 0, 0, 0, 219})
	copy(raw[0x1a0:], pad(id, 64))
	signReport(t, raw, v.vcek.key)
	report, err := parseSNPReport("report", raw, snpVersionOld)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		fmc  int
		id   []byte
		want string
	}{
		"right": {7, id, ""}, "other FMC": {6, id, "fmc: report has 7, certificate 6"}, "other chip": {7, bytesOf(1, 8), "chip_id"},
	} {
		fmc := vcekExtensions(nil, 0, 0, 0, 0)[1]
		fmc.Id = append(append([]int{}, fmc.Id[:len(fmc.Id)-1]...), 9)
		fmc.Value = []byte{2, 1, byte(c.fmc)}
		vcek := issue(t, "TURIN VCEK", v.vcek.key, v.ask, false, append(vcekExtensions(c.id, 4, 1, 24, 219), fmc)...)
		claims, _, err := report.verify(vcek.cert, testOptions(t))
		if c.want == "" {
			if err != nil || claims.TCB != (SNPTCB{Bootloader: 4, TEE: 1, SNP: 24, Microcode: 219, FMC: 7}) {
				t.Errorf("%s: %+v, %v", name, claims, err)
			}
		} else if !errors.Is(err, ErrTCB) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want …%s…", name, err, c.want)
		}
	}
}

// A VLEK belongs to a cloud, so that its certificate names no chip.
func TestVLEK(t *testing.T) {
	v := vendors()
	raw := goodReport(fromHex(t, reportData), nil)
	raw[0x48] = 1 << 2
	signReport(t, raw, v.vcek.key)
	vlek := issue(t, "TEST VLEK", v.vcek.key, v.ask, false, vcekExtensions(chipID, 4, 0, 24, 219)[1:]...)
	document := snpDocument(raw, vlek.cert)
	document["cert_chain"].([]any)[0].(map[string]any)["cert_type"] = "VLEK"
	expect(t, KindSNP, document, fromHex(t, reportData), Options{Roots: v.roots()}, nil, "")
	expect(t, KindSNP, document, fromHex(t, reportData), Options{}, ErrChain, "SEV-VLEK-Milan")
}
