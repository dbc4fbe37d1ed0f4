package aa

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"hash"
	"strings"

	"github.com/gowebpki/jcs"
)

// protocolVersion is the KBS protocol's; a KBS takes no other.
const protocolVersion = "0.4.0"

// request is the first message of the handshake (kbs-types Request).
type request struct {
	Version     string      `json:"version"`
	Tee         string      `json:"tee"`
	ExtraParams requestedBy `json:"extra-params"`
}

type requestedBy struct {
	HashAlgorithms []string `json:"supported-hash-algorithms"`
}

func newRequest(tee string) request {
	return request{protocolVersion, tee, requestedBy{[]string{"sha256", "sha384", "sha512", "sm3"}}}
}

// challenge is the KBS's answer (kbs-types Challenge). Its extra parameters may be any JSON value.
type challenge struct {
	Nonce       string          `json:"nonce"`
	ExtraParams json.RawMessage `json:"extra-params"`
}

// hash is what runtime data is hashed with: SHA-384, unless the KBS selects another algorithm.
func (c *challenge) hash() (func() hash.Hash, error) {
	var selected struct {
		Algorithm *string `json:"selected-hash-algorithm"`
	}
	if len(c.ExtraParams) > 0 && c.ExtraParams[0] == '{' {
		if err := json.Unmarshal(c.ExtraParams, &selected); err != nil {
			return nil, fmt.Errorf("challenge: field extra-params: %w", err)
		}
	}
	if selected.Algorithm == nil {
		return sha512.New384, nil
	}
	switch strings.ToLower(*selected.Algorithm) {
	case "sha256":
		return sha256.New, nil
	case "sha384":
		return sha512.New384, nil
	case "sha512":
		return sha512.New, nil
	}
	return nil, fmt.Errorf("challenge: selected-hash-algorithm %q: not supported", *selected.Algorithm)
}

// runtimeData is what evidence is bound to.
type runtimeData struct {
	Nonce     string            `json:"nonce"`
	TEEPubkey map[string]string `json:"tee-pubkey"`
}

// attestation is the third message of the handshake (kbs-types Attestation).
type attestation struct {
	InitData    *initDataMessage `json:"init-data"`
	RuntimeData runtimeData      `json:"runtime-data"`
	TEEEvidence teeEvidence      `json:"tee-evidence"`
}

type initDataMessage struct {
	Format string `json:"format"`
	Body   string `json:"body"`
}

type teeEvidence struct {
	Primary    json.RawMessage `json:"primary_evidence"`
	Additional string          `json:"additional_evidence"`
}

// noDevices is the evidence of additional devices when there are none. It is hashed all the same.
const noDevices = ""

// reportData is the hash of the canonical JSON (RFC 8785) of what primary evidence is bound to.
func (r runtimeData) reportData(newHash func() hash.Hash) ([]byte, error) {
	raw, err := json.Marshal(map[string]any{
		"nonce": r.Nonce, "tee-pubkey": r.TEEPubkey, "additional-evidence": noDevices,
	})
	if err != nil {
		return nil, fmt.Errorf("runtime data: %w", err)
	}
	return canonicalHash(raw, newHash)
}

// canonicalHash hashes a JSON document in its canonical form.
func canonicalHash(document []byte, newHash func() hash.Hash) ([]byte, error) {
	canonical, err := jcs.Transform(document)
	if err != nil {
		return nil, fmt.Errorf("runtime data: canonical form: %w", err)
	}
	sum := newHash()
	sum.Write(canonical)
	return sum.Sum(nil), nil
}

// errorInformation is how a KBS refuses (kbs-types ErrorInformation).
type errorInformation struct {
	Type   string `json:"type"`
	Detail string `json:"detail"`
}

func (e errorInformation) String() string {
	return fmt.Sprintf("{type: %q, detail: %q}", e.Type, e.Detail)
}
