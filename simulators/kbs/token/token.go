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
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Leeway is how far clocks may differ when times in tokens are judged: the default of the library that Trustee uses.
const Leeway = time.Minute

// Signer signs with one key.
type Signer struct {
	private *ecdsa.PrivateKey
	header  string // encoded
}

// NewSigner makes a signer with a new key, which nothing vouches for.
func NewSigner() (*Signer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	return newSigner(private, nil, "")
}

// LoadSigner makes a signer with the P-256 key in the PEM file keyPath. The certificates in certPath, the key's first, go
// into tokens' headers as x5c, and certURL as x5u; both may be empty.
func LoadSigner(keyPath, certPath, certURL string) (*Signer, error) {
	text, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, err
	}
	private, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	var chain []*x509.Certificate
	if certPath != "" {
		if chain, err = ReadCertificates(certPath); err != nil {
			return nil, err
		}
		if public, ok := chain[0].PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(&private.PublicKey) {
			return nil, fmt.Errorf("%s: the first certificate is not that of the key in %s", certPath, keyPath)
		}
	}
	return newSigner(private, chain, certURL)
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	private, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		var ok bool
		if private, ok = parsed.(*ecdsa.PrivateKey); !ok {
			return nil, fmt.Errorf("a %T, want a P-256 key: tokens are signed with ES256", parsed)
		}
	}
	if private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("curve %s, want P-256: tokens are signed with ES256", private.Curve.Params().Name)
	}
	return private, nil
}

// ReadCertificates reads the certificates of a PEM file, at least one.
func ReadCertificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, certificate)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no certificate in PEM form", path)
	}
	return list, nil
}

func newSigner(private *ecdsa.PrivateKey, chain []*x509.Certificate, certURL string) (*Signer, error) {
	point, err := private.PublicKey.Bytes() // 4 ‖ x ‖ y
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	key := map[string]any{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": encode(point[1:33]), "y": encode(point[33:])}
	if certURL != "" {
		key["x5u"] = certURL
	}
	var x5c []string
	for _, certificate := range chain {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(certificate.Raw))
	}
	if x5c != nil {
		key["x5c"] = x5c
	}
	header, err := json.Marshal(map[string]any{"typ": "JWT", "alg": "ES256", "jwk": key})
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

// Verifier says which keys tokens may be signed with (Trustee kbs/src/token, attestation_token of its configuration).
type Verifier struct {
	// InsecureHeaderJWK takes any key that a token brings in its header.
	InsecureHeaderJWK bool
	// Roots are the authorities that may certify a key in a header. Without any, only JWKs counts.
	Roots []*x509.Certificate
	// JWKs are the keys that tokens name by their kid.
	JWKs []jose.JSONWebKey
}

// key finds the key of a token's header. The texts are Trustee's where it has one.
func (v *Verifier) key(header jose.Header, now time.Time) (any, error) {
	if jwk := header.JSONWebKey; jwk != nil {
		switch {
		case v.InsecureHeaderJWK:
			return jwk.Key, nil
		case len(v.Roots) == 0:
			return nil, errors.New("Cannot verify token since trusted cert is empty") //nolint:staticcheck // Trustee's text
		case len(jwk.Certificates) == 0:
			return nil, errors.New("No x5c extension inside JWK. Invalid public key.") //nolint:staticcheck // Trustee's text
		}
		return jwk.Key, v.endorsed(jwk, now)
	}
	if len(v.JWKs) == 0 {
		return nil, errors.New("Cannot verify token since trusted JWK Set is empty") //nolint:staticcheck // Trustee's text
	}
	for _, known := range v.JWKs {
		if header.KeyID != "" && known.KeyID == header.KeyID {
			return known.Key, nil
		}
	}
	return nil, fmt.Errorf("Failed to find Jwk with kid %.64s in JwkSet", header.KeyID) //nolint:staticcheck // Trustee's text
}

func (v *Verifier) endorsed(jwk *jose.JSONWebKey, now time.Time) error {
	leaf := jwk.Certificates[0]
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !public.Equal(jwk.Key) {
		return errors.New("jwk does not match x5c")
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, root := range v.Roots {
		options.Roots.AddCert(root)
	}
	for _, between := range jwk.Certificates[1:] {
		options.Intermediates.AddCert(between)
	}
	if _, err := leaf.Verify(options); err != nil {
		return errors.New("JWK cannot be validated by trust anchor")
	}
	return nil
}

// Verify checks a token's key, signature and times, and gives its claims; numbers are json.Number. Errors have no part
// of the token but its kid.
func (v *Verifier) Verify(token string, now time.Time) (map[string]any, error) {
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, errors.New("not a compact JWS with ES256")
	}
	key, err := v.key(parsed.Signatures[0].Protected, now)
	if err != nil {
		return nil, err
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("the token's key is no P-256 key")
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
