package kbs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/go-jose/go-jose/v4"
)

// KeyAlgorithm names a kind of TEE key as aa.toml's tee_key_algorithm does.
type KeyAlgorithm string

// Kinds of TEE keys. Trustee's experimental ML-KEM is not among them.
const (
	ECP256  KeyAlgorithm = "ECDH-ES+A256KW-P256"
	ECP521  KeyAlgorithm = "ECDH-ES+A256KW-P521"
	RSAOAEP KeyAlgorithm = "RSA-OAEP-256"
)

const rsaBits = 2048

// TEEKey is a key pair whose public half a token certifies and a KBS encrypts resources to. It prints as a fingerprint
// of the public half.
type TEEKey struct{ private crypto.Signer }

// GenerateTEEKey makes a new key pair.
func GenerateTEEKey(algorithm KeyAlgorithm) (TEEKey, error) {
	var (
		private crypto.Signer
		err     error
	)
	switch algorithm {
	case ECP256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECP521:
		private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case RSAOAEP:
		private, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		err = fmt.Errorf("algorithm %q: want %q, %q or %q", string(algorithm), ECP256, ECP521, RSAOAEP)
	}
	if err != nil {
		return TEEKey{}, fmt.Errorf("TEE key: %w", err)
	}
	return TEEKey{private}, nil
}

// ParseTEEKey reads a private key in PEM: PKCS #8, PKCS #1 (RSA) or SEC 1 (EC), on P-256 or P-521 when EC.
func ParseTEEKey(text []byte) (TEEKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return TEEKey{}, errors.New("TEE key: not PEM")
	}
	var (
		key any
		err error
	)
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		err = fmt.Errorf("PEM block %.32q is no private key", block.Type)
	}
	if err != nil {
		return TEEKey{}, fmt.Errorf("TEE key: %w", err)
	}
	switch private := key.(type) {
	case *rsa.PrivateKey:
		return TEEKey{private}, nil
	case *ecdsa.PrivateKey:
		if private.Curve == elliptic.P256() || private.Curve == elliptic.P521() {
			return TEEKey{private}, nil
		}
		return TEEKey{}, fmt.Errorf("TEE key: curve %s: want P-256 or P-521", private.Curve.Params().Name)
	}
	return TEEKey{}, fmt.Errorf("TEE key: %T: want an RSA or EC key", key)
}

// PublicJWK is the protocol's tee-pubkey.
func (k TEEKey) PublicJWK() (map[string]string, error) {
	if k.private == nil {
		return nil, errors.New("TEE key: none; use GenerateTEEKey or ParseTEEKey")
	}
	switch public := k.private.Public().(type) {
	case *rsa.PublicKey:
		exponent := big.NewInt(int64(public.E)).Bytes()
		return map[string]string{"kty": "RSA", "alg": "RSA-OAEP-256", "n": base64url(public.N.Bytes()), "e": base64url(exponent)}, nil
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4 ‖ x ‖ y, each of the field's size as the protocol demands
		if err != nil {
			return nil, fmt.Errorf("TEE key: %w", err)
		}
		size := (len(point) - 1) / 2
		return map[string]string{
			"kty": "EC", "crv": public.Params().Name, "alg": "ECDH-ES+A256KW",
			"x": base64url(point[1 : 1+size]), "y": base64url(point[1+size:]),
		}, nil
	default:
		return nil, fmt.Errorf("TEE key: unexpected %T", public)
	}
}

// ErrDecrypt: a resource is not encrypted to this key, or was changed on the way.
var ErrDecrypt = errors.New("decrypt resource: not encrypted to this key, or changed on the way")

// Decrypt opens a KBS's response: a JWE in flattened JSON, with ECDH-ES+A256KW or RSA-OAEP-256, and A256GCM.
// One that is encrypted to another key is [ErrDecrypt].
func (k TEEKey) Decrypt(response []byte) ([]byte, error) {
	if k.private == nil {
		return nil, errors.New("TEE key: none; use the key that came with the token")
	}
	encrypted, err := jose.ParseEncryptedJSON(string(response),
		[]jose.KeyAlgorithm{jose.ECDH_ES_A256KW, jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, fmt.Errorf("decrypt resource: %d bytes that are no JWE as KBS makes them: %w", len(response), err)
	}
	plaintext, err := encrypted.Decrypt(k.private)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDecrypt, err)
	}
	return plaintext, nil
}

// String is a fingerprint of the public half.
func (k TEEKey) String() string {
	if k.private == nil {
		return "kbs.TEEKey(none)"
	}
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		return "kbs.TEEKey(unprintable)"
	}
	sum := sha256.Sum256(der)
	return fmt.Sprintf("kbs.TEEKey(sha256 of public key %x)", sum[:8])
}

// Format is String under every verb.
func (k TEEKey) Format(out fmt.State, _ rune) { _, _ = io.WriteString(out, k.String()) }

// GomegaString is String; Gomega prints values with it.
func (k TEEKey) GomegaString() string { return k.String() }

func base64url(value []byte) string { return base64.RawURLEncoding.EncodeToString(value) }
