package evidence

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// Layout of ATTESTATION_REPORT in AMD's SEV Secure Nested Paging Firmware ABI Specification (document 56860).
const (
	snpReportSize = 0x4a0
	snpSigned     = 0x2a0 // bytes that are signed; the signature follows
	snpComponent  = 72    // bytes of each of the signature's numbers, little-endian

	snpVersionAzure = 2 // oldest version that Azure's evidence has
	snpVersionOld   = 3 // oldest that says which processor it is of; Trustee takes no older
	snpVersionNew   = 5
)

// snpReport is a parsed, not verified, ATTESTATION_REPORT.
type snpReport struct {
	raw    []byte
	claims SNPClaims
	vlek   bool // signed by a VLEK, not by a VCEK
	family uint8
	model  uint8
}

func parseSNPReport(field string, raw []byte, oldest uint32) (*snpReport, error) {
	if len(raw) != snpReportSize {
		return nil, &FormatError{field, fmt.Sprintf("%d bytes, want %d", len(raw), snpReportSize)}
	}
	little := binary.LittleEndian
	r := &snpReport{raw: raw, family: raw[0x188], model: raw[0x189]}
	c := &r.claims
	if c.Version = little.Uint32(raw); c.Version < oldest || c.Version > snpVersionNew {
		return nil, &FormatError{field + ".version", fmt.Sprintf("%d, want %d to %d", c.Version, oldest, snpVersionNew)}
	}
	c.GuestSVN, c.Policy, c.VMPL = little.Uint32(raw[0x04:]), little.Uint64(raw[0x08:]), little.Uint32(raw[0x30:])
	c.Platform = little.Uint64(raw[0x40:])
	if algorithm := little.Uint32(raw[0x34:]); algorithm != 1 {
		return nil, fmt.Errorf("%w: field %s.sig_algo: %d, want 1 (ECDSA P-384 with SHA-384)", ErrAlgorithm, field, algorithm)
	}
	switch key := little.Uint32(raw[0x48:]) >> 2 & 7; key {
	case 0, 1:
		r.vlek = key == 1
	default:
		return nil, &FormatError{field + ".key_info", fmt.Sprintf("signing key %d, want VCEK 0 or VLEK 1: the report is not signed", key)}
	}
	copy(c.ReportData[:], raw[0x50:])
	copy(c.Measurement[:], raw[0x90:])
	copy(c.HostData[:], raw[0xc0:])
	copy(c.ChipID[:], raw[0x1a0:])
	c.TCB = r.tcb(raw[0x180:])
	if rest := raw[snpSigned+2*snpComponent:]; len(bytes.Trim(rest, "\x00")) != 0 {
		return nil, &FormatError{field + ".signature", "bytes after the signature are not zero"}
	}
	return r, nil
}

// turin says whether TCB versions have the layout that Turin brought.
func (r *snpReport) turin() bool {
	if r.claims.Version >= snpVersionOld {
		return r.family >= 0x1a
	}
	id := r.raw[0x1a0:0x1e0] // as the sev crate guesses: from Turin on, a chip id has 8 bytes
	return !allZero(id) && allZero(id[8:])
}

func (r *snpReport) tcb(raw []byte) SNPTCB {
	if r.turin() {
		return SNPTCB{FMC: raw[0], Bootloader: raw[1], TEE: raw[2], SNP: raw[3], Microcode: raw[7]}
	}
	return SNPTCB{Bootloader: raw[0], TEE: raw[1], SNP: raw[6], Microcode: raw[7]}
}

func allZero(raw []byte) bool { return len(bytes.Trim(raw, "\x00")) == 0 }

// product is AMD's product line, or empty if the report does not say.
func (r *snpReport) product() string {
	if r.claims.Version < snpVersionOld {
		return ""
	}
	return kds.ProductLineFromFms(abi.FmsToCpuid1Eax(r.family, r.model, 0))
}

// verify checks, in this order, that key's certificate leads to a root (ErrChain), that key signed the report
// (ErrReportSignature), that the certificate is for this chip and firmware (ErrTCB), and that the guest's firmware asked
// for it (ErrVMPL) in a guest that the host cannot debug (ErrDebug).
func (r *snpReport) verify(key *x509.Certificate, options Options) (claims *SNPClaims, test bool, err error) {
	chain, err := r.verifyChain(key, options)
	if err != nil {
		return nil, false, err
	}
	if err := r.verifySignature(key); err != nil {
		return nil, false, err
	}
	if err := r.verifyTCB(key); err != nil {
		return nil, false, err
	}
	if r.claims.VMPL != 0 {
		return nil, false, fmt.Errorf("%w: it is of VMPL %d", ErrVMPL, r.claims.VMPL)
	}
	if r.claims.Debug() && !options.AllowDebug {
		return nil, false, fmt.Errorf("%w: policy %#x has bit 19, DEBUG", ErrDebug, r.claims.Policy)
	}
	verified := r.claims
	verified.Product = chain.line
	return &verified, chain.line == "", nil
}

