// Package evidence parses and verifies attestation evidence as guests send it to Trustee, and says what it proves.
//
// Verification stops at the first broken link, with an error that names it. The package judges cryptography and
// structure; whether the claims are those that a policy wants is for its callers. It must not know who asks, where
// evidence comes from, or anything of the simulators: real hardware's evidence goes through the same code.
package evidence

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// Kinds of evidence, in Trustee's words.
const (
	KindTPM       = "tpm"
	KindAzSNPVTPM = "az-snp-vtpm"
	KindAzTDXVTPM = "az-tdx-vtpm"
	KindSNP       = "snp"
	KindTDX       = "tdx"
	KindSample    = "sample"
)

// Kinds are all kinds that [Verify] knows.
var Kinds = []string{KindTPM, KindAzSNPVTPM, KindAzTDXVTPM, KindSNP, KindTDX, KindSample}

// One error per link of the chain that can break; match them with errors.Is.
var (
	// ErrFormat: the evidence is not of its kind's format. The error is a [*FormatError], which names the field.
	ErrFormat = errors.New("evidence is malformed")
	// ErrAlgorithm: a key or signature is not of the algorithm or strength that the kind demands.
	ErrAlgorithm = errors.New("evidence uses an algorithm that is not accepted")
	// ErrSignature: the attestation key did not sign this quote.
	ErrSignature = errors.New("quote is not signed by the attestation key")
	// ErrUntrustedKey: the attestation key is not among those that the caller trusts.
	ErrUntrustedKey = errors.New("attestation key is not trusted")
	// ErrPCRSelection: the quote does not cover exactly the 24 PCRs of the SHA-256 bank, so it proves nothing about some.
	ErrPCRSelection = errors.New("quote does not cover exactly the 24 SHA-256 PCRs")
	// ErrPCRDigest: the listed PCR values are not those that were quoted.
	ErrPCRDigest = errors.New("digest of the listed PCRs is not the digest in the quote")
	// ErrNonce: the quote was made for other report data, so it may be a replay.
	ErrNonce = errors.New("quote's nonce is not the expected report data")
	// ErrInitData: the register that init-data is bound to (PCR 8, HOST_DATA, MRCONFIGID) is not what the expected digest
	// leads to, or the kind binds none.
	ErrInitData = errors.New("expected init-data is not bound to this evidence")
	// ErrAKBinding: the HCL report names no attestation key, or more than one, so that nothing ties a quote to the machine.
	ErrAKBinding = errors.New("HCL report does not name one attestation key")
	// ErrHCLBinding: the hardware report was not made for this HCL report.
	ErrHCLBinding = errors.New("digest of the HCL variable data is not in the hardware report")
	// ErrUserData: the HCL report was made for other report data, so the hardware report may be a replay.
	ErrUserData = errors.New("user-data in the HCL variable data is not the expected report data")
	// ErrChain: the hardware key's certificate does not lead to a vendor's root, nor to a test root that the caller trusts.
	ErrChain = errors.New("certificate chain of the hardware key is not trusted")
	// ErrReportSignature: the hardware key did not sign this report.
	ErrReportSignature = errors.New("hardware report is not signed by the hardware key")
	// ErrQEReport: Intel's quoting enclave did not vouch for the key that signed this quote.
	ErrQEReport = errors.New("quoting enclave does not vouch for the attestation key")
	// ErrTCB: the hardware key's certificate is for another chip or firmware. The error is a [*TCBError], which names the field.
	ErrTCB = errors.New("hardware report and certificate differ")
	// ErrReportData: the hardware report was made for other report data, so it may be a replay.
	ErrReportData = errors.New("report data is not the expected report data")
	// ErrVMPL: the report was asked for by less privileged software than the guest's firmware.
	ErrVMPL = errors.New("report is not of VMPL 0")
	// ErrDebug: the guest may be debugged by its host, which can read its memory.
	ErrDebug = errors.New("guest may be debugged by its host")
	// ErrEventLog: the event log does not lead to the quoted registers.
	ErrEventLog = errors.New("event log does not match the quote")
	// ErrUnsupportedKind: this package cannot verify such evidence. The error is an [*UnsupportedKindError].
	ErrUnsupportedKind = errors.New("evidence kind is not supported")
)

