package redact

import (
	"strings"
	"testing"
)

// The token and the keys are examples of RFC 7515 (A.1), RFC 7517 (A.2) and RFC 8410 (10.3).
const (
	jwt = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----"
	d   = "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"token " + jwt + " was sent":                                             "token [token] was sent",
		`{"token":"` + jwt + `"}`:                                                `{"token":"[token]"}`,
		"key:\n" + pem + "\nafter":                                               "key:\n[private key]\nafter",
		strings.ReplaceAll(pem, "\n", `\n`):                                      "[private key]",
		strings.Replace(pem, "PRIVATE", "EC PRIVATE", 1):                         "[private key]",
		"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIE":                      "[private key]",
		`{"kty":"EC","crv":"P-256","d":"` + d + `","use":"enc"}`:                 `{"kty":"EC","crv":"P-256","d":"[key]","use":"enc"}`,
		`{\"k\":\"` + d + `\"}`:                                                  `{\"k\":\"[key]\"}`,
		"Authorization: Bearer abc.def-ghi":                                      "Authorization: [credentials]",
		"authorization=Basic dXNlcjpwYXNz":                                       "authorization=[credentials]",
		`Authorization:["Bearer abc"]`:                                           `Authorization:["[credentials]"]`,
		"Set-Cookie: kbs-session-id=0123456789; Path=/":                          "Set-Cookie: kbs-session-id=[cookie]; Path=/",
		`{"Authorization":"Bearer abcdef"}`:                                      `{"Authorization":"[credentials]"}`,
		`{"Authorization": ["Basic dXNlcjpwYXNz"]}`:                              `{"Authorization": ["[credentials]"]}`,
		`{\"authorization\":\"Bearer abcdef\"}`:                                  `{\"authorization\":\"[credentials]\"}`,
		"sent Bearer mF_9.B5f-4.1JqM0123456":                                     "sent Bearer [credentials]",
		"the bearer token is missing":                                            "the bearer token is missing",
		"eyAiYWxnIjoiRVMyNTYifQ.e30.c2ln":                                        "[token]",
		`{"oth":[{"r":"` + d + `","t":"` + d + `"}]}`:                            `{"oth":[{"r":"[key]","t":"[key]"}]}`,
		`\\\"d\\\":\\\"` + d + `\\\"`:                                            `\\\"d\\\":\\\"[key]\\\"`,
		"Cookie: a=first; kbs-session-id=second\nnext":                           "Cookie: a=[cookie]\nnext",
		`{"Cookie":["kbs-session-id=0123"]}`:                                     `{"Cookie":["kbs-session-id=[cookie]"]}`,
		"session kbs-session-id=0123 ended":                                      "session kbs-session-id=[cookie] ended",
		"exec whoami: root\n":                                                    "exec whoami: root\n",
		`ExecProcessRequest is blocked by policy: `:                              `ExecProcessRequest is blocked by policy: `,
		"pcr08 765156eda5fe806552610f2b6e828509a8b898ad014c76ad8600261eb7c5e63f": "pcr08 765156eda5fe806552610f2b6e828509a8b898ad014c76ad8600261eb7c5e63f",
		"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----":           "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		if got := string(Bytes([]byte(in))); got != want {
			t.Errorf("bytes of %q: %q", in, got)
		}
	}
}

// Nothing of a credential is left wherever it stands, and redacting again
// changes nothing.
func FuzzText(f *testing.F) {
	f.Add("before ", " after")
	f.Add(`{"a":"`, `"}`)
	f.Add("\\n", "\xff\x00")
	f.Add("-----BEGIN X", "-----END PRIVATE KEY-----")
	f.Fuzz(func(t *testing.T, before, after string) {
		for _, secret := range []string{" " + jwt + " ", pem, "Authorization: Bearer " + d + " ", `"Authorization":"Bearer ` + d + `"`, "kbs-session-id=" + d + " "} {
			text := before + secret + after
			got := Text(text)
			if strings.Contains(secret, jwt) && strings.Contains(got, jwt) || strings.Contains(secret, "MC4CAQ") && strings.Contains(got, "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp") || strings.Contains(secret, d) && !strings.Contains(before+after, d) && strings.Contains(got, d) {
				t.Fatalf("left: %q", got)
			}
			if again := Text(got); again != got {
				t.Fatalf("again: %q, before %q", again, got)
			}
		}
	})
}
