package evidence

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A machine of these tests: hardware keys under test roots, and evidence in which a case can change any one thing before
// it is signed. It writes the formats from their specifications; real machines' evidence is in the other tests.

type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

var serial int64

func issue(t testing.TB, name string, key crypto.Signer, issuer *pair, ca bool, extensions ...pkix.Extension) *pair {
	t.Helper()
	serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IsCA: ca, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtraExtensions: extensions,
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	if _, ok := signer.(*rsa.PrivateKey); ok {
		template.SignatureAlgorithm = x509.SHA384WithRSAPSS
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{cert, key}
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

type testVendors struct{ ark, ask, vcek, intel, pckCA, pck *pair }

var (
	chipID  = bytesOf(0x5a, 64)
	vendors = sync.OnceValue(func() *testVendors {
		t := &testing.T{}
		v := &testVendors{ark: issue(t, "TEST ARK", rsaKey(t), nil, true)}
		v.ask = issue(t, "TEST ASK", rsaKey(t), v.ark, true)
		v.vcek = issue(t, "TEST VCEK", ecKey(t, elliptic.P384()), v.ask, false, vcekExtensions(chipID, 4, 0, 24, 219)...)
		v.intel = issue(t, "TEST INTEL", ecKey(t, elliptic.P256()), nil, true)
		v.pckCA = issue(t, "TEST PCK CA", ecKey(t, elliptic.P256()), v.intel, true)
		v.pck = issue(t, "TEST PCK", ecKey(t, elliptic.P256()), v.pckCA, false)
		return v
	})
)

func (v *testVendors) roots() Roots {
	return Roots{AMD: []AMDRoot{{v.ark.cert, v.ask.cert}}, Intel: []*x509.Certificate{v.intel.cert}}
}

func bytesOf(value byte, size int) []byte {
	raw := make([]byte, size)
	for i := range raw {
		raw[i] = value
	}
	return raw
}

func vcekExtensions(id []byte, bootloader, tee, snp, microcode int) []pkix.Extension {
	level := func(arc, value int) pkix.Extension {
		der, _ := asn1.Marshal(value)
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, arc}, Value: der}
	}
	return []pkix.Extension{
		{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}, Value: id},
		level(1, bootloader), level(2, tee), level(3, snp), level(8, microcode),
	}
}

// goodReport is a report of version 3 for a Milan processor, unsigned.
func goodReport(reportData, hostData []byte) []byte {
	raw := make([]byte, 1184)
	binary.LittleEndian.PutUint32(raw[0x00:], 3)
	binary.LittleEndian.PutUint64(raw[0x08:], 0x3001f)
	binary.LittleEndian.PutUint32(raw[0x34:], 1)
	raw[0x40] = 0x25
	copy(raw[0x50:0x90], reportData)
	copy(raw[0x90:], bytesOf(0x77, 48))
	copy(raw[0xc0:0xe0], hostData)
	for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		copy(raw[at:], []byte{4, 0, 0, 0, 0, 0, 24, 219})
	}
	copy(raw[0x188:], []byte{0x19, 1, 1})
	copy(raw[0x1a0:], chipID)
	copy(raw[0x1e8:], []byte{0x1d, 0x37, 1, 0, 0x1d, 0x37, 1})
	return raw
}

func signReport(t testing.TB, raw []byte, key crypto.Signer) []byte {
	t.Helper()
	digest := sha512.Sum384(raw[:0x2a0])
	r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	for i, number := range []*big.Int{r, s} {
		little := number.FillBytes(make([]byte, 72))
		slices.Reverse(little)
		copy(raw[0x2a0+72*i:], little)
	}
	return raw
}

func numbers(raw []byte) []int {
	list := make([]int, len(raw))
	for i, value := range raw {
		list[i] = int(value)
	}
	return list
}