// FormatError is an [ErrFormat]: Field, such as tpm_quote.pcrs[8], has Problem.
type FormatError struct{ Field, Problem string }

func (e *FormatError) Error() string {
	return fmt.Sprintf("%v: field %s: %s", ErrFormat, e.Field, e.Problem)
}

// Unwrap gives ErrFormat.
func (e *FormatError) Unwrap() error { return ErrFormat }

// UnsupportedKindError is an [ErrUnsupportedKind] for Kind.
type UnsupportedKindError struct{ Kind string }

func (e *UnsupportedKindError) Error() string {
	return fmt.Sprintf("%v: %q; supported: %q", ErrUnsupportedKind, e.Kind, Kinds)
}

// Unwrap gives ErrUnsupportedKind.
func (e *UnsupportedKindError) Unwrap() error { return ErrUnsupportedKind }

// TCBError is an [ErrTCB]: Field (chip_id, bootloader, tee, snp, microcode or fmc) differs.
type TCBError struct {
	Field               string
	Report, Certificate string
}

func (e *TCBError) Error() string {
	return fmt.Sprintf("%v: %s: report has %s, certificate %s", ErrTCB, e.Field, e.Report, e.Certificate)
}

// Unwrap gives ErrTCB.
func (e *TCBError) Unwrap() error { return ErrTCB }

// Options are what a caller demands beyond a sound chain.
type Options struct {
	// TrustedAKs are the attestation keys to accept. Nil accepts any key that signs its own evidence, which proves that
	// a quote is consistent but not that a TPM made it; empty and not nil accepts none.
	TrustedAKs []*rsa.PublicKey
	// InitDataDigest, when not nil, is the digest of the init-data that must be bound to the evidence: for tpm and az-*,
	// 32 bytes that were extended into PCR 8, once, from reset; for snp, HOST_DATA, cut or zero-padded to 32 bytes; for tdx,
	// MRCONFIGID, cut or zero-padded to 48 bytes. Evidence of kind sample binds none, which is an error.
	InitDataDigest []byte
	// Roots are test roots to trust beside the vendors'. Claims say when evidence led to one.
	Roots Roots
	// EventLog, when not nil, is a log that must lead to the quoted registers (ErrEventLog): for tpm and az-* to the PCRs that it has
	// events of and to EventPCR; for tdx to all RTMRs. Evidence of snp and sample has no such registers, which is an error.
	EventLog *measure.EventLog
	// EventPCR is the PCR that the guest's agent measures its events into, whether the log has any or not; 0 is
	// DefaultEventPCR. One that everybody may reset is refused.
	EventPCR uint32
	// AllowDebug accepts guests that their host may debug; the claims tell.
	AllowDebug bool
	// Now is the time at which certificates must be valid; nil is time.Now.
	Now func() time.Time
}

func (o Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

// Verify parses evidence of the named kind and verifies it for reportData, which the verifier chose or derived from a
// challenge that it chose. reportData must be in the evidence: for tpm as a nonce of 32 bytes, cut or zero-padded, or of 64,
// zero-padded; for az-* as a nonce, exactly; for snp and tdx zero-padded to 64 bytes. Revocation lists and Intel's TCB information, which only
// the vendors' servers have, are not consulted. A kind that is none of [Kinds] is an [*UnsupportedKindError].
func Verify(kind string, raw, reportData []byte, options Options) (*Claims, error) {
	switch kind {
	case KindTPM:
		return parseAndVerify(ParseTPM, raw, reportData, options)
	case KindAzSNPVTPM:
		return parseAndVerify(ParseAzSNP, raw, reportData, options)
	case KindAzTDXVTPM:
		return parseAndVerify(ParseAzTDX, raw, reportData, options)
	case KindSNP:
		return parseAndVerify(ParseSNP, raw, reportData, options)
	case KindTDX:
		return parseAndVerify(ParseTDX, raw, reportData, options)
	case KindSample:
		return parseAndVerify(ParseSample, raw, reportData, options)
	}
	return nil, &UnsupportedKindError{kind}
}

type verifier interface {
	Verify(reportData []byte, options Options) (*Claims, error)
}

func parseAndVerify[E verifier](parse func([]byte) (E, error), raw, reportData []byte, options Options) (*Claims, error) {
	parsed, err := parse(raw)
	if err != nil {
		return nil, err
	}
	return parsed.Verify(reportData, options)
}