func (r *snpReport) verifyChain(key *x509.Certificate, options Options) (*amdCandidate, error) {
	line := r.product()
	var failures []error
	candidates, err := amdCandidates(r.vlek, options.Roots)
	if err != nil {
		return nil, err
	}
	for _, candidate := range candidates {
		if candidate.line != "" && line != "" && candidate.line != line {
			continue // Milan's root does not vouch for Genoa's processors
		}
		err := verifyChain(key, candidate.intermediate, candidate.root, options.now())
		if err == nil {
			return &candidate, nil
		}
		failures = append(failures, fmt.Errorf("through %q: %w", candidate.intermediate.Subject.CommonName, err))
	}
	if failures == nil {
		failures = []error{errors.New("no root is known for it")}
	}
	return nil, fmt.Errorf("%w: certificate of %q, processor %q: %w", ErrChain, key.Subject.CommonName, line, errors.Join(failures...))
}

func (r *snpReport) verifySignature(key *x509.Certificate) error {
	public, ok := key.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P384() {
		return fmt.Errorf("%w: endorsement key is a %T, want ECDSA P-384", ErrAlgorithm, key.PublicKey)
	}
	number := func(at int) *big.Int {
		little := slices.Clone(r.raw[at : at+snpComponent])
		slices.Reverse(little)
		return new(big.Int).SetBytes(little)
	}
	digest := sha512.Sum384(r.raw[:snpSigned])
	if !ecdsa.Verify(public, digest[:], number(snpSigned), number(snpSigned+snpComponent)) {
		return ErrReportSignature
	}
	return nil
}

// Extensions of an endorsement key's certificate (AMD document 57230, Versioned Chip Endorsement Key Certificate and KDS
// Interface Specification).
var (
	oidHardwareID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}
	oidTCB        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3}
)

func (r *snpReport) verifyTCB(key *x509.Certificate) error {
	if !r.vlek { // a VLEK is of a cloud, not of a chip
		if err := r.verifyChipID(key); err != nil {
			return err
		}
	}
	fields := []struct {
		name  string
		arc   int
		value uint8
	}{
		{"microcode", 8, r.claims.TCB.Microcode},
		{"snp", 3, r.claims.TCB.SNP},
		{"tee", 2, r.claims.TCB.TEE},
		{"bootloader", 1, r.claims.TCB.Bootloader},
	}
	if r.turin() {
		fields = append(fields, fields[0])
		fields[4].name, fields[4].arc, fields[4].value = "fmc", 9, r.claims.TCB.FMC
	}
	for _, field := range fields {
		var level int
		switch value := extension(key, append(slices.Clone(oidTCB), field.arc)); {
		case value == nil:
			return &TCBError{field.name, strconv.Itoa(int(field.value)), "none"}
		default:
			if rest, err := asn1.Unmarshal(value, &level); err != nil || len(rest) != 0 {
				return &TCBError{field.name, strconv.Itoa(int(field.value)), "an extension that is not an integer"}
			}
		}
		if level != int(field.value) {
			return &TCBError{field.name, strconv.Itoa(int(field.value)), strconv.Itoa(level)}
		}
	}
	return nil
}

func (r *snpReport) verifyChipID(key *x509.Certificate) error {
	report := r.claims.ChipID[:]
	value := extension(key, oidHardwareID)
	// AMD writes the identifier both bare and as an OCTET STRING.
	var inner []byte
	if rest, err := asn1.Unmarshal(value, &inner); err == nil && len(rest) == 0 {
		value = inner
	}
	if r.turin() && len(value) == 8 {
		value = append(slices.Clone(value), make([]byte, 56)...)
	}
	if allZero(report) || !bytes.Equal(value, report) {
		return &TCBError{"chip_id", hex.EncodeToString(report), hex.EncodeToString(value)}
	}
	return nil
}

// extension is the value of a certificate's extension that occurs once; x509 refuses those that occur twice.
func extension(certificate *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for _, extension := range certificate.Extensions {
		if extension.Id.Equal(id) {
			return extension.Value
		}
	}
	return nil
}

// checkHostData compares HOST_DATA with the digest that the host must have set it to.
func (r *snpReport) checkHostData(digest []byte) error {
	if digest == nil {
		return nil
	}
	if expected := measure.HostData(digest); !bytes.Equal(r.claims.HostData[:], expected) {
		return &RegisterError{"HOST_DATA", r.claims.HostData[:], expected}
	}
	return nil
}

// pad zero-pads report data to the size of the report's field; what is longer fits no report.
func pad(reportData []byte, size int) []byte {
	if len(reportData) > size {
		return reportData
	}
	return append(slices.Clone(reportData), make([]byte, size-len(reportData))...)
}
