package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

const maxBigEvidence = 1 << 20 // JSON with byte arrays as lists of numbers, or with a boot's event log

// SNP is parsed, not verified, evidence of SEV-SNP (Trustee deps/verifier/src/snp).
type SNP struct {
	// Report is the ATTESTATION_REPORT in AMD's layout, put together from the fields in the evidence.
	Report []byte
	// Key is the certificate of the endorsement key (VCEK or VLEK) that came along.
	Key *x509.Certificate

	report *snpReport
}

// ParseSNP reads evidence in the JSON form that attestation-agent's snp attester sends: attestation_report, as serde writes
// the sev crate's AttestationReport (sev 6 and later; report versions 3 to 5), and cert_chain. Evidence without certificates
// needs AMD's key distribution service, which this package does not ask, and is ErrFormat.
func ParseSNP(raw []byte) (*SNP, error) {
	document, err := parseDocument(raw, maxBigEvidence)
	if err != nil {
		return nil, err
	}
	fields, err := document.object("attestation_report")
	if err != nil {
		return nil, err
	}
	var snp SNP
	if snp.Report, err = assembleReport(fields); err != nil {
		return nil, err
	}
	if snp.report, err = parseSNPReport("attestation_report", snp.Report, snpVersionOld); err != nil {
		return nil, err
	}
	if document.absent("cert_chain") {
		return nil, &FormatError{"cert_chain", "missing: put the VCEK's certificate there; this verifier does not ask AMD's server"}
	}
	if snp.Key, err = endorsementKey(document, snp.report.vlek); err != nil {
		return nil, err
	}
	return &snp, nil
}

// endorsementKey takes the one VCEK or VLEK out of cert_chain. ARK and ASK there are ignored: roots come from the verifier.
func endorsementKey(document *object, vlek bool) (*x509.Certificate, error) {
	want := "VCEK"
	if vlek {
		want = "VLEK"
	}
	entries, err := document.objects("cert_chain")
	if err != nil {
		return nil, err
	}
	var found *x509.Certificate
	for _, entry := range entries {
		// serde writes the variant OTHER as {"OTHER": "uuid"}.
		if kind, err := entry.string("cert_type"); err != nil || kind != "VCEK" && kind != "VLEK" {
			continue
		} else if kind != want {
			return nil, &FormatError{entry.prefix + "cert_type", kind + ", but the report says that a " + want + " signed it"}
		}
		if found != nil {
			return nil, &FormatError{"cert_chain", "more than one endorsement key"}
		}
		der, err := entry.bytes("data", 0)
		if err != nil {
			return nil, err
		}
		if found, err = x509.ParseCertificate(der); err != nil {
			return nil, &FormatError{entry.prefix + "data", err.Error()}
		}
	}
	if found == nil {
		return nil, &FormatError{"cert_chain", "no " + want}
	}
	return found, nil
}

// assembler puts a report together at AMD's offsets, and remembers the first field that was wrong.
type assembler struct {
	fields *object
	raw    []byte
	turin  bool
	err    error
}

func (a *assembler) bytes(name string, at, size int) {
	if a.err == nil {
		var value []byte
		value, a.err = a.fields.bytes(name, size)
		copy(a.raw[at:], value)
	}
}

func (a *assembler) uint32(name string, at int) {
	if a.err == nil {
		var value uint32
		value, a.err = number[uint32](a.fields, name)
		binary.LittleEndian.PutUint32(a.raw[at:], value)
	}
}

func (a *assembler) uint64(name string, at int) {
	if a.err == nil {
		var value uint64
		value, a.err = number[uint64](a.fields, name)
		binary.LittleEndian.PutUint64(a.raw[at:], value)
	}
}

// optional numbers are null in reports that are older than them.
func (a *assembler) optionalByte(name string, at int) {
	if a.err == nil && !a.fields.absent(name) {
		a.raw[at], a.err = number[uint8](a.fields, name)
	}
}

func (a *assembler) optionalUint64(name string, at int) {
	if !a.fields.absent(name) {
		a.uint64(name, at)
	}
}

