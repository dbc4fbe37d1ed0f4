package evidence

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
)

// Layout of a quote in Intel's TDX DCAP Quoting Library API, appendix "Quote Format", version 4.
const (
	tdxHeaderSize = 48
	tdxBodySize   = 584
	tdxSigned     = tdxHeaderSize + tdxBodySize

	// An SGX report body (Intel SDM volume 3D, 38.15.1), and where its fields are.
	qeReportSize = 384
	qeAttributes = 48 // the first byte has the flag DEBUG
	qeMRSigner   = 128
	qeISVProdID  = 256
	qeReportData = 320

	sgxDebug = 0x02
	// tdqeProdID is ISVPRODID of Intel's TD quoting enclave.
	tdqeProdID = 2

	certTypeQEReport = 6
	certTypePCKChain = 5
)

// intelVendorID names Intel's quoting enclave.
var intelVendorID = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// intelMRSigner is the hash of the key that Intel signs its quoting enclaves with (mrsigner of the QE identity that Intel's
// provisioning service publishes at /tdx/certification/v4/qe/identity).
var intelMRSigner = []byte{
	0xdc, 0x9e, 0x2a, 0x7c, 0x6f, 0x94, 0x8f, 0x17, 0x47, 0x4e, 0x34, 0xa7, 0xfc, 0x43, 0xed, 0x03,
	0x0f, 0x7c, 0x15, 0x63, 0xf1, 0xba, 0xbd, 0xdf, 0x63, 0x40, 0xc8, 0x2e, 0x0e, 0x54, 0xa8, 0xc5,
}

// tdxQuote is a parsed, not verified, quote. It is read here by hand, so that tests can hold it against Google's decoder.
type tdxQuote struct {
	signed    []byte // header and body
	claims    TDXClaims
	signature []byte // ECDSA P-256, two numbers of 32 bytes
	key       []byte // attestation key, a point of P-256 without its 04
	qeReport  []byte
	qeSig     []byte
	qeAuth    []byte
	leaf      *x509.Certificate // PCK
	issuer    *x509.Certificate // PCK platform or processor CA
}

func parseTDXQuote(field string, raw []byte) (*tdxQuote, error) {
	r := &reader{field: field, rest: raw}
	header := r.take("header", tdxHeaderSize)
	body := r.take("body", tdxBodySize)
	auth := &reader{field: field + ".auth_data"}
	auth.rest = r.take("auth_data", r.size32("auth_data.size"))
	if r.err != nil {
		return nil, r.err
	}
	// TDX modules hand out buffers of fixed size, zero after the quote.
	if !allZero(r.rest) {
		return nil, &FormatError{field, fmt.Sprintf("%d bytes left over that are not zero", len(r.rest))}
	}
	q := &tdxQuote{signed: raw[:tdxSigned]}
	if err := q.parseHeader(field, header); err != nil {
		return nil, err
	}
	q.parseBody(body)
	q.signature = auth.take("signature", 64)
	q.key = auth.take("attestation key", 64)
	inner := auth.certData(certTypeQEReport)
	if err := auth.end(); err != nil {
		return nil, err
	}
	return q, q.parseQE(&reader{field: field + ".auth_data.certification_data", rest: inner})
}

func (r *reader) size32(part string) int {
	taken := r.take(part, 4)
	if taken == nil {
		return 0
	}
	return int(binary.LittleEndian.Uint32(taken))
}

// certData takes certification data of the type, with Intel's byte order.
func (r *reader) certData(want uint16) []byte {
	kind := r.take("certification data type", 2)
	if r.err == nil && binary.LittleEndian.Uint16(kind) != want {
		r.err = &FormatError{r.field, fmt.Sprintf("certification data of type %d, want %d", binary.LittleEndian.Uint16(kind), want)}
	}
	return r.take("certification data", r.size32("certification data size"))
}

func (q *tdxQuote) parseHeader(field string, header []byte) error {
	h := &q.claims.Header
	copy(h[:], header)
	if version := binary.LittleEndian.Uint16(h[0:]); version != 4 {
		return &FormatError{field + ".header.version", fmt.Sprintf("%d, want 4", version)}
	}
	if key := binary.LittleEndian.Uint16(h[2:]); key != 2 {
		return fmt.Errorf("%w: field %s.header.att_key_type: %d, want 2 (ECDSA P-256)", ErrAlgorithm, field, key)
	}
	if tee := binary.LittleEndian.Uint32(h[4:]); tee != 0x81 {
		return &FormatError{field + ".header.tee_type", fmt.Sprintf("%#x, want TDX 0x81", tee)}
	}
	if !bytes.Equal(h[12:28], intelVendorID) {
		return &FormatError{field + ".header.vendor_id", fmt.Sprintf("%x, want Intel's %x", h[12:28], intelVendorID)}
	}
	return nil
}