// snpDocument writes a report as serde writes the sev crate's struct.
func snpDocument(raw []byte, vcek *x509.Certificate) map[string]any {
	little := binary.LittleEndian
	tcb := func(at int) map[string]any {
		return map[string]any{"fmc": nil, "bootloader": raw[at], "tee": raw[at+1], "snp": raw[at+6], "microcode": raw[at+7]}
	}
	version := func(at int) map[string]any {
		return map[string]any{"build": raw[at], "minor": raw[at+1], "major": raw[at+2]}
	}
	return map[string]any{
		"attestation_report": map[string]any{
			"version": little.Uint32(raw), "guest_svn": little.Uint32(raw[4:]), "policy": little.Uint64(raw[8:]),
			"family_id": numbers(raw[0x10:0x20]), "image_id": numbers(raw[0x20:0x30]), "vmpl": little.Uint32(raw[0x30:]),
			"sig_algo": little.Uint32(raw[0x34:]), "current_tcb": tcb(0x38), "plat_info": little.Uint64(raw[0x40:]),
			"key_info": little.Uint32(raw[0x48:]), "report_data": numbers(raw[0x50:0x90]), "measurement": numbers(raw[0x90:0xc0]),
			"host_data": numbers(raw[0xc0:0xe0]), "id_key_digest": numbers(raw[0xe0:0x110]),
			"author_key_digest": numbers(raw[0x110:0x140]), "report_id": numbers(raw[0x140:0x160]),
			"report_id_ma": numbers(raw[0x160:0x180]), "reported_tcb": tcb(0x180), "cpuid_fam_id": raw[0x188],
			"cpuid_mod_id": raw[0x189], "cpuid_step": raw[0x18a], "chip_id": numbers(raw[0x1a0:0x1e0]), "committed_tcb": tcb(0x1e0),
			"current": version(0x1e8), "committed": version(0x1ec), "launch_tcb": tcb(0x1f0),
			"launch_mit_vector": nil, "current_mit_vector": nil,
			"signature": map[string]any{"r": numbers(raw[0x2a0:0x2e8]), "s": numbers(raw[0x2e8:0x330])},
		},
		"cert_chain": []any{map[string]any{"cert_type": "VCEK", "data": numbers(vcek.Raw)}},
	}
}

