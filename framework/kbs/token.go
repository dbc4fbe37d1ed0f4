package kbs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Token is an attestation token, a JWT. It prints as a fingerprint; string(token) is the token.
type Token string

// String is a fingerprint.
func (t Token) String() string {
	sum := sha256.Sum256([]byte(t))
	return fmt.Sprintf("kbs.Token(%d bytes, sha256 %x)", len(t), sum[:8])
}

// Format is String under every verb.
func (t Token) Format(out fmt.State, _ rune) { _, _ = io.WriteString(out, t.String()) }

// GomegaString is String; Gomega prints values with it.
func (t Token) GomegaString() string { return t.String() }

// LogValue is String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// ParseTokenResponse reads what the guest's REST server gives for /aa/token?token_type=kbs: a JSON object with token and
// tee_keypair, a private key in PEM. Its errors never have what it read.
func ParseTokenResponse(raw []byte) (Token, TEEKey, error) {
	var response struct {
		Token   string `json:"token"`
		KeyPair string `json:"tee_keypair"`
	}
	if err := json.Unmarshal(raw, &response); err != nil {
		return "", TEEKey{}, fmt.Errorf("token response: %d bytes that are not JSON with token and tee_keypair", len(raw))
	}
	if response.Token == "" {
		return "", TEEKey{}, errors.New("token response: missing field token")
	}
	key, err := ParseTEEKey([]byte(response.KeyPair))
	if err != nil {
		return "", TEEKey{}, fmt.Errorf("token response: field tee_keypair: %w", err)
	}
	return Token(response.Token), key, nil
}

// VerifyOptions say which tokens to take.
type VerifyOptions struct {
	// TrustedKeys are the attestation service's. Nil takes the key in the token's own header, which proves that the
	// token was not damaged but not who made it; empty and not nil takes none.
	TrustedKeys []crypto.PublicKey
	// Now is the time to judge expiry by. Zero is the present.
	Now time.Time
}

// Errors of [ParseToken]; match them with errors.Is.
var (
	ErrTokenFormat    = errors.New("token is not an attestation token")
	ErrTokenSignature = errors.New("token's signature is wrong")
	ErrTokenUntrusted = errors.New("token's key is not trusted")
	ErrTokenExpired   = errors.New("token has expired")
)

// ParseToken verifies an EAR attestation token, a compact JWS with ES256 and its key in the header, and gives its claims.
func ParseToken(token Token, options VerifyOptions) (*Claims, error) {
	signed, err := jose.ParseSignedCompact(string(token), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, fmt.Errorf("%w: want a compact JWS with ES256", ErrTokenFormat)
	}
	key, err := signingKey(signed.Signatures[0].Protected.JSONWebKey, options.TrustedKeys)
	if err != nil {
		return nil, err
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return nil, ErrTokenSignature
	}
	claims, err := parseClaims(payload)
	if err != nil {
		return nil, err
	}
	now := options.Now
	if now.IsZero() {
		now = time.Now()
	}
	if !now.Before(claims.ExpiresAt) {
		return nil, fmt.Errorf("%w: at %v", ErrTokenExpired, claims.ExpiresAt)
	}
	return claims, nil
}

func signingKey(header *jose.JSONWebKey, trusted []crypto.PublicKey) (*ecdsa.PublicKey, error) {
	if header == nil {
		return nil, fmt.Errorf("%w: no jwk in its header", ErrTokenFormat)
	}
	key, ok := header.Key.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the jwk in its header is no P-256 key", ErrTokenFormat)
	}
	if trusted != nil && !slices.ContainsFunc(trusted, func(other crypto.PublicKey) bool { return key.Equal(other) }) {
		return nil, ErrTokenUntrusted
	}
	return key, nil
}

// Claims are what an attestation token says (EAR, draft-ietf-rats-ear).
type Claims struct {
	Issuer, Profile     string
	IssuedAt, ExpiresAt time.Time
	// Submods are the appraisals by name: cpu0, gpu0 …
	Submods map[string]*Appraisal
	// Raw has all claims; numbers are json.Number.
	Raw map[string]any
}

// Appraisal is the verdict of an attestation service on one part of a machine.
type Appraisal struct {
	// Status is none, affirming, warning or contraindicated.
	Status string `json:"ear.status"`
	// TrustVector has the trustworthiness claims that the policy set, such as executables.
	TrustVector map[string]int `json:"ear.trustworthiness-vector"`
	// PolicyID is the policy's, without its suffix: default.
	PolicyID string `json:"ear.appraisal-policy-id"`
	// Evidence is the annotated evidence: the TEE's claims under the TEE's name, init_data, report_data and others.
	Evidence map[string]any `json:"ear.veraison.annotated-evidence"`
}

func parseClaims(payload []byte) (*Claims, error) {
	var known struct {
		Issuer  string                `json:"iss"`
		Profile string                `json:"eat_profile"`
		Issued  *int64                `json:"iat"`
		Expires *int64                `json:"exp"`
		Submods map[string]*Appraisal `json:"submods"`
	}
	claims := &Claims{}
	for _, into := range []any{&known, &claims.Raw} {
		decoder := json.NewDecoder(bytes.NewReader(payload))
		decoder.UseNumber()
		if err := decoder.Decode(into); err != nil {
			return nil, fmt.Errorf("%w: claims: %w", ErrTokenFormat, err)
		}
	}
	if known.Issued == nil || known.Expires == nil || len(known.Submods) == 0 {
		return nil, fmt.Errorf("%w: claims iat, exp or submods are missing", ErrTokenFormat)
	}
	for name, appraisal := range known.Submods {
		if appraisal == nil {
			return nil, fmt.Errorf("%w: submods.%s is null", ErrTokenFormat, name)
		}
	}
	if *known.Expires < 0 || *known.Expires > 1<<40 {
		return nil, fmt.Errorf("%w: claim exp is no time", ErrTokenFormat)
	}
	claims.Issuer, claims.Profile, claims.Submods = known.Issuer, known.Profile, known.Submods
	claims.IssuedAt, claims.ExpiresAt = time.Unix(*known.Issued, 0), time.Unix(*known.Expires, 0)
	return claims, nil
}

// CPU is the appraisal of the machine itself, submodule cpu0; nil when the token has none.
func (c *Claims) CPU() *Appraisal { return c.Submods["cpu0"] }

// TEE gives the claims of one TEE, such as tpm or az-snp-vtpm; nil when the evidence was not of that TEE.
func (a *Appraisal) TEE(name string) map[string]any {
	claims, _ := a.Evidence[name].(map[string]any)
	return claims
}

// InitData is the claim init_data, or "". What it is depends on the TEE: PCR 8 after measurement for TPMs, HOST_DATA for
// SEV-SNP, MRCONFIGID for TDX, in hex each.
func (a *Appraisal) InitData() string { return a.text("init_data") }

// ReportData is the claim report_data in hex, or "".
func (a *Appraisal) ReportData() string { return a.text("report_data") }

// InitDataClaims are the files of the init-data that the KBS was sent and verified; nil when it was sent none.
func (a *Appraisal) InitDataClaims() map[string]any { return a.TEE("init_data_claims") }

func (a *Appraisal) text(name string) string {
	text, _ := a.Evidence[name].(string)
	return text
}
