package report

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Types of what is signed: an in-toto Statement (in-toto attestation framework,
// spec/v1/statement.md) about the bytes of a report, in a DSSE envelope.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://conformance.coco-e2e.dev/report/v1"
	PayloadType   = "application/vnd.in-toto+json"
)

// Statement is an in-toto Statement about one report.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is the report.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Predicate is what the report says in short.
type Predicate struct {
	Claim        Claim             `json:"claim"`
	ResultDigest string            `json:"resultDigest"`
	Catalogue    string            `json:"catalogue"`
	Commit       string            `json:"commit"`
	Verdicts     map[string]string `json:"verdicts"`
}

func statement(name string, report []byte) (*Statement, error) {
	r, err := Parse(report)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(report)
	p := Predicate{Claim: r.Claim, ResultDigest: r.ResultDigest, Catalogue: r.Suite.Catalogue, Commit: r.Suite.Commit, Verdicts: map[string]string{}}
	for _, profile := range r.Profiles {
		p.Verdicts[string(profile.Name)] = profile.Verdict(r.Claim)
	}
	return &Statement{StatementType, []Subject{{name, map[string]string{"sha256": hex.EncodeToString(sum[:])}}}, PredicateType, p}, nil
}

// Sign makes the DSSE envelope over a statement about a valid report. key is an
// Ed25519 or ECDSA P-256 key, PKCS #8 or SEC 1, in PEM.
func Sign(ctx context.Context, name string, report, key []byte) ([]byte, error) {
	s, err := statement(name, report)
	if err != nil {
		return nil, err
	}
	private, err := parsePrivate(key)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	signer, err := dsse.NewEnvelopeSigner(&signing{private: private, public: private.Public()})
	if err != nil {
		return nil, err
	}
	e, err := signer.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(e, "", "  ")
}

// Verify checks that an envelope is signed with the key of public (PKIX in PEM),
// that it is about these bytes of a report, and that they are a valid report. It
// returns the statement.
func Verify(ctx context.Context, envelope, report, public []byte) (*Statement, error) {
	key, err := parsePublic(public)
	if err != nil {
		return nil, err
	}
	var e dsse.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	if e.PayloadType != PayloadType {
		return nil, fmt.Errorf("envelope: payloadType is %q, want %q", e.PayloadType, PayloadType)
	}
	verifier, err := dsse.NewEnvelopeVerifier(&signing{public: key})
	if err != nil {
		return nil, err
	}
	if _, err := verifier.Verify(ctx, &e); err != nil {
		return nil, fmt.Errorf("envelope: no signature in it is of this key, or it was changed after it was signed: %w", err)
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		return nil, fmt.Errorf("envelope: payload: %w", err)
	}
	var got Statement
	if err := json.Unmarshal(payload, &got); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	want, err := statement("", report)
	if err != nil {
		return nil, err
	}
	switch {
	case got.Type != StatementType:
		return nil, fmt.Errorf("statement: _type is %q, want %q", got.Type, StatementType)
	case got.PredicateType != PredicateType:
		return nil, fmt.Errorf("statement: predicateType is %q, want %q", got.PredicateType, PredicateType)
	case len(got.Subject) != 1 || got.Subject[0].Digest["sha256"] != want.Subject[0].Digest["sha256"]:
		return nil, fmt.Errorf("statement: it is about another file: this one's sha256 is %s", want.Subject[0].Digest["sha256"])
	case got.Predicate.ResultDigest != want.Predicate.ResultDigest || got.Predicate.Claim != want.Predicate.Claim:
		return nil, errors.New("statement: its predicate is not what the report says")
	}
	return &got, nil
}

func parsePrivate(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("key: not PEM")
	}
	var key any
	var err error
	if block.Type == "EC PRIVATE KEY" {
		key, err = x509.ParseECPrivateKey(block.Bytes)
	} else {
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		if block.Type == "PUBLIC KEY" {
			return nil, errors.New("key: this is a public key; a private one signs")
		}
		return nil, fmt.Errorf("key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key: %T cannot sign", key)
	}
	return signer, accepted(signer.Public())
}

func parsePublic(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("key: not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return nil, errors.New("key: this is a private key; the public one verifies: openssl pkey -in KEY -pubout")
		}
		return nil, fmt.Errorf("key: %w", err)
	}
	return key, accepted(key)
}

// accepted says whether a key is of a kind that signs reports.
func accepted(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return errors.New("key: want Ed25519 or ECDSA on P-256")
}

// signing is a key as DSSE's library wants it.
type signing struct {
	private crypto.Signer
	public  crypto.PublicKey
}

var _ dsse.SignerVerifier = (*signing)(nil)

// Sign signs with Ed25519, or with ECDSA over SHA-256, ASN.1.
func (s *signing) Sign(_ context.Context, data []byte) ([]byte, error) {
	if _, ok := s.public.(ed25519.PublicKey); ok {
		return s.private.Sign(rand.Reader, data, crypto.Hash(0))
	}
	sum := sha256.Sum256(data)
	return s.private.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// Verify is Sign's counterpart.
func (s *signing) Verify(_ context.Context, data, signature []byte) error {
	ok := false
	switch key := s.public.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, data, signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(data)
		ok = ecdsa.VerifyASN1(key, sum[:], signature)
	}
	if !ok {
		return errors.New("the signature is not this key's")
	}
	return nil
}

// KeyID is the SHA-256 of the key, as in SPKI, in hex digits.
func (s *signing) KeyID() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(s.public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Public is the public key.
func (s *signing) Public() crypto.PublicKey { return s.public }