// levels writes an object's numbers to consecutive bytes; an empty name leaves a zero.
func (a *assembler) levels(name string, at int, parts ...string) {
	if a.err != nil {
		return
	}
	inner, err := a.fields.object(name)
	if err != nil {
		a.err = err
		return
	}
	for i, part := range parts {
		if part != "" && a.err == nil {
			a.raw[at+i], a.err = number[uint8](inner, part)
		}
	}
	if a.err == nil && len(parts) == 8 && !a.turin && !inner.absent("fmc") {
		a.err = &FormatError{inner.prefix + "fmc", "set, but no processor before Turin has one"}
	}
}

func (a *assembler) tcb(name string, at int) {
	if a.turin {
		a.levels(name, at, "fmc", "bootloader", "tee", "snp", "", "", "", "microcode")
	} else {
		a.levels(name, at, "bootloader", "tee", "", "", "", "", "snp", "microcode")
	}
}

func (a *assembler) signature() {
	if a.err != nil {
		return
	}
	inner, err := a.fields.object("signature")
	if err != nil {
		a.err = err
		return
	}
	for i, part := range []string{"r", "s"} {
		value, err := inner.bytes(part, snpComponent)
		if err != nil {
			a.err = err
			return
		}
		copy(a.raw[snpSigned+i*snpComponent:], value)
	}
	// Older forms of the crate also write what follows.
	if !inner.absent("_reserved") {
		value, err := inner.bytes("_reserved", snpReportSize-snpSigned-2*snpComponent)
		a.err = err
		copy(a.raw[snpSigned+2*snpComponent:], value)
	}
}

// assembleReport undoes the sev crate's from_bytes. Reserved fields are not in the JSON and are zero, as AMD demands.
func assembleReport(fields *object) ([]byte, error) {
	a := &assembler{fields: fields, raw: make([]byte, snpReportSize)}
	a.uint32("version", 0x00)
	a.optionalByte("cpuid_fam_id", 0x188)
	a.optionalByte("cpuid_mod_id", 0x189)
	a.optionalByte("cpuid_step", 0x18a)
	a.turin = a.raw[0x188] >= 0x1a
	a.uint32("guest_svn", 0x04)
	a.uint64("policy", 0x08)
	a.bytes("family_id", 0x10, 16)
	a.bytes("image_id", 0x20, 16)
	a.uint32("vmpl", 0x30)
	a.uint32("sig_algo", 0x34)
	a.tcb("current_tcb", 0x38)
	a.uint64("plat_info", 0x40)
	a.uint32("key_info", 0x48)
	a.bytes("report_data", 0x50, 64)
	a.bytes("measurement", 0x90, 48)
	a.bytes("host_data", 0xc0, 32)
	a.bytes("id_key_digest", 0xe0, 48)
	a.bytes("author_key_digest", 0x110, 48)
	a.bytes("report_id", 0x140, 32)
	a.bytes("report_id_ma", 0x160, 32)
	a.tcb("reported_tcb", 0x180)
	a.bytes("chip_id", 0x1a0, 64)
	a.tcb("committed_tcb", 0x1e0)
	a.levels("current", 0x1e8, "build", "minor", "major")
	a.levels("committed", 0x1ec, "build", "minor", "major")
	a.tcb("launch_tcb", 0x1f0)
	a.optionalUint64("launch_mit_vector", 0x1f8)
	a.optionalUint64("current_mit_vector", 0x200)
	a.signature()
	return a.raw, a.err
}

// Verify checks the chain from AMD's root to the report and to reportData, zero-padded to 64 bytes: certificate chain
// (ErrChain), signature (ErrReportSignature), chip and firmware (ErrTCB), VMPL (ErrVMPL), debug policy (ErrDebug), report
// data (ErrReportData), HOST_DATA (ErrInitData).
func (s *SNP) Verify(reportData []byte, options Options) (*Claims, error) {
	snp, test, err := s.report.verify(s.Key, options)
	if err != nil {
		return nil, err
	}
	if expected := pad(reportData, len(snp.ReportData)); !bytes.Equal(snp.ReportData[:], expected) {
		return nil, fmt.Errorf("%w: REPORT_DATA is %x, expected %x", ErrReportData, snp.ReportData, expected)
	}
	if err := s.report.checkHostData(options.InitDataDigest); err != nil {
		return nil, err
	}
	return &Claims{
		Kind: KindSNP, TestRoot: test, SNP: snp,
		InitData:   hex.EncodeToString(snp.HostData[:]),
		ReportData: hex.EncodeToString(snp.ReportData[:]),
	}, nil
}
