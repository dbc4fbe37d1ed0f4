// Package evidence parses and verifies attestation evidence as guests send it to Trustee, and says what it proves.
//
// Verification stops at the first broken link, with an error that names it. The package judges cryptography and
// structure; whether the claims are those that a policy wants is for its callers. It must not know who asks, where
// evidence comes from, or anything of the simulators: real hardware's evidence goes through the same code.
package evidence

import (
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
)

// Kinds of evidence, in Trustee's words. [Verify] knows KindTPM.
const (
	KindTPM       = "tpm"
	KindAzSNPVTPM = "az-snp-vtpm"
	KindAzTDXVTPM = "az-tdx-vtpm"
	KindSNP       = "snp"
	KindTDX       = "tdx"
	KindSample    = "sample"
)

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
	// ErrInitData: PCR 8 is not what the expected init-data digest leads to.
	ErrInitData = errors.New("PCR 8 does not match the expected init-data digest")
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
	return fmt.Sprintf("%v: %q; supported: %q", ErrUnsupportedKind, e.Kind, KindTPM)
}

// Unwrap gives ErrUnsupportedKind.
func (e *UnsupportedKindError) Unwrap() error { return ErrUnsupportedKind }

// Options are what a caller demands beyond a sound chain.
type Options struct {
	// TrustedAKs are the attestation keys to accept. Nil accepts any key that signs its own evidence, which proves that
	// a quote is consistent but not that a TPM made it; empty and not nil accepts none.
	TrustedAKs []*rsa.PublicKey
	// InitDataDigest, when not nil, is the 32-byte digest that must have been extended into PCR 8, once, from reset.
	InitDataDigest []byte
}

// Claims are what verified evidence says.
type Claims struct {
	Kind string
	// PCRs of the SHA-256 bank.
	PCRs [PCRCount][32]byte
	// AK is the attestation key that signed.
	AK *rsa.PublicKey
	// AKPublic is AK as the evidence has it: standard base64 of its SubjectPublicKeyInfo.
	AKPublic string
	// InitData is PCR 8 in hex, as Trustee's claim init_data.
	InitData string
	// ReportData is the quote's nonce in hex, as Trustee's claim report_data.
	ReportData string
}

// PCR gives one register of the SHA-256 bank in hex. It panics unless 0 <= index < PCRCount.
func (c *Claims) PCR(index int) string { return hex.EncodeToString(c.PCRs[index][:]) }

// Map gives the claims under the names that Trustee's attestation service uses below submods' tpm claim:
// pcr00 … pcr23, ak_public, init_data, report_data.
func (c *Claims) Map() map[string]any {
	claims := map[string]any{"ak_public": c.AKPublic, "init_data": c.InitData, "report_data": c.ReportData}
	for i := range c.PCRs {
		claims[fmt.Sprintf("pcr%02d", i)] = c.PCR(i)
	}
	return claims
}

// Verify parses evidence of the named kind and verifies it for reportData, which the verifier chose or derived from a
// challenge that it chose. Kinds other than KindTPM give an [*UnsupportedKindError].
func Verify(kind string, raw, reportData []byte, options Options) (*Claims, error) {
	if kind != KindTPM {
		return nil, &UnsupportedKindError{kind}
	}
	tpm, err := ParseTPM(raw)
	if err != nil {
		return nil, err
	}
	return tpm.Verify(reportData, options)
}
