package evidence

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
)

// Claims are what verified evidence says.
type Claims struct {
	Kind string
	// TestRoot says that the hardware's certificates lead to a test root, so that no hardware vouches for any of this.
	TestRoot bool
	// PCRs of the SHA-256 bank; zero unless the evidence has a TPM quote.
	PCRs [PCRCount][32]byte
	// AK is the attestation key that signed the TPM quote, nil if there is none.
	AK *rsa.PublicKey
	// AKPublic is AK as tpm evidence has it: standard base64 of its SubjectPublicKeyInfo.
	AKPublic string
	// InitData is Trustee's claim init_data: PCR 8, HOST_DATA or MRCONFIGID in hex. Empty for sample.
	InitData string
	// ReportData is Trustee's claim report_data: the TPM quote's nonce or the report's REPORT_DATA in hex; for sample base64.
	ReportData string
	// SNP is the SEV-SNP report, nil if there is none.
	SNP *SNPClaims
	// TDX is the TDX quote, nil if there is none.
	TDX *TDXClaims
	// SVN is the security version of sample evidence.
	SVN string
}

// PCR gives one register of the SHA-256 bank in hex. It panics unless 0 <= index < PCRCount.
func (c *Claims) PCR(index int) string { return hex.EncodeToString(c.PCRs[index][:]) }

// Map gives the claims under the names and with the types that Trustee's attestation service uses below the kind's claim
// (Trustee deps/verifier): snp has numbers, booleans and hex, az-snp-vtpm has strings alone and base64.
func (c *Claims) Map() map[string]any {
	claims := map[string]any{"report_data": c.ReportData}
	if c.Kind != KindSample {
		claims["init_data"] = c.InitData
	}
	switch c.Kind {
	case KindTPM:
		claims["ak_public"] = c.AKPublic
		c.addPCRs(claims)
	case KindSNP:
		c.SNP.add(claims)
	case KindTDX:
		c.TDX.add(claims)
	case KindAzSNPVTPM:
		c.SNP.addStrings(claims)
		claims["tpm"] = c.addPCRs(map[string]any{})
	case KindAzTDXVTPM:
		c.TDX.add(claims)
		claims["tpm"] = c.addPCRs(map[string]any{})
	case KindSample:
		// Trustee's sample verifier answers with these constants.
		claims["svn"], claims["launch_digest"], claims["debug"] = c.SVN, "abcde", false
		claims["platform_version"] = map[string]any{"major": 1, "minor": 4}
	}
	return claims
}

func (c *Claims) addPCRs(to map[string]any) map[string]any {
	for i := range c.PCRs {
		to[fmt.Sprintf("pcr%02d", i)] = c.PCR(i)
	}
	return to
}

// SNPClaims are a SEV-SNP report's (AMD SEV Secure Nested Paging Firmware ABI, table ATTESTATION_REPORT).
type SNPClaims struct {
	Version  uint32
	Product  string // product line of the vendor's chain, such as Milan; empty under a test root
	GuestSVN uint32
	Policy   uint64 // GUEST_POLICY
	Platform uint64 // PLATFORM_INFO
	VMPL     uint32
	TCB      SNPTCB // REPORTED_TCB

	Measurement [48]byte
	ReportData  [64]byte
	HostData    [32]byte
	ChipID      [64]byte
}

// SNPTCB are the security patch levels of a TCB_VERSION. FMC exists from Turin on.
type SNPTCB struct{ Bootloader, TEE, SNP, Microcode, FMC uint8 }

func (s *SNPClaims) policy(bit uint) bool   { return s.Policy>>bit&1 == 1 }
func (s *SNPClaims) platform(bit uint) bool { return s.Platform>>bit&1 == 1 }

// Debug says whether the host may debug the guest.
func (s *SNPClaims) Debug() bool { return s.policy(19) }

func (s *SNPClaims) add(claims map[string]any) {
	claims["policy_abi_major"] = uint8(s.Policy >> 8)
	claims["policy_abi_minor"] = uint8(s.Policy)
	claims["policy_smt_allowed"] = s.policy(16)
	claims["policy_migrate_ma"] = s.policy(18)
	claims["policy_debug_allowed"] = s.Debug()
	claims["policy_single_socket"] = s.policy(20)
	claims["reported_tcb_bootloader"] = s.TCB.Bootloader
	claims["reported_tcb_tee"] = s.TCB.TEE
	claims["reported_tcb_snp"] = s.TCB.SNP
	claims["reported_tcb_microcode"] = s.TCB.Microcode
	claims["platform_smt_enabled"] = s.platform(0)
	claims["platform_tsme_enabled"] = s.platform(1)
	claims["measurement"] = hex.EncodeToString(s.Measurement[:])
}

// addStrings is add as Trustee's az_snp_vtpm verifier has it.
func (s *SNPClaims) addStrings(claims map[string]any) {
	native := map[string]any{}
	s.add(native)
	for name, value := range native {
		switch value := value.(type) {
		case bool:
			claims[name] = strconv.FormatBool(value)
		case uint8:
			claims[name] = strconv.Itoa(int(value))
		}
	}
	claims["measurement"] = base64.StdEncoding.EncodeToString(s.Measurement[:])
}