func asJSON(t testing.TB, document any) []byte {
	t.Helper()
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// tdQuote is what a case can change before it is signed.
type tdQuote struct {
	header, body   []byte
	qeReport       []byte // REPORTDATA is filled in unless it is already
	authKey        *ecdsa.PrivateKey
	pck, pckCA     *pair
	qeSigner       *pair
	trailing       []byte
	afterSignature func(raw []byte)
}

func goodTDQuote(t testing.TB, reportData, configID []byte) *tdQuote {
	v := vendors()
	q := &tdQuote{
		header: make([]byte, 48), body: make([]byte, 584), qeReport: make([]byte, 384), authKey: ecKey(t, elliptic.P256()),
		pck: v.pck, pckCA: v.pckCA, qeSigner: v.pck,
	}
	q.header[0], q.header[2], q.header[4] = 4, 2, 0x81
	copy(q.header[12:], fromHex(t, "939a7233f79c4ca9940a0db3957f0607"))
	q.body[123] = 0x10 // SEPT_VE_DISABLE, bit 28
	copy(q.body[184:], configID)
	copy(q.body[520:], reportData)
	return q
}

func (q *tdQuote) bytes(t testing.TB) []byte {
	t.Helper()
	sign := func(key crypto.Signer, message []byte) []byte {
		digest := sha256.Sum256(message)
		r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
	little := binary.LittleEndian
	point, err := q.authKey.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	auth := bytesOf(1, 32)
	if allZero(q.qeReport[320:]) {
		digest := sha256.Sum256(append(slices.Clone(point[1:]), auth...))
		copy(q.qeReport[320:], digest[:])
	}
	var chain []byte
	for _, cert := range []*x509.Certificate{q.pck.cert, q.pckCA.cert, vendors().intel.cert} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	inner := append(slices.Clone(q.qeReport), sign(q.qeSigner.key, q.qeReport)...)
	inner = append(little.AppendUint16(inner, uint16(len(auth))), auth...)
	inner = little.AppendUint32(little.AppendUint16(inner, 5), uint32(len(chain)))
	inner = append(inner, chain...)
	signed := append(slices.Clone(q.header), q.body...)
	data := append(sign(q.authKey, signed), point[1:]...)
	data = append(little.AppendUint32(little.AppendUint16(data, 6), uint32(len(inner))), inner...)
	raw := append(little.AppendUint32(signed, uint32(len(data))), data...)
	if q.afterSignature != nil {
		q.afterSignature(raw)
	}
	return append(raw, q.trailing...)
}

func tdxDocument(t testing.TB, q *tdQuote, log []byte) map[string]any {
	document := map[string]any{"quote": base64.StdEncoding.EncodeToString(q.bytes(t)), "cc_eventlog": nil}
	if log != nil {
		document["cc_eventlog"] = base64.StdEncoding.EncodeToString(log)
	}
	return document
}

// azureVM is what a case can change of az-* evidence.
type azureVM struct {
	ak         *rsa.PrivateKey
	varData    map[string]any
	nonce      []byte
	selection  []byte
	pcrs       [][]byte
	listed     [][]byte // nil: pcrs
	hwReport   func(reportData []byte) []byte
	quote      func(reportData []byte) *tdQuote // az-tdx-vtpm
	vcek       *x509.Certificate
	afterHCL   func(hcl []byte)
	message    func(message []byte)
	reportType uint32
}

func goodAzure(t testing.TB, kind string, reportData, pcr8 []byte) *azureVM {
	vm := &azureVM{ak: softwareKey(t), nonce: reportData, selection: fromHex(t, "00000001000b03ffffff"), vcek: vendors().vcek.cert, reportType: 2}
	key := map[string]any{
		"kid": "HCLAkPub", "key_ops": []string{"sign"}, "kty": "RSA", "e": "AQAB",
		"n": base64.RawURLEncoding.EncodeToString(vm.ak.N.Bytes()),
	}
	userData := strings.ToUpper(hex.EncodeToString(pad(reportData, 64)))
	vm.varData = map[string]any{"keys": []any{key}, "vm-configuration": map[string]any{"tpm-enabled": true}, "user-data": userData}
	for range 24 {
		vm.pcrs = append(vm.pcrs, make([]byte, 32))
	}
	vm.pcrs[8] = pcr8
	vm.hwReport = func(data []byte) []byte { return signReport(t, goodReport(data, nil), vendors().vcek.key) }
	if kind == KindAzTDXVTPM {
		vm.reportType = 4
		vm.hwReport = func([]byte) []byte { return make([]byte, 1184) }
		vm.quote = func(data []byte) *tdQuote { return goodTDQuote(t, data, nil) }
	}
	return vm
}

// document is the evidence in version 0, 1 or 2.
func (vm *azureVM) document(t testing.TB, version int) map[string]any {
	t.Helper()
	little := binary.LittleEndian
	varData := asJSON(t, vm.varData)
	digest := sha256.Sum256(varData)
	hcl := append([]byte("HCLA"), make([]byte, 28)...)
	hcl[4], hcl[12] = 1, 2
	hcl = append(hcl, vm.hwReport(digest[:])...)
	for _, number := range []uint32{uint32(len(varData) + 20), 1, vm.reportType, 1, uint32(len(varData))} {
		hcl = little.AppendUint32(hcl, number)
	}
	hcl = append(hcl, varData...)
	little.PutUint32(hcl[8:], uint32(len(hcl)))
	hcl = append(hcl, make([]byte, 2600-len(hcl))...)
	if vm.afterHCL != nil {
		vm.afterHCL(hcl)
	}
	pcrDigest := sha256.Sum256(slices.Concat(vm.pcrs...))
	message := slices.Concat(fromHex(t, "ff54434780180000"), binary.BigEndian.AppendUint16(nil, uint16(len(vm.nonce))), vm.nonce,
		make([]byte, 25), vm.selection, fromHex(t, "0020"), pcrDigest[:])
	if vm.message != nil {
		vm.message(message)
	}
	hash := sha256.Sum256(message)
	signature, err := rsa.SignPKCS1v15(rand.Reader, vm.ak, crypto.SHA256, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	if vm.listed == nil {
		vm.listed = vm.pcrs
	}
	var quote []byte
	if vm.quote != nil {
		quote = vm.quote(digest[:]).bytes(t)
	}
	if version == 0 {
		return vm.oldDocument(message, signature, hcl, quote)
	}
	list := make([]string, len(vm.listed))
	for i, pcr := range vm.listed {
		list[i] = hex.EncodeToString(pcr)
	}
	document := map[string]any{
		"version":    version,
		"tpm_quote":  map[string]any{"signature": hex.EncodeToString(signature), "message": hex.EncodeToString(message), "pcrs": list},
		"hcl_report": base64.URLEncoding.EncodeToString(hcl),
	}
	if quote != nil {
		document["td_quote"] = base64.URLEncoding.EncodeToString(quote)
	} else {
		document["vcek"] = base64.URLEncoding.EncodeToString(vm.vcek.Raw)
	}
	return document
}

func (vm *azureVM) oldDocument(message, signature, hcl, quote []byte) map[string]any {
	list := make([][]int, len(vm.listed))
	for i, pcr := range vm.listed {
		list[i] = numbers(pcr)
	}
	tpm := map[string]any{"signature": numbers(signature), "message": numbers(message), "pcrs": list}
	if quote != nil {
		return map[string]any{"tpm_quote": tpm, "hcl_report": numbers(hcl), "td_quote": numbers(quote)}
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vm.vcek.Raw})
	return map[string]any{"quote": tpm, "report": numbers(hcl), "vcek": string(certificate)}
}
