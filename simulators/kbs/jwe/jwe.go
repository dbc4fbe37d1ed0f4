// Package jwe encrypts a resource to a TEE's key as Trustee does (kbs/src/jwe): JSON Web Encryption in flattened JSON,
// A256GCM, with the content key wrapped by ECDH-ES+A256KW or RSA-OAEP-256.
//
// Clients in Rust parse the protected header and write it again before they use it as additional data, so its order and
// compactness matter: alg, enc, epk{crv, kty, x, y}. That is why no library writes it. The package must not know what it
// encrypts or for whom.
package jwe

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"github.com/coco-e2e/coco-e2e/simulators/kbs/message"
)

const (
	algECDH = "ECDH-ES+A256KW"
	algRSA  = "RSA-OAEP-256"
	encGCM  = "A256GCM"

	keySize    = 32 // of content and wrapping keys, bytes
	minRSABits = 2048
	maxRSABits = 8192
)

// header is the protected header; the order of its fields matters.
type header struct {
	Algorithm  string     `json:"alg"`
	Encryption string     `json:"enc"`
	Ephemeral  *ephemeral `json:"epk,omitempty"`
}

type ephemeral struct {
	Curve string `json:"crv"`
	Type  string `json:"kty"`
	X     string `json:"x"`
	Y     string `json:"y"`
}

// response is the JWE (kbs-types Response).
type response struct {
	Protected    string `json:"protected"`
	EncryptedKey string `json:"encrypted_key"`
	IV           string `json:"iv"`
	Ciphertext   string `json:"ciphertext"`
	Tag          string `json:"tag"`
}

// Encrypt encrypts plaintext to key.
func Encrypt(key message.PublicKey, plaintext []byte) ([]byte, error) {
	content := make([]byte, keySize)
	if _, err := rand.Read(content); err != nil {
		return nil, fmt.Errorf("content key: %w", err)
	}
	head := header{Algorithm: key.Algorithm, Encryption: encGCM}
	var wrapped []byte
	var err error
	switch {
	case key.Type == "EC" && key.Algorithm == algECDH:
		wrapped, head.Ephemeral, err = wrapECDH(key, content)
	case key.Type == "RSA" && key.Algorithm == algRSA:
		wrapped, err = wrapRSA(key, content)
	default:
		err = fmt.Errorf("kty %.32q with alg %.32q: this simulator of Trustee knows EC with %s and RSA with %s", key.Type, key.Algorithm, algECDH, algRSA)
	}
	if err != nil {
		return nil, fmt.Errorf("tee-pubkey: %w", err)
	}
	raw, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	return seal(encode(raw), wrapped, content, plaintext)
}

func seal(protected string, wrapped, content, plaintext []byte) ([]byte, error) {
	block, err := aes.NewCipher(content)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(iv); err != nil {
		return nil, fmt.Errorf("iv: %w", err)
	}
	sealed := gcm.Seal(nil, iv, plaintext, []byte(protected))
	tagAt := len(sealed) - gcm.Overhead()
	return json.Marshal(response{
		Protected: protected, EncryptedKey: encode(wrapped), IV: encode(iv),
		Ciphertext: encode(sealed[:tagAt]), Tag: encode(sealed[tagAt:]),
	})
}

// wrapECDH wraps the content key with a key agreed between a fresh key and the TEE's (RFC 7518 section 4.6).
func wrapECDH(key message.PublicKey, content []byte) ([]byte, *ephemeral, error) {
	curve, size, err := curveOf(key.Curve)
	if err != nil {
		return nil, nil, err
	}
	public, err := publicECDH(key, curve, size)
	if err != nil {
		return nil, nil, err
	}
	private, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("ephemeral key: %w", err)
	}
	shared, err := private.ECDH(public)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(concatKDF(shared, algECDH, nil, nil, keySize))
	if err != nil {
		return nil, nil, err
	}
	wrapped, err := josecipher.KeyWrap(block, content)
	if err != nil {
		return nil, nil, fmt.Errorf("wrap content key: %w", err)
	}
	point := private.PublicKey().Bytes() // 4 ‖ x ‖ y
	return wrapped, &ephemeral{Curve: key.Curve, Type: "EC", X: encode(point[1 : 1+size]), Y: encode(point[1+size:])}, nil
}

func curveOf(name string) (curve ecdh.Curve, size int, err error) {
	switch name {
	case "P-256":
		return ecdh.P256(), 32, nil
	case "P-521":
		return ecdh.P521(), 66, nil
	}
	return nil, 0, fmt.Errorf("curve %.32q: want P-256 or P-521", name)
}

func publicECDH(key message.PublicKey, curve ecdh.Curve, size int) (*ecdh.PublicKey, error) {
	x, err := decode(key.X)
	if err != nil {
		return nil, fmt.Errorf("x: %w", err)
	}
	y, err := decode(key.Y)
	if err != nil {
		return nil, fmt.Errorf("y: %w", err)
	}
	if len(x) != size || len(y) != size {
		return nil, fmt.Errorf("x and y have %d and %d bytes, want %d each", len(x), len(y), size)
	}
	return curve.NewPublicKey(append(append([]byte{4}, x...), y...))
}

func wrapRSA(key message.PublicKey, content []byte) ([]byte, error) {
	n, err := decode(key.N)
	if err != nil {
		return nil, fmt.Errorf("n: %w", err)
	}
	e, err := decode(key.E)
	if err != nil {
		return nil, fmt.Errorf("e: %w", err)
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("RSA key of %d bits, want %d to %d", bits, minRSABits, maxRSABits)
	}
	if !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > 1<<31-1 || exponent.Bit(0) == 0 {
		return nil, errors.New("e: want an odd exponent from 3 to 2^31-1")
	}
	public := &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, content, nil)
	if err != nil {
		return nil, fmt.Errorf("wrap content key: %w", err)
	}
	return wrapped, nil
}

func encode(value []byte) string { return base64.RawURLEncoding.EncodeToString(value) }

func decode(value string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(value) }
