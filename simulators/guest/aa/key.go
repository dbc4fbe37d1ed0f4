package aa

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
)

// KeyAlgorithm names a kind of TEE key as aa.toml does.
type KeyAlgorithm string

// Kinds of TEE keys. ML-KEM, experimental in attestation-agent, is not among them.
const (
	ECP256  KeyAlgorithm = "ECDH-ES+A256KW-P256"
	ECP521  KeyAlgorithm = "ECDH-ES+A256KW-P521"
	RSAOAEP KeyAlgorithm = "RSA-OAEP-256"
)

func (a KeyAlgorithm) check() error {
	switch a {
	case ECP256, ECP521, RSAOAEP:
		return nil
	}
	return fmt.Errorf("%q: want %q, %q or %q", string(a), ECP256, ECP521, RSAOAEP)
}

const rsaBits = 2048

// teeKey is the key pair whose public half a token certifies; the KBS encrypts resources to it.
type teeKey struct{ private crypto.Signer }

func newTEEKey(algorithm KeyAlgorithm) (teeKey, error) {
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
		err = algorithm.check()
	}
	if err != nil {
		return teeKey{}, fmt.Errorf("TEE key: %w", err)
	}
	return teeKey{private}, nil
}

// pem is the key pair as GetToken gives it: PKCS #8 for EC, PKCS #1 for RSA, as attestation-agent.
func (k teeKey) pem() (string, error) {
	if private, ok := k.private.(*rsa.PrivateKey); ok {
		return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return "", fmt.Errorf("TEE key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// public is the tee-pubkey of the KBS protocol.
func (k teeKey) public() (map[string]string, error) {
	switch public := k.private.Public().(type) {
	case *rsa.PublicKey:
		return map[string]string{
			"kty": "RSA", "alg": "RSA-OAEP-256",
			"n": base64url(public.N.Bytes()), "e": base64url(big.NewInt(int64(public.E)).Bytes()),
		}, nil
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4 ‖ x ‖ y, coordinates padded to the field's size as the protocol wants them
		if err != nil {
			return nil, fmt.Errorf("TEE key: %w", err)
		}
		size := (len(point) - 1) / 2
		return map[string]string{
			"kty": "EC", "crv": public.Curve.Params().Name, "alg": "ECDH-ES+A256KW",
			"x": base64url(point[1 : 1+size]), "y": base64url(point[1+size:]),
		}, nil
	default:
		return nil, fmt.Errorf("TEE key: unexpected %T", public)
	}
}

func base64url(value []byte) string { return base64.RawURLEncoding.EncodeToString(value) }
