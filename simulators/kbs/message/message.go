// Package message reads what a KBS is sent, protocol 0.4.0 (kbs-types), and says what evidence has to be bound to.
//
// It is strict: names are exact, no name occurs twice, and what it does not understand is an error. It must not know
// what happens to a message.
package message

import (
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

// tees are the names of TEEs in the protocol (kbs-types Tee).
var tees = []string{
	"az-snp-vtpm", "az-tdx-vtpm", "nvidia", "sgx", "snp", "tdx", "cca", "csv", "se", "hygondcu", "tpm", "sample", "sampledevice",
}

// Request begins the handshake.
type Request struct {
	Version, TEE string
}

// ParseRequest reads the body of /auth. The version is not judged.
func ParseRequest(body []byte) (*Request, error) {
	parsed, err := fields(body)
	if err != nil {
		return nil, err
	}
	var request Request
	if err := texts(parsed, map[string]*string{"version": &request.Version, "tee": &request.TEE}); err != nil {
		return nil, err
	}
	if _, ok := parsed["extra-params"]; !ok {
		return nil, errors.New("missing field `extra-params`")
	}
	if !slices.Contains(tees, request.TEE) {
		return nil, fmt.Errorf("unknown variant `%.64s` of tee", request.TEE)
	}
	return &request, nil
}

// Attestation carries evidence.
type Attestation struct {
	// InitData is the init-data document, nil for none.
	InitData *InitData
	Runtime  Runtime
	Evidence json.RawMessage
}

// InitData is an init-data document in some format.
type InitData struct {
	Format, Body string
}

// Runtime is what evidence is bound to.
type Runtime struct {
	Nonce string
	Key   PublicKey
	// AdditionalEvidence of devices, a JSON string; empty for none.
	AdditionalEvidence string
}

// ParseAttestation reads the body of /attest.
func ParseAttestation(body []byte) (*Attestation, error) {
	parsed, err := fields(body)
	if err != nil {
		return nil, err
	}
	var attestation Attestation
	if attestation.InitData, err = parseInitData(parsed); err != nil {
		return nil, err
	}
	runtime, err := object(parsed, "runtime-data")
	if err != nil {
		return nil, err
	}
	if attestation.Runtime.Nonce, err = text(runtime, "nonce"); err != nil {
		return nil, err
	}
	raw, ok := runtime["tee-pubkey"]
	if !ok {
		return nil, errors.New("missing field `tee-pubkey`")
	}
	if attestation.Runtime.Key, err = ParsePublicKey(raw); err != nil {
		return nil, fmt.Errorf("field `tee-pubkey`: %w", err)
	}
	evidence, err := object(parsed, "tee-evidence")
	if err != nil {
		return nil, err
	}
	if attestation.Evidence, ok = evidence["primary_evidence"]; !ok {
		return nil, errors.New("missing field `primary_evidence`")
	}
	attestation.Runtime.AdditionalEvidence, err = text(evidence, "additional_evidence")
	return &attestation, err
}

func parseInitData(parsed map[string]json.RawMessage) (*InitData, error) {
	raw, ok := parsed["init-data"]
	if !ok || string(raw) == "null" {
		return nil, nil
	}
	fields, err := object(parsed, "init-data")
	if err != nil {
		return nil, err
	}
	var initData InitData
	err = texts(fields, map[string]*string{"format": &initData.Format, "body": &initData.Body})
	return &initData, err
}

// PublicKey is a TEE's, to which resources are encrypted. Which fields it has depends on Type.
type PublicKey struct {
	Type       string // kty: EC or RSA
	Algorithm  string // alg
	Curve      string // crv
	X, Y, N, E string // base64url without padding
}

// ParsePublicKey reads a tee-pubkey. Unknown fields are dropped; the values are not judged.
func ParsePublicKey(raw []byte) (PublicKey, error) {
	var key PublicKey
	parsed, err := fields(raw)
	if err != nil {
		return key, err
	}
	if key.Type, err = text(parsed, "kty"); err != nil {
		return key, err
	}
	wanted := key.parts()
	if wanted == nil {
		return key, fmt.Errorf("kty %.32q: this simulator of Trustee knows EC and RSA", key.Type)
	}
	return key, texts(parsed, wanted)
}

// parts are the fields that the key's type has, beside kty.
func (k *PublicKey) parts() map[string]*string {
	switch k.Type {
	case "EC":
		return map[string]*string{"crv": &k.Curve, "alg": &k.Algorithm, "x": &k.X, "y": &k.Y}
	case "RSA":
		return map[string]*string{"alg": &k.Algorithm, "n": &k.N, "e": &k.E}
	}
	return nil
}

// Claims are the key as JSON has it.
func (k *PublicKey) Claims() map[string]any {
	claims := map[string]any{"kty": k.Type}
	for name, value := range k.parts() {
		claims[name] = *value
	}
	return claims
}

// Claims are the runtime data as they are hashed, and as a token has them.
func (r *Runtime) Claims() map[string]any {
	return map[string]any{"nonce": r.Nonce, "tee-pubkey": r.Key.Claims(), "additional-evidence": r.AdditionalEvidence}
}

// ReportData is what evidence has to carry: SHA-384 of the runtime data's canonical JSON (RFC 8785).
func (r *Runtime) ReportData() ([]byte, error) {
	raw, err := json.Marshal(r.Claims())
	if err != nil {
		return nil, fmt.Errorf("runtime data: %w", err)
	}
	return canonicalHash(raw)
}

func canonicalHash(document []byte) ([]byte, error) {
	canonical, err := jcs.Transform(document)
	if err != nil {
		return nil, fmt.Errorf("runtime data: canonical form: %w", err)
	}
	sum := sha512.Sum384(canonical)
	return sum[:], nil
}

// AttestationPolicy replaces a policy of the attestation service.
type AttestationPolicy struct {
	ID, Rego string
}

// ParseAttestationPolicy reads the body of /attestation-policy.
func ParseAttestationPolicy(body []byte) (*AttestationPolicy, error) {
	parsed, err := fields(body)
	if err != nil {
		return nil, err
	}
	var encoded string
	var policy AttestationPolicy
	if err := texts(parsed, map[string]*string{"policy_id": &policy.ID, "policy": &encoded}); err != nil {
		return nil, err
	}
	if policy.ID == "" {
		return nil, errors.New("field `policy_id`: empty")
	}
	policy.Rego, err = DecodePolicy(encoded)
	return &policy, err
}

// ErrNotJSON says that the body of /resource-policy is no JSON object.
var ErrNotJSON = errors.New("Illegal SetPolicy Request Json") //nolint:staticcheck // Trustee's text

// ParseResourcePolicy reads the body of /resource-policy. Its errors are Trustee's.
func ParseResourcePolicy(body []byte) (rego string, err error) {
	parsed, err := fields(body)
	if err != nil {
		return "", ErrNotJSON
	}
	if _, ok := parsed["policy"]; !ok {
		return "", errors.New("No `policy` field inside SetPolicy Request Json") //nolint:staticcheck // Trustee's text
	}
	encoded, err := text(parsed, "policy")
	if err != nil {
		return "", errors.New("`policy` field is not a string in SetPolicy Request Json")
	}
	return DecodePolicy(encoded)
}

// DecodePolicy reads a policy as requests carry it: URL-safe base64 without padding.
func DecodePolicy(encoded string) (string, error) {
	rego, err := decodeBase64(base64.RawURLEncoding, encoded)
	if err != nil {
		return "", fmt.Errorf("Failed to decode policy: %w", err) //nolint:staticcheck // Trustee's text
	}
	if !utf8.Valid(rego) {
		return "", errors.New("Failed to decode policy: not UTF-8") //nolint:staticcheck // Trustee's text
	}
	return string(rego), nil
}

// decodeBase64 is strict about the last digit's unused bits and about newlines, which Go's decoder skips.
func decodeBase64(encoding *base64.Encoding, encoded string) ([]byte, error) {
	for i := range len(encoded) {
		if encoded[i] == '\r' || encoded[i] == '\n' {
			return nil, fmt.Errorf("illegal base64: newline at byte %d", i)
		}
	}
	return encoding.Strict().DecodeString(encoded)
}
