package evidence

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
)

// Layout of the report that Azure's paravisor (the host compatibility layer) keeps in the vTPM's NV index 0x01400001, as
// Microsoft's confidential VM guest attestation documents and azure-cvm-tooling have it: header, hardware report, variable
// data. All numbers are little-endian.
const (
	hclMagic      = "HCLA"
	hclHeaderSize = 32
	hclReportSize = 1184 // SNP report, or TD report padded with zeros
	hclVarHeader  = 20
	hclMaxSize    = 8 << 10 // the NV index has 2600 bytes

	hclRequestReport = 2
	hclTypeSNP       = 2
	hclTypeTDX       = 4
	hclHashSHA256    = 1
	hclUserDataSize  = 64
	hclAttestKeyName = "HCLAkPub"
)

// hclReport is a parsed, not verified, HCL report.
type hclReport struct {
	hardware []byte // report that the hardware made when the paravisor asked, hclReportSize bytes
	varData  []byte // JSON, which the hardware report's REPORT_DATA has the hash of
	ak       *rsa.PublicKey
	userData []byte // nil if the variable data has none
}

func parseHCL(field string, raw []byte, kind uint32) (*hclReport, error) {
	if len(raw) > hclMaxSize {
		return nil, &FormatError{field, fmt.Sprintf("%d bytes, limit %d", len(raw), hclMaxSize)}
	}
	r := &reader{field: field, rest: raw}
	header := r.take("header", hclHeaderSize)
	hardware := r.take("hardware report", hclReportSize)
	var number [5]uint32
	for i, part := range []string{"data_size", "version", "report_type", "hash_type", "var_size"} {
		number[i] = uint32(r.size32(part))
	}
	varData := r.take("variable data", int(number[4]))
	if r.err != nil {
		return nil, r.err
	}
	little := binary.LittleEndian
	for _, check := range []struct {
		part      string
		got, want uint32
	}{
		{"request_type", little.Uint32(header[12:]), hclRequestReport},
		{"status", little.Uint32(header[16:]), 0},
		{"report_type", number[2], kind},
		{"hash_type", number[3], hclHashSHA256},
		{"data_size", number[0], number[4] + hclVarHeader},
	} {
		if check.got != check.want {
			return nil, &FormatError{field + "." + check.part, fmt.Sprintf("%d, want %d", check.got, check.want)}
		}
	}
	if string(header[:4]) != hclMagic {
		return nil, &FormatError{field, fmt.Sprintf("begins with %q, want %q", header[:4], hclMagic)}
	}
	if !allZero(r.rest) {
		return nil, &FormatError{field, fmt.Sprintf("%d bytes left over that are not zero", len(r.rest))}
	}
	report := &hclReport{hardware: hardware, varData: varData}
	return report, report.parseVarData(field + ".var_data")
}

func (h *hclReport) parseVarData(field string) error {
	document, err := parseObject(field, h.varData)
	if err != nil {
		return err
	}
	document.prefix = field + "."
	keys, err := document.objects("keys")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAKBinding, err)
	}
	for _, key := range keys {
		if id, err := key.string("kid"); err != nil || id != hclAttestKeyName {
			continue
		}
		if h.ak != nil {
			return fmt.Errorf("%w: two keys are called %s", ErrAKBinding, hclAttestKeyName)
		}
		if h.ak, err = parseJWK(key); err != nil {
			return err
		}
	}
	if h.ak == nil {
		return fmt.Errorf("%w: none is called %s", ErrAKBinding, hclAttestKeyName)
	}
	if document.absent("user-data") {
		return nil
	}
	text, err := document.string("user-data")
	if err != nil {
		return err
	}
	if h.userData, err = hex.DecodeString(text); err != nil || len(h.userData) != hclUserDataSize {
		return &FormatError{field + ".user-data", fmt.Sprintf("not %d bytes in hex", hclUserDataSize)}
	}
	return nil
}

func parseJWK(key *object) (*rsa.PublicKey, error) {
	kind, err := key.string("kty")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAKBinding, err)
	}
	if kind != "RSA" {
		return nil, fmt.Errorf("%w: field %skty: %q, want RSA", ErrAlgorithm, key.prefix, kind)
	}
	modulus, err := key.base64url("n")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAKBinding, err)
	}
	exponent, err := key.base64url("e")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAKBinding, err)
	}
	if len(exponent) == 0 || len(exponent) > 4 {
		return nil, fmt.Errorf("%w: %w", ErrAKBinding, &FormatError{key.prefix + "e", "not an exponent of up to 32 bits"})
	}
	e := new(big.Int).SetBytes(exponent).Int64()
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(e)}
	return public, checkKey(strings.TrimSuffix(key.prefix, "."), public)
}

// digest is what the paravisor puts into the first half of the hardware report's REPORT_DATA.
func (h *hclReport) digest() [32]byte { return sha256.Sum256(h.varData) }
