package evidence

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

const (
	// PCRCount is the number of PCRs in a bank.
	PCRCount = 24
	// NonceSize is the length to which report data is cut or zero-padded before it goes into a quote, in bytes.
	NonceSize = 32
	// longNonceSize is the length to which some versions of attestation-agent and Trustee zero-pad it instead.
	longNonceSize = 64

	maxEvidenceSize = 64 << 10 // JSON; real evidence has about 4 KiB
	minKeyBits      = 2048
	maxKeyBits      = 4096
)

// TPM is parsed, not verified, evidence of a plain TPM 2.0 (Trustee deps/verifier/src/tpm).
type TPM struct {
	AK        *rsa.PublicKey
	AKPublic  string // standard base64 of AK's SubjectPublicKeyInfo, as the evidence has it
	Message   []byte // TPMS_ATTEST, the bytes that are signed
	Signature []byte // RSA signature, without the TPMT_SIGNATURE around it
	PCRs      [PCRCount][32]byte
}

// ParseTPM reads evidence in the JSON form that attestation-agent's tpm attester sends. Field names must match exactly
// and occur once; unknown fields are ignored, as Trustee does. The errors are ErrFormat, ErrAlgorithm (not an RSA key of
// 2048 to 4096 bits, not RSASSA with SHA-256) and ErrPCRSelection (not 24 PCRs).
func ParseTPM(raw []byte) (*TPM, error) {
	document, err := parseDocument(raw, maxEvidenceSize)
	if err != nil {
		return nil, err
	}
	var tpm TPM
	if tpm.AKPublic, err = document.string("ak_public"); err != nil {
		return nil, err
	}
	if tpm.AK, err = parseKey("ak_public", tpm.AKPublic); err != nil {
		return nil, err
	}
	quote, err := document.object("tpm_quote")
	if err != nil {
		return nil, err
	}
	signature, err := quote.base64("signature")
	if err != nil {
		return nil, err
	}
	if tpm.Signature, err = parseSignature("tpm_quote.signature", signature); err != nil {
		return nil, err
	}
	if tpm.Message, err = quote.base64("message"); err != nil {
		return nil, err
	}
	pcrs, err := quote.strings("pcrs")
	if err != nil {
		return nil, err
	}
	if err := parsePCRs("tpm_quote.pcrs", pcrs, &tpm.PCRs); err != nil {
		return nil, err
	}
	return &tpm, nil
}

func parseKey(field, encoded string) (*rsa.PublicKey, error) {
	der, err := decodeBase64(field, encoded)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, &FormatError{field, "not a SubjectPublicKeyInfo: " + err.Error()}
	}
	ak, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: field %s: %T, want an RSA key", ErrAlgorithm, field, key)
	}
	return ak, checkKey(field, ak)
}

func checkKey(field string, ak *rsa.PublicKey) error {
	if bits := ak.N.BitLen(); bits < minKeyBits || bits > maxKeyBits {
		return fmt.Errorf("%w: field %s: RSA key of %d bits, want %d to %d", ErrAlgorithm, field, bits, minKeyBits, maxKeyBits)
	}
	return nil
}

func parsePCRs(field string, values []string, pcrs *[PCRCount][32]byte) error {
	if len(values) != PCRCount {
		return fmt.Errorf("%w: field %s lists %d", ErrPCRSelection, field, len(values))
	}
	for i, value := range values {
		if len(value) != 2*len(pcrs[i]) {
			problem := fmt.Sprintf("PCR should be 64 hex characters (32 bytes), got %d", len(value))
			return &FormatError{fmt.Sprintf("%s[%d]", field, i), problem}
		}
		if _, err := hex.Decode(pcrs[i][:], []byte(value)); err != nil {
			return &FormatError{fmt.Sprintf("%s[%d]", field, i), err.Error()}
		}
	}
	return nil
}

// Verify checks the chain from the attestation key to the PCR values and to reportData, which is cut or zero-padded to
// [NonceSize] as the guest does, or zero-padded to 64 bytes as other versions of it do. In this order: the key is trusted (ErrUntrustedKey) and signed the message
// (ErrSignature); the message is a quote that a TPM generated (ErrFormat) over exactly all SHA-256 PCRs
// (ErrPCRSelection) with these values (ErrPCRDigest) for this report data (ErrNonce); and PCR 8 holds the expected
// init-data (ErrInitData).
func (t *TPM) Verify(reportData []byte, options Options) (*Claims, error) {
	if options.TrustedAKs != nil && !slices.ContainsFunc(options.TrustedAKs, func(k *rsa.PublicKey) bool { return k.Equal(t.AK) }) {
		return nil, ErrUntrustedKey
	}
	nonce := make([]byte, NonceSize)
	copy(nonce, reportData)
	quoted, err := verifyQuote(t.AK, t.Message, t.Signature, &t.PCRs, nonce, pad(reportData, longNonceSize))
	if err != nil {
		return nil, err
	}
	if err := checkPCR8(&t.PCRs, options.InitDataDigest); err != nil {
		return nil, err
	}
	if err := checkEvents(&t.PCRs, options); err != nil {
		return nil, err
	}
	return &Claims{
		Kind: KindTPM, EventLog: options.EventLog, PCRs: t.PCRs, AK: t.AK, AKPublic: t.AKPublic,
		InitData:   hex.EncodeToString(t.PCRs[measure.InitDataPCR][:]),
		ReportData: hex.EncodeToString(quoted),
	}, nil
}

// verifyQuote checks one link after the other from the key to the PCR values and the nonce, which has to be one of nonces
// and is given.
func verifyQuote(ak *rsa.PublicKey, message, signature []byte, pcrs *[PCRCount][32]byte, nonces ...[]byte) ([]byte, error) {
	hash := sha256.Sum256(message)
	if err := rsa.VerifyPKCS1v15(ak, crypto.SHA256, hash[:], signature); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	quote, err := parseQuote("tpm_quote.message", message)
	if err != nil {
		return nil, err
	}
	if err := quote.checkSelection(); err != nil {
		return nil, err
	}
	var values []byte
	for _, pcr := range pcrs {
		values = append(values, pcr[:]...)
	}
	// The TPM hashes with the signing scheme's hash, which is SHA-256 here.
	if digest := sha256.Sum256(values); !bytes.Equal(digest[:], quote.pcrDigest) {
		return nil, fmt.Errorf("%w: %x, quoted %x", ErrPCRDigest, digest, quote.pcrDigest)
	}
	for _, nonce := range nonces {
		if bytes.Equal(quote.extraData, nonce) {
			return nonce, nil
		}
	}
	return nil, fmt.Errorf("%w: nonce %x, expected %x", ErrNonce, quote.extraData, nonces[0])
}

func checkPCR8(pcrs *[PCRCount][32]byte, digest []byte) error {
	if digest == nil {
		return nil
	}
	expected, err := measure.PCR8(digest)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInitData, err)
	}
	if pcr := pcrs[measure.InitDataPCR]; !bytes.Equal(pcr[:], expected) {
		return &RegisterError{"PCR 8", pcr[:], expected}
	}
	return nil
}
