package kbs

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// errorTypePrefix begins the type of every error that a KBS reports (Trustee kbs/src/error.rs).
const errorTypePrefix = "https://github.com/confidential-containers/kbs/errors/"

// Types of errors that a KBS reports (Trustee kbs/src/error.rs).
const (
	TypeAdminAuthAccess         = "AdminAuthAccess"         // administrator's call refused: policies, reference values
	TypeAdminAuthInitialization = "AdminAuthInitialization" // administrator's call refused: resources
	TypeAttestationError        = "AttestationError"        // handshake refused, or an attestation policy not taken
	TypeInvalidRequestPath      = "InvalidRequestPath"
	TypeJweError                = "JweError"
	TypeParsePolicyError        = "ParsePolicyError"
	TypePluginInternalError     = "PluginInternalError" // resource missing, its path illegal, or the store broken
	TypePluginNotFound          = "PluginNotFound"
	TypePolicyDeny              = "PolicyDeny"        // the resource policy said no
	TypePolicyEngineError       = "PolicyEngineError" // the resource policy failed to say anything
	TypeRvpsError               = "RvpsError"
	TypeTokenNotFound           = "TokenNotFound"
	TypeTokenVerifierError      = "TokenVerifierError" // token forged, expired, not trusted, or without TEE key
)

// Error is what a KBS says when it does not do what it was asked. Failures to reach a KBS, and answers that are not in
// the KBS's own form, are never an Error.
type Error struct {
	Status int    // HTTP
	Type   string // last element of the body's type, such as PolicyDeny
	Detail string
}

func (e *Error) Error() string {
	return fmt.Sprintf("KBS: %s: %s (status %d)", e.Type, e.Detail, e.Status)
}

// ResponseError is an answer that a KBS would not give: something in between answered, or the KBS broke.
type ResponseError struct {
	Status  int
	Problem string
}

func (e *ResponseError) Error() string {
	return fmt.Sprintf("not a KBS's answer: status %d: %s", e.Status, e.Problem)
}

// parseFailure makes an error of an answer whose status is not 200.
func parseFailure(status int, body []byte) error {
	var information struct {
		Type   *string `json:"type"`
		Detail *string `json:"detail"`
	}
	if err := json.Unmarshal(body, &information); err != nil || information.Type == nil || information.Detail == nil {
		return &ResponseError{status, fmt.Sprintf("no error information in %d bytes: %.200q", len(body), body)}
	}
	name, ok := strings.CutPrefix(*information.Type, errorTypePrefix)
	if !ok || name == "" || strings.Contains(name, "/") {
		return &ResponseError{status, fmt.Sprintf("error of unknown type %.200q", *information.Type)}
	}
	return &Error{Status: status, Type: name, Detail: *information.Detail}
}

// Kind is one of the three ways in which a request to a KBS can end.
type Kind string

// The three ways. The zero Kind is none of them.
const (
	Released     Kind = "released"     // the KBS did what it was asked
	Refused      Kind = "refused"      // the KBS judged, and its verdict was no
	Inconclusive Kind = "inconclusive" // nothing is known about a verdict
)

// Outcome is how a request ended.
type Outcome struct {
	Kind Kind
	// Type of a refusal, such as PolicyDeny; empty otherwise.
	Type string
	// Detail of a refusal or of what went wrong; for people.
	Detail string
}

// verdicts are the types of errors that say that a KBS looked at who asks or what it proved, and refused.
var verdicts = []string{
	TypePolicyDeny, TypeAttestationError, TypeTokenVerifierError, TypeTokenNotFound,
	TypeAdminAuthAccess, TypeAdminAuthInitialization,
}

// handshakeDetail begins the detail of an AttestationError that refuses a handshake; others are about policies.
const handshakeDetail = "Attestation error: RCAR handshake "

// Classify tells a refusal from a failure that proves nothing. A nil error is Released. Refused is an [*Error] with
// status 401 or 403 (Trustee's releases differ for PolicyDeny) whose type is a verdict: PolicyDeny, AttestationError of
// a handshake, TokenVerifierError, TokenNotFound, AdminAuthAccess or AdminAuthInitialization. Everything else is
// Inconclusive: a KBS out of reach, a timeout, an answer of some proxy, status 5xx, and errors of the KBS that are no
// verdict, such as PluginInternalError, which it reports for a missing resource and for a broken store alike.
//
// A KBS reports AttestationError also for evidence that it failed to process. So a spec that expects it needs its
// positive control, the same handshake with one thing changed back.
func Classify(err error) Outcome {
	if err == nil {
		return Outcome{Kind: Released}
	}
	var reported *Error
	if errors.As(err, &reported) && isVerdict(reported) {
		return Outcome{Kind: Refused, Type: reported.Type, Detail: reported.Detail}
	}
	return Outcome{Kind: Inconclusive, Detail: err.Error()}
}

func isVerdict(e *Error) bool {
	if e.Status != http.StatusUnauthorized && e.Status != http.StatusForbidden {
		return false
	}
	if e.Type == TypeAttestationError && !strings.HasPrefix(e.Detail, handshakeDetail) {
		return false
	}
	return slices.Contains(verdicts, e.Type)
}
