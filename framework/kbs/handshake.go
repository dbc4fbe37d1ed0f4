package kbs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strings"

	"github.com/gowebpki/jcs"
)

// ProtocolVersion is the only version of the KBS protocol that Trustee accepts and this client speaks.
const ProtocolVersion = "0.4.0"

const (
	sessionCookie = "kbs-session-id"
	contentJSON   = "application/json"
	// noDevices is the evidence of additional devices when there are none. It is hashed all the same.
	noDevices = ""
)

// Attester makes the evidence of one TEE.
type Attester interface {
	// TEE is the TEE's name in the KBS protocol, such as tpm.
	TEE() string
	// Evidence is the TEE's evidence with reportData in it, in Trustee's JSON form.
	Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error)
}

// Handshake proves to the KBS what attester's TEE runs and gives the token, with the new key pair that the token
// certifies. initData is the document to send, nil for none.
func (c *Client) Handshake(ctx context.Context, attester Attester, initData *string) (Token, TEEKey, error) {
	key, err := GenerateTEEKey(c.keyKind)
	if err != nil {
		return "", TEEKey{}, err
	}
	token, err := c.NewSession(key).Attest(ctx, attester, initData)
	if err != nil {
		return "", TEEKey{}, err
	}
	return token, key, nil
}

// Session is one session with a KBS, held by a cookie. It is not safe for concurrent use.
type Session struct {
	client  *Client
	key     TEEKey
	cookie  *http.Cookie
	nonce   string
	forgery Forgery
}

// NewSession makes a session whose resources are to be encrypted to key. It does not contact the KBS.
func (c *Client) NewSession(key TEEKey) *Session { return &Session{client: c, key: key} }

// Forgery is what a session sends otherwise than an honest client would, so that specs can see it refused.
type Forgery struct {
	// Version takes the place of [ProtocolVersion].
	Version string
	// Nonce takes the place of the challenge's, in the attestation and in what evidence is asked for.
	Nonce string
	// NoCookie leaves the session's cookie out of the attestation.
	NoCookie bool
}

// Forge sets what the session's next handshake sends otherwise. Zero fields change nothing.
func (s *Session) Forge(f Forgery) { s.forgery = f }

// Key is the key that the session's resources are encrypted to.
func (s *Session) Key() TEEKey { return s.key }

// Nonce is that of the session's last challenge, or "".
func (s *Session) Nonce() string { return s.nonce }

// Attest performs the handshake. A KBS's refusal is an [*Error] of type AttestationError.
func (s *Session) Attest(ctx context.Context, attester Attester, initData *string) (Token, error) {
	challenge, err := s.challenge(ctx, attester.TEE())
	if err != nil {
		return "", fmt.Errorf("KBS handshake: auth: %w", err)
	}
	s.nonce = challenge.Nonce
	if s.forgery.Nonce != "" {
		challenge.Nonce = s.forgery.Nonce
	}
	if s.forgery.NoCookie {
		s.cookie = nil
	}
	message, err := s.attestation(ctx, attester, challenge, initData)
	if err != nil {
		return "", fmt.Errorf("KBS handshake: %w", err)
	}
	var response struct {
		Token string `json:"token"`
	}
	if err := s.post(ctx, "attest", message, &response); err != nil {
		return "", fmt.Errorf("KBS handshake: attest: %w", err)
	}
	if response.Token == "" {
		return "", fmt.Errorf("KBS handshake: attest: %w", &ResponseError{http.StatusOK, "missing field token"})
	}
	return Token(response.Token), nil
}

// challenge is the KBS's (kbs-types Challenge).
type challenge struct {
	Nonce       string          `json:"nonce"`
	ExtraParams json.RawMessage `json:"extra-params"`
}

func (s *Session) challenge(ctx context.Context, tee string) (*challenge, error) {
	request := map[string]any{
		"version": cmp.Or(s.forgery.Version, ProtocolVersion), "tee": tee,
		"extra-params": map[string]any{"supported-hash-algorithms": []string{"sha256", "sha384", "sha512"}},
	}
	var challenge challenge
	if err := s.post(ctx, "auth", request, &challenge); err != nil {
		return nil, err
	}
	if challenge.Nonce == "" {
		return nil, &ResponseError{http.StatusOK, "missing field nonce"}
	}
	return &challenge, nil
}

// hash is what runtime data is hashed with: SHA-384, unless the KBS selects another algorithm.
func (c *challenge) hash() (hash.Hash, error) {
	var selected struct {
		Algorithm string `json:"selected-hash-algorithm"`
	}
	if len(c.ExtraParams) > 0 && c.ExtraParams[0] == '{' {
		if err := json.Unmarshal(c.ExtraParams, &selected); err != nil {
			return nil, fmt.Errorf("challenge: field extra-params: %w", err)
		}
	}
	switch strings.ToLower(selected.Algorithm) {
	case "", "sha384":
		return sha512.New384(), nil
	case "sha256":
		return sha256.New(), nil
	case "sha512":
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("challenge: selected-hash-algorithm %q: not supported", selected.Algorithm)
}

func (s *Session) attestation(ctx context.Context, attester Attester, challenge *challenge, initData *string) (any, error) {
	sum, err := challenge.hash()
	if err != nil {
		return nil, err
	}
	public, err := s.key.PublicJWK()
	if err != nil {
		return nil, err
	}
	canonical, err := canonicalRuntimeData(challenge.Nonce, public)
	if err != nil {
		return nil, err
	}
	sum.Write(canonical)
	evidence, err := attester.Evidence(ctx, sum.Sum(nil))
	if err != nil {
		return nil, fmt.Errorf("evidence of %s: %w", attester.TEE(), err)
	}
	message := map[string]any{
		"init-data":    nil,
		"runtime-data": map[string]any{"nonce": challenge.Nonce, "tee-pubkey": public},
		"tee-evidence": map[string]any{"primary_evidence": evidence, "additional_evidence": noDevices},
	}
	if initData != nil {
		message["init-data"] = map[string]string{"format": "toml", "body": *initData}
	}
	return message, nil
}

// canonicalRuntimeData is the canonical JSON (RFC 8785) whose hash is the primary evidence's report data.
func canonicalRuntimeData(nonce string, public map[string]string) ([]byte, error) {
	raw, err := json.Marshal(map[string]any{"additional-evidence": noDevices, "nonce": nonce, "tee-pubkey": public})
	if err != nil {
		return nil, fmt.Errorf("runtime data: %w", err)
	}
	canonical, err := jcs.Transform(raw)
	if err != nil {
		return nil, fmt.Errorf("runtime data: canonical form: %w", err)
	}
	return canonical, nil
}

// post sends a message of the handshake and remembers the session that the KBS names.
func (s *Session) post(ctx context.Context, path string, message, into any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	answer, err := s.client.do(ctx, call{method: http.MethodPost, path: path, body: body, contentType: contentJSON, cookie: s.cookie})
	if err != nil {
		return err
	}
	for _, cookie := range answer.cookies {
		if cookie.Name == sessionCookie {
			s.cookie = cookie
		}
	}
	if err := json.Unmarshal(answer.body, into); err != nil {
		return &ResponseError{http.StatusOK, fmt.Sprintf("%d bytes that are not JSON as expected", len(answer.body))}
	}
	return nil
}

// GetResource fetches a resource with the session's cookie; see [Client.GetResource].
func (s *Session) GetResource(ctx context.Context, path string) ([]byte, error) {
	if s.cookie == nil {
		return nil, errors.New("KBS session: not attested; call Attest first")
	}
	return s.client.getResource(ctx, path, call{cookie: s.cookie}, s.key)
}
