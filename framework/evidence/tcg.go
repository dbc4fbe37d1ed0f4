package evidence

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Constants and layouts of the TPM 2.0 Library Specification, Part 2. They are read here by hand and strictly, so that
// a verifier does not share a decoder with the guest that makes the quotes.
const (
	tpmGenerated  = 0xff544347 // TPM_GENERATED_VALUE
	tpmAttestKind = 0x8018     // TPM_ST_ATTEST_QUOTE
	tpmAlgSHA256  = 0x000b
	tpmAlgRSASSA  = 0x0014
)

// quote is what Verify needs of a TPMS_ATTEST with a TPMS_QUOTE_INFO.
type quote struct {
	extraData  []byte
	selections []selection
	pcrDigest  []byte
}

// selection is a TPMS_PCR_SELECTION.
type selection struct {
	hash   uint16
	bitmap []byte
}

func parseQuote(field string, message []byte) (*quote, error) {
	r := &reader{field: field, rest: message}
	if magic := r.uint32("magic"); r.err == nil && magic != tpmGenerated {
		return nil, &FormatError{field, fmt.Sprintf("magic is %#08x, want TPM_GENERATED %#08x: not made by a TPM", magic, tpmGenerated)}
	}
	if kind := r.uint16("type"); r.err == nil && kind != tpmAttestKind {
		return nil, &FormatError{field, fmt.Sprintf("type is %#04x, want TPM_ST_ATTEST_QUOTE %#04x", kind, tpmAttestKind)}
	}
	r.sized16("qualifiedSigner")
	var q quote
	q.extraData = r.sized16("extraData")
	r.take("clockInfo", 8+4+4+1) // clock, resetCount, restartCount, safe
	r.take("firmwareVersion", 8)
	count := r.uint32("pcrSelect.count")
	for i := uint32(0); i < count && r.err == nil; i++ {
		hash := r.uint16("pcrSelect.hash")
		size := r.take("pcrSelect.sizeofSelect", 1)
		if r.err == nil {
			q.selections = append(q.selections, selection{hash, r.take("pcrSelect.pcrSelect", int(size[0]))})
		}
	}
	q.pcrDigest = r.sized16("pcrDigest")
	return &q, r.end()
}

// checkSelection demands the SHA-256 bank, all of it, and no other bank.
func (q *quote) checkSelection() error {
	if len(q.selections) != 1 {
		return fmt.Errorf("%w: it selects from %d banks", ErrPCRSelection, len(q.selections))
	}
	only := q.selections[0]
	if only.hash != tpmAlgSHA256 || !bytes.Equal(only.bitmap, []byte{0xff, 0xff, 0xff}) {
		return fmt.Errorf("%w: it selects bitmap %x of bank %#04x", ErrPCRSelection, only.bitmap, only.hash)
	}
	return nil
}

// parseSignature takes the RSA signature out of a marshalled TPMT_SIGNATURE.
func parseSignature(field string, marshalled []byte) ([]byte, error) {
	r := &reader{field: field, rest: marshalled}
	scheme := r.uint16("sigAlg")
	hash := r.uint16("hash")
	if r.err == nil && (scheme != tpmAlgRSASSA || hash != tpmAlgSHA256) {
		return nil, fmt.Errorf("%w: field %s: scheme %#04x with hash %#04x, want RSASSA %#04x with SHA-256 %#04x",
			ErrAlgorithm, field, scheme, hash, tpmAlgRSASSA, tpmAlgSHA256)
	}
	signature := r.sized16("sig")
	return signature, r.end()
}

// reader takes big-endian fields off a structure, and remembers the first that was not there.
type reader struct {
	field string
	rest  []byte
	err   error
}

func (r *reader) take(part string, size int) []byte {
	if r.err == nil && len(r.rest) < size {
		r.err = &FormatError{r.field, fmt.Sprintf("%s: %d bytes where %d belong", part, len(r.rest), size)}
	}
	if r.err != nil {
		return nil
	}
	taken := r.rest[:size]
	r.rest = r.rest[size:]
	return taken
}

func (r *reader) uint16(part string) uint16 {
	if taken := r.take(part, 2); taken != nil {
		return binary.BigEndian.Uint16(taken)
	}
	return 0
}

func (r *reader) uint32(part string) uint32 {
	if taken := r.take(part, 4); taken != nil {
		return binary.BigEndian.Uint32(taken)
	}
	return 0
}

// sized16 takes a TPM2B.
func (r *reader) sized16(part string) []byte {
	return r.take(part, int(r.uint16(part+".size")))
}

// end gives the first error, or one if bytes are left over.
func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.err = &FormatError{r.field, fmt.Sprintf("%d bytes left over", len(r.rest))}
	}
	return r.err
}
