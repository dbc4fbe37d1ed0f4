package policy

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
)

// Outcome of an evaluation.
type Outcome int

// What an evaluation can end with.
const (
	Allowed Outcome = iota
	// Denied: the rule was false. The status is PERMISSION_DENIED.
	Denied
	// Error: the rule is undefined, of another type, in conflict, or its
	// operations on the state failed. The status is INTERNAL.
	Error
)

func (o Outcome) String() string { return [...]string{"allowed", "denied", "error"}[o] }

// Decision is what the policy says of a request.
type Decision struct {
	Outcome Outcome
	// Code is the ttrpc status that the agent answers (Kata
	// src/agent/src/policy.rs): OK, PERMISSION_DENIED or INTERNAL.
	Code codes.Code
	// Message is the status message that the agent answers, with the quotes
	// that are part of it; "" when allowed.
	Message string
	// Overruled says that AllowRequestsFailingPolicy turned a rejection into
	// an Allowed.
	Overruled bool
}

// denied makes the message as the agent prints it: the Debug form of a Rust
// string, quotes and all.
func denied(endpoint string, prints []string) Decision {
	text := fmt.Sprintf("%s is blocked by policy: %s", endpoint, strings.Join(prints, " "))
	return Decision{Outcome: Denied, Code: codes.PermissionDenied, Message: DebugString(text)}
}

// failed is the decision where there is none; the switch that allows what a
// policy rejects does not help against an error.
func failed(endpoint string, err error) Decision {
	return Decision{Outcome: Error, Code: codes.Internal, Message: DebugString(fmt.Sprintf("%s: internal error %v", endpoint, err))}
}

// DebugString is Rust's Debug form of a string for text that can be printed.
func DebugString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == 0:
			b.WriteString(`\0`)
		case !strconv.IsPrint(r), unicode.In(r, unicode.Mn, unicode.Me, unicode.Other_Grapheme_Extend): // also what joins the sign before it
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