func (q *tdxQuote) parseBody(body []byte) {
	c := &q.claims
	next := func(into []byte) { body = body[copy(into, body):] }
	next(c.TCBSVN[:])
	next(c.MRSeam[:])
	next(c.MRSignerSeam[:])
	next(c.SeamAttributes[:])
	next(c.TDAttributes[:])
	next(c.XFAM[:])
	next(c.MRTD[:])
	next(c.MRConfigID[:])
	next(c.MROwner[:])
	next(c.MROwnerConfig[:])
	for i := range c.RTMRs {
		next(c.RTMRs[i][:])
	}
	next(c.ReportData[:])
}

func (q *tdxQuote) parseQE(r *reader) error {
	q.qeReport = r.take("QE report", qeReportSize)
	q.qeSig = r.take("QE report signature", 64)
	size := r.take("QE authentication data size", 2)
	if r.err == nil {
		q.qeAuth = r.take("QE authentication data", int(binary.LittleEndian.Uint16(size)))
	}
	chain := r.certData(certTypePCKChain)
	if err := r.end(); err != nil {
		return err
	}
	// The chain's third certificate is the root, which a verifier must have from elsewhere.
	var certificates []*x509.Certificate
	for rest := bytes.TrimRight(chain, "\x00\r\n \t"); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return &FormatError{r.field + ".pck_chain", "not PEM certificates"}
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return &FormatError{r.field + ".pck_chain", err.Error()}
		}
		certificates = append(certificates, certificate)
	}
	if len(certificates) != 3 {
		return &FormatError{r.field + ".pck_chain", fmt.Sprintf("%d certificates, want PCK, its CA and the root", len(certificates))}
	}
	q.leaf, q.issuer = certificates[0], certificates[1]
	return nil
}

// verify checks, in this order, that the PCK leads to Intel's root or a test root (ErrChain), that the PCK signed the
// quoting enclave's report, that it is Intel's enclave and that its report names the attestation key (ErrQEReport), that
// the attestation key signed the quote (ErrReportSignature), and that the host cannot debug the guest (ErrDebug).
func (q *tdxQuote) verify(options Options) (claims *TDXClaims, test bool, err error) {
	if test, err = q.verifyChain(options); err != nil {
		return nil, false, err
	}
	pck, ok := q.leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || pck.Curve != elliptic.P256() {
		return nil, false, fmt.Errorf("%w: PCK is a %T, want ECDSA P-256", ErrAlgorithm, q.leaf.PublicKey)
	}
	if !verifyP256(pck, q.qeReport, q.qeSig) {
		return nil, false, fmt.Errorf("%w: its report is not signed by the PCK", ErrQEReport)
	}
	if err := checkQE(q.qeReport, test); err != nil {
		return nil, false, err
	}
	digest := sha256.Sum256(append(slices.Clone(q.key), q.qeAuth...))
	if !bytes.Equal(q.qeReport[qeReportData:], pad(digest[:], 64)) {
		return nil, false, fmt.Errorf("%w: its report is about another key", ErrQEReport)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.key...))
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrQEReport, err)
	}
	if !verifyP256(key, q.signed, q.signature) {
		return nil, false, ErrReportSignature
	}
	if q.claims.Debug() && !options.AllowDebug {
		return nil, false, fmt.Errorf("%w: TD attributes %x have bit 0, DEBUG", ErrDebug, q.claims.TDAttributes)
	}
	verified := q.claims
	return &verified, test, nil
}

// checkQE checks which enclave the PCK vouches for: a PCK signs reports of anybody's enclave, and one that is not Intel's,
// or that can be debugged, signs any quote. Under a test root the enclave may be anybody's.
func checkQE(report []byte, test bool) error {
	if report[qeAttributes]&sgxDebug != 0 {
		return fmt.Errorf("%w: the enclave can be debugged", ErrQEReport)
	}
	if test {
		return nil
	}
	if signer := report[qeMRSigner : qeMRSigner+32]; !bytes.Equal(signer, intelMRSigner) {
		return fmt.Errorf("%w: MRSIGNER %x is not Intel's %x", ErrQEReport, signer, intelMRSigner)
	}
	if id := binary.LittleEndian.Uint16(report[qeISVProdID:]); id != tdqeProdID {
		return fmt.Errorf("%w: ISVPRODID %d is not the TD quoting enclave's %d", ErrQEReport, id, tdqeProdID)
	}
	return nil
}

func (q *tdxQuote) verifyChain(options Options) (test bool, err error) {
	intel, err := parsePEM(intelRootPEM)
	if err != nil {
		return false, fmt.Errorf("built-in root of Intel: %w", err)
	}
	if err = verifyChain(q.leaf, q.issuer, intel, options.now()); err == nil {
		return false, nil
	}
	for _, root := range options.Roots.Intel {
		if verifyChain(q.leaf, q.issuer, root, options.now()) == nil {
			return true, nil
		}
	}
	return false, fmt.Errorf("%w: certificate of %q: %w", ErrChain, q.leaf.Subject.CommonName, err)
}

func verifyP256(key *ecdsa.PublicKey, message, signature []byte) bool {
	digest := sha256.Sum256(message)
	return ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}
