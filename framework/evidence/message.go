package evidence

import (
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gowebpki/jcs"
)

// Message is evidence as it travels: alone, as a guest's /aa/evidence gives it, or in a KBS attest message.
type Message struct {
	Evidence json.RawMessage
	// ReportData is what an attest message's guest must have bound: the SHA-384 of its runtime data in canonical JSON, with
	// its own nonce. Only who chose that nonce knows whether it is fresh. Nil for evidence alone.
	ReportData []byte
	// InitData is the init-data document that an attest message presents, nil if none.
	InitData []byte
}

// ParseMessage reads either form. Errors are ErrFormat.
func ParseMessage(raw []byte) (*Message, error) {
	document, err := parseDocument(raw, 2*maxBigEvidence)
	if err != nil {
		return nil, err
	}
	if _, ok := document.fields["tee-evidence"]; !ok {
		return &Message{Evidence: raw}, nil
	}
	evidence, err := document.object("tee-evidence")
	if err != nil {
		return nil, err
	}
	var message Message
	if err := evidence.field("primary_evidence", &message.Evidence, "JSON"); err != nil {
		return nil, err
	}
	additional, err := evidence.string("additional_evidence")
	if err != nil {
		return nil, err
	}
	if message.ReportData, err = runtimeDigest(document, additional); err != nil {
		return nil, err
	}
	if document.absent("init-data") {
		return &message, nil
	}
	presented, err := document.object("init-data")
	if err != nil {
		return nil, err
	}
	if format, err := presented.string("format"); err != nil || format != "toml" {
		return nil, &FormatError{"init-data.format", "not toml"}
	}
	body, err := presented.string("body")
	message.InitData = []byte(body)
	return &message, err
}

// keyFields are the fields of a tee-pubkey beside kty, by its kty (kbs-types TeePubKey).
var keyFields = map[string][]string{"EC": {"crv", "alg", "x", "y"}, "RSA": {"alg", "n", "e"}, "AKP": {"alg", "pub"}}

// publicKey is the key as Trustee has read it when it hashes it: without fields that it does not know.
func publicKey(runtime *object) (map[string]string, error) {
	given, err := runtime.object("tee-pubkey")
	if err != nil {
		return nil, err
	}
	kind, err := given.string("kty")
	if err != nil {
		return nil, err
	}
	names, known := keyFields[kind]
	if !known {
		return nil, &FormatError{given.prefix + "kty", fmt.Sprintf("%q, want EC, RSA or AKP", kind)}
	}
	key := map[string]string{"kty": kind}
	for _, name := range names {
		if key[name], err = given.string(name); err != nil {
			return nil, err
		}
	}
	return key, nil
}

// runtimeDigest is Trustee's parse_runtime_data (attestation-service/src/lib.rs) of the primary device's runtime data.
func runtimeDigest(document *object, additional string) ([]byte, error) {
	runtime, err := document.object("runtime-data")
	if err != nil {
		return nil, err
	}
	nonce, err := runtime.string("nonce")
	if err != nil {
		return nil, err
	}
	key, err := publicKey(runtime)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(map[string]any{"additional-evidence": additional, "nonce": nonce, "tee-pubkey": key})
	if err != nil {
		return nil, &FormatError{"runtime-data", err.Error()}
	}
	canonical, err := jcs.Transform(data)
	if err != nil {
		return nil, &FormatError{"runtime-data", err.Error()}
	}
	digest := sha512.Sum384(canonical)
	return digest[:], nil
}

// Detect tells evidence's kind by the fields that only that kind has. Errors are ErrFormat.
func Detect(raw []byte) (string, error) {
	document, err := parseDocument(raw, maxBigEvidence)
	if err != nil {
		return "", err
	}
	has := func(names ...string) bool {
		for _, name := range names {
			if document.absent(name) {
				return false
			}
		}
		return true
	}
	switch {
	case has("attestation_report"):
		return KindSNP, nil
	case has("tpm_quote", "ak_public"):
		return KindTPM, nil
	case has("tpm_quote", "td_quote"):
		return KindAzTDXVTPM, nil
	case has("tpm_quote", "vcek"), has("quote", "report", "vcek"):
		return KindAzSNPVTPM, nil
	case has("quote"):
		return KindTDX, nil
	case has("svn", "report_data"):
		return KindSample, nil
	}
	return "", &FormatError{"evidence", fmt.Sprintf("its fields are those of none of %q", Kinds)}
}

// links names the links in an order in which the more telling of two nested errors comes first.
var links = []struct {
	err  error
	name string
}{
	{ErrUnsupportedKind, "kind"},
	{ErrUntrustedKey, "trusted key"},
	{ErrAKBinding, "AK in HCL report"},
	{ErrSignature, "quote signature"},
	{ErrPCRSelection, "PCR selection"},
	{ErrPCRDigest, "PCR digest"},
	{ErrNonce, "nonce"},
	{ErrHCLBinding, "HCL report in hardware report"},
	{ErrUserData, "user-data in HCL report"},
	{ErrChain, "certificate chain"},
	{ErrQEReport, "quoting enclave"},
	{ErrReportSignature, "hardware report signature"},
	{ErrTCB, "TCB"},
	{ErrVMPL, "VMPL"},
	{ErrDebug, "debug policy"},
	{ErrReportData, "report data"},
	{ErrInitData, "init-data"},
	{ErrEventLog, "event log"},
	{ErrAlgorithm, "algorithm"},
	{ErrFormat, "format"},
}

// Link names the link that [Verify]'s error says is broken, in words for people and reports; empty for other errors.
func Link(err error) string {
	for _, link := range links {
		if errors.Is(err, link.err) {
			var tcb *TCBError
			if errors.As(err, &tcb) {
				return link.name + " " + tcb.Field
			}
			return link.name
		}
	}
	return ""
}
