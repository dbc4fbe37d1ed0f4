// Package token signs and verifies attestation tokens, JWTs with ES256 that carry their key in the header.
//
// It must not know what they claim, but for exp, and nbf when there.
package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Leeway is how far clocks may differ when times in tokens are judged: the default of the library that Trustee uses.
const Leeway = time.Minute

// Signer signs with a key that it made for itself.
type Signer struct {
	private *ecdsa.PrivateKey
	header  string // encoded
}

// NewSigner makes a signer with a new key.
func NewSigner() (*Signer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	point, err := private.PublicKey.Bytes() // 4 ‖ x ‖ y
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	header, err := json.Marshal(map[string]any{"typ": "JWT", "alg": "ES256", "jwk": map[string]string{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "x": encode(point[1:33]), "y": encode(point[33:]),
	}})
	if err != nil {
		return nil, fmt.Errorf("token header: %w", err)
	}
	return &Signer{private, encode(header)}, nil
}

// Sign makes a token.
func (s *Signer) Sign(claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("token claims: %w", err)
	}
	signed := s.header + "." + encode(payload)
	digest := sha256.Sum256([]byte(signed))
	r, sValue, err := ecdsa.Sign(rand.Reader, s.private, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	sValue.FillBytes(signature[32:])
	return signed + "." + encode(signature), nil
}

// Verify checks a token's signature with the key in its header, and its times, and gives its claims; numbers are
// json.Number. Errors have no part of the token.
func Verify(token string, now time.Time) (map[string]any, error) {
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, errors.New("not a compact JWS with ES256")
	}
	key := parsed.Signatures[0].Protected.JSONWebKey
	if key == nil {
		return nil, errors.New("no jwk in the header")
	}
	public, ok := key.Key.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("the jwk in the header is no P-256 key")
	}
	payload, err := parsed.Verify(public)
	if err != nil {
		return nil, errors.New("wrong signature")
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var claims map[string]any
	if err := decoder.Decode(&claims); err != nil || claims == nil {
		return nil, errors.New("claims are no JSON object")
	}
	return claims, checkTimes(claims, now)
}

func checkTimes(claims map[string]any, now time.Time) error {
	expires, err := timeOf(claims, "exp")
	if err != nil {
		return err
	}
	if expires == nil {
		return errors.New("claim exp is missing")
	}
	if now.After(expires.Add(Leeway)) {
		return fmt.Errorf("expired at %s", expires.UTC().Format(time.RFC3339))
	}
	begins, err := timeOf(claims, "nbf")
	if err != nil {
		return err
	}
	if begins != nil && now.Before(begins.Add(-Leeway)) {
		return fmt.Errorf("not valid before %s", begins.UTC().Format(time.RFC3339))
	}
	return nil
}

func timeOf(claims map[string]any, name string) (*time.Time, error) {
	value, ok := claims[name]
	if !ok {
		return nil, nil
	}
	number, ok := value.(json.Number)
	if !ok {
		return nil, fmt.Errorf("claim %s is no number", name)
	}
	seconds, err := number.Int64()
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return nil, fmt.Errorf("claim %s is no time", name)
	}
	at := time.Unix(seconds, 0)
	return &at, nil
}

func encode(value []byte) string { return base64.RawURLEncoding.EncodeToString(value) }
