// Package redact takes credentials out of texts that are kept for people: tokens,
// private keys, headers and cookies that authenticate.
//
// The run's own secrets it leaves alone: they must be nowhere, and package leak
// fails the run that finds one. It must not know where texts come from.
package redact

import "regexp"

// rules are what is taken out, and what stands there instead. The replacement
// must not match again: a text that was redacted stays as it is.
var rules = []struct {
	what *regexp.Regexp
	with string
}{
	// Private keys in PEM (RFC 7468), also within JSON or Go strings; a key that is cut short is one too.
	{regexp.MustCompile(`-----BEGIN ((?:[A-Z0-9]+ )*)PRIVATE KEY-----(?s:.*?)(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----|\z)`), "[private key]"},
	// JSON Web Tokens and JWEs (RFC 7519, RFC 7516): a header that is a JSON object, perhaps with blanks, and two to four more parts.
	{regexp.MustCompile(`e(?:yJ|yAi|wog|wok|w0K)[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){2,4}`), "[token]"},
	// Private members of JSON Web Keys (RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1), also in JSON within JSON.
	{regexp.MustCompile(`(\\*"(?:d|p|q|dp|dq|qi|r|t|k)\\*"\s*:\s*\\*")[A-Za-z0-9_-]{16,}`), "${1}[key]"},
	// Authorization headers (RFC 9110), as lines, in maps and in JSON; bearer tokens wherever they are (RFC 6750).
	{regexp.MustCompile(`(?i)(authorization\\*"?\s*[:=]\s*\[?\s*\\*"?)(?:bearer|basic)\s+[^\s"',\]\[\\]+`), "${1}[credentials]"},
	{regexp.MustCompile(`(?i)(\bbearer\s+)[A-Za-z0-9._~+/-]{16,}=*`), "${1}[credentials]"},
	// Cookies (RFC 6265): all that a client sends, and what a server sets.
	{regexp.MustCompile(`(?i)((?:^|[^-a-z])cookie\\*"?\s*[:=]\s*\[?\s*\\*"?[^=\s"\[]+=)[^\r\n"'\[\]\\]+`), "${1}[cookie]"},
	{regexp.MustCompile(`(?i)(set-cookie\\*"?\s*[:=]\s*\[?\s*\\*"?[^=\s"\[]+=)[^;\s"'\[\]\\]+`), "${1}[cookie]"},
	{regexp.MustCompile(`(kbs-session-id=)[^;\s"'\[\]\\]+`), "${1}[cookie]"},
}

// Text returns s without credentials.
func Text(s string) string {
	for _, r := range rules {
		s = r.what.ReplaceAllString(s, r.with)
	}
	return s
}

// Bytes is Text for bytes, which need not be UTF-8.
func Bytes(b []byte) []byte {
	for _, r := range rules {
		b = r.what.ReplaceAll(b, []byte(r.with))
	}
	return b
}
