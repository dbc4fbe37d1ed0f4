package cdh

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/containerd/ttrpc"
	"github.com/go-jose/go-jose/v4"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// token is an attestation token with the key that it certifies.
type token struct {
	jwt string
	key crypto.PrivateKey
}

// fetchToken asks the attestation-agent for a new token.
func fetchToken(ctx context.Context, agent *channel.Client) (*token, error) {
	var raw []byte
	err := agent.Call(ctx, func(client *ttrpc.Client) error {
		response, err := guestpb.NewAttestationAgentServiceClient(client).GetToken(ctx, &guestpb.GetTokenRequest{TokenType: "kbs"})
		if err != nil {
			return err
		}
		raw = response.GetToken()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get token failed: %w", err)
	}
	return parseToken(raw)
}

// parseToken reads what GetToken gives. Its errors never have the bytes, which are a private key.
func parseToken(raw []byte) (*token, error) {
	var answer struct {
		Token   string `json:"token"`
		KeyPair string `json:"tee_keypair"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, errors.New("token of the attestation-agent: not JSON with token and tee_keypair")
	}
	if answer.Token == "" {
		return nil, errors.New("token of the attestation-agent: missing field token")
	}
	key, err := parseKey(answer.KeyPair)
	if err != nil {
		return nil, fmt.Errorf("token of the attestation-agent: field tee_keypair: %w", err)
	}
	return &token{answer.Token, key}, nil
}

func parseKey(text string) (crypto.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("not PEM")
	}
	switch block.Type {
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return nil, fmt.Errorf("PEM block %.32q is no private key", block.Type)
}

// decrypt opens a KBS's response: a JWE in flattened JSON, encrypted to the token's key.
func (t *token) decrypt(response []byte) ([]byte, error) {
	encrypted, err := jose.ParseEncryptedJSON(string(response),
		[]jose.KeyAlgorithm{jose.ECDH_ES_A256KW, jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, fmt.Errorf("deserialize http response failed: %w", err)
	}
	plaintext, err := encrypted.Decrypt(t.key)
	if err != nil {
		return nil, fmt.Errorf("decrypt KBS response body failed: %w", err)
	}
	return plaintext, nil
}
