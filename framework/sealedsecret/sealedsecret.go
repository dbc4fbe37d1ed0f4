// Package sealedsecret authors sealed secrets of Confidential Containers: what stands in a pod's environment or in a
// Kubernetes Secret in a secret's place, and only the guest's confidential-data-hub turns into the secret itself
// (guest-components confidential-data-hub/hub/src/secret).
//
// It is linked into small guest programs too, and must not know KBSs or pods.
package sealedsecret

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Prefix begins every sealed secret.
const Prefix = "sealed."

// Version is the only one of the format.
const Version = "0.1.0"

// Secret is what is sealed: where the secret is, not the secret.
type Secret struct {
	Version string `json:"version"`
	// Type is vault: Name is fetched from Provider. (Another type, envelope, carries the secret encrypted by a KMS.)
	Type     string `json:"type"`
	Name     string `json:"name"`     // kbs:///repository/type/tag
	Provider string `json:"provider"` // kbs
	// ProviderSettings and Annotations are the provider's; kbs has none.
	ProviderSettings map[string]any `json:"provider_settings"`
	Annotations      map[string]any `json:"annotations"`
}

// Vault is a secret that the guest fetches from its KBS. uri is kbs:///repository/type/tag.
func Vault(uri string) Secret {
	return Secret{Version: Version, Type: "vault", Name: uri, Provider: "kbs", ProviderSettings: map[string]any{}, Annotations: map[string]any{}}
}

// Seal signs a secret with a P-256 key. Guests find the public half ([PublicKey]) under kid: the URI of a KBS resource, or
// the name of a credential that the guest has.
func Seal(secret Secret, key *ecdsa.PrivateKey, kid string) (string, error) {
	if key.Curve != elliptic.P256() {
		return "", fmt.Errorf("seal: key of curve %s, want P-256", key.Curve.Params().Name)
	}
	if kid == "" {
		return "", errors.New("seal: kid is empty: name the KBS resource that has the public key, kbs:///repository/type/tag")
	}
	payload, err := json.Marshal(secret)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	compact, err := signed.CompactSerialize()
	return Prefix + compact, err
}

// PublicKey is the public half of a key as guests want it: a JWK in JSON.
func PublicKey(key *ecdsa.PrivateKey) ([]byte, error) {
	return json.Marshal(jose.JSONWebKey{Key: &key.PublicKey, Algorithm: "ES256"})
}

// Errors of Open; match them with errors.Is.
var (
	// ErrFormat: it is not a sealed secret.
	ErrFormat = errors.New("not a sealed secret")
	// ErrKey: the verification key is none for ES256.
	ErrKey = errors.New("verification key is not a P-256 public key")
	// ErrSignature: the key did not sign this.
	ErrSignature = errors.New("sealed secret is not signed by the verification key")
)

// Open verifies a sealed secret with the key that fetch gives for its kid, a JWK in JSON. Without fetch nothing is
// verified.
func Open(sealed string, fetch func(kid string) ([]byte, error)) (*Secret, error) {
	compact, ok := strings.CutPrefix(sealed, Prefix)
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, Prefix)
	}
	payload, err := payloadOf(compact, fetch)
	if err != nil {
		return nil, err
	}
	var secret Secret
	if err := json.Unmarshal(payload, &secret); err != nil {
		return nil, fmt.Errorf("%w: its payload is no JSON object", ErrFormat)
	}
	if secret.Version != Version {
		return nil, fmt.Errorf("%w: version %.32q, want %s", ErrFormat, secret.Version, Version)
	}
	return &secret, nil
}

func payloadOf(compact string, fetch func(kid string) ([]byte, error)) ([]byte, error) {
	if fetch == nil {
		parts := strings.Split(compact, ".")
		if len(parts) != 3 {
			return nil, fmt.Errorf("%w: %d parts after the prefix, want header, payload and signature", ErrFormat, len(parts))
		}
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return nil, fmt.Errorf("%w: its payload is not base64url without padding", ErrFormat)
		}
		return payload, nil
	}
	signed, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, fmt.Errorf("%w: want a compact JWS with ES256", ErrFormat)
	}
	kid := signed.Signatures[0].Protected.KeyID
	if kid == "" {
		return nil, fmt.Errorf("%w: its header has no kid", ErrFormat)
	}
	raw, err := fetch(kid)
	if err != nil {
		return nil, fmt.Errorf("verification key: %w", err)
	}
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(raw, &jwk); err != nil {
		return nil, fmt.Errorf("%w: no JWK", ErrKey)
	}
	if private, ok := jwk.Key.(*ecdsa.PrivateKey); ok { // tests of guest-components have whole keys there
		jwk.Key = &private.PublicKey
	}
	key, ok := jwk.Key.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return nil, ErrSignature
	}
	return payload, nil
}
