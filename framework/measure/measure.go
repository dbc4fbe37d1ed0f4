// Package measure computes the register values that a measured init-data digest must lead to (a vTPM's PCR8, SEV-SNP's
// HOST_DATA, TDX's MRCONFIGID) and those that an event log leads to. Specs compare them with what attested evidence says.
//
// It is arithmetic on byte strings alone, pinned by tests to values made with openssl and to a real machine's log and
// quote. It must not know init-data documents, evidence formats or TPM commands, and nothing that measures may use it: an
// expectation computed by the code under test would prove nothing.
package measure

import (
	"crypto"
	_ "crypto/sha256" // registers SHA-256 with package crypto
	_ "crypto/sha512" // registers SHA-384 and SHA-512
	"fmt"
)

// Sizes of the registers in bytes.
const (
	PCR8Size       = 32 // SHA-256 bank
	HostDataSize   = 32 // SEV-SNP report, field HOST_DATA
	MRConfigIDSize = 48 // TDX report, field MRCONFIGID
)

// InitDataPCR is the index of the PCR that init-data is measured into.
const InitDataPCR = 8

// LengthError says that a value does not have the length that a register takes.
type LengthError struct {
	What      string // such as "init-data digest"
	Want, Got int    // bytes
	Remedy    string
}

func (e *LengthError) Error() string {
	text := fmt.Sprintf("%s has %d bytes, want %d", e.What, e.Got, e.Want)
	if e.Remedy != "" {
		text += "; " + e.Remedy
	}
	return text
}

// Extend is TPM2_PCR_Extend's arithmetic: H(current ‖ digest), with the bank's hash H. Both values must have the length
// of the bank's digest, else the error is a [*LengthError].
func Extend(bank crypto.Hash, current, digest []byte) ([]byte, error) {
	if !bank.Available() {
		return nil, fmt.Errorf("extend: no PCR bank for hash %v; use SHA-256, SHA-384 or SHA-512", bank)
	}
	if len(current) != bank.Size() {
		return nil, &LengthError{What: "register of the " + bank.String() + " bank", Want: bank.Size(), Got: len(current)}
	}
	if len(digest) != bank.Size() {
		return nil, &LengthError{What: "digest for the " + bank.String() + " bank", Want: bank.Size(), Got: len(digest)}
	}
	hash := bank.New()
	hash.Write(current)
	hash.Write(digest)
	return hash.Sum(nil), nil
}

// PCR8 is the value of PCR 8 in the SHA-256 bank after attestation-agent has bound init-data with this digest once, from
// reset: SHA256(32 zero bytes ‖ digest). As in attestation-agent (attester/src/tpm, az_snp_vtpm, az_tdx_vtpm), a digest
// of any other length than 32 bytes is an error, a [*LengthError].
func PCR8(digest []byte) ([]byte, error) {
	if len(digest) != PCR8Size {
		return nil, &LengthError{
			What: "init-data digest", Want: PCR8Size, Got: len(digest),
			Remedy: `attestation-agent binds sha256 digests only: set algorithm = "sha256" in the init-data`,
		}
	}
	return Extend(crypto.SHA256, make([]byte, PCR8Size), digest)
}

// PCR8FromCAA is the value of PCR 8 on cloud-api-adaptor's pod VM images, which extend it with the first 32 bytes of
// whatever digest they have (head -c64 of its hex). Shorter digests are a [*LengthError].
func PCR8FromCAA(digest []byte) ([]byte, error) {
	if len(digest) > PCR8Size {
		digest = digest[:PCR8Size]
	}
	return PCR8(digest)
}

// HostData is SEV-SNP's HOST_DATA for a digest: its first 32 bytes, padded with zeros on the right.
func HostData(digest []byte) []byte { return resize(digest, HostDataSize) }

// MRConfigID is TDX's MRCONFIGID for a digest: its first 48 bytes, padded with zeros on the right.
func MRConfigID(digest []byte) []byte { return resize(digest, MRConfigIDSize) }

func resize(value []byte, size int) []byte {
	resized := make([]byte, size)
	copy(resized, value)
	return resized
}
