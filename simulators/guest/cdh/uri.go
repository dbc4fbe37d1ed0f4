package cdh

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// ResourceURI names a secret of a KBS (guest-components attestation-agent/deps/resource_uri).
type ResourceURI struct {
	// Plugin of the KBS that answers, "resource" unless the URI's scheme is kbs+PLUGIN.
	Plugin string
	// Repository, Type and Tag are the path. They have the characters that a KBS allows.
	Repository, Type, Tag string
	// Query goes to the KBS as it is, without the question mark; empty for none.
	Query string
}

// maxURI bounds a resource URI, in bytes.
const maxURI = 4096

var (
	// segment is what a KBS allows in a path (trustee kbs/src/plugins/implementations/resource/backend.rs).
	segment = regexp.MustCompile(`^[a-zA-Z0-9_\-]+[a-zA-Z0-9_\-.]*$`)
	plugin  = regexp.MustCompile(`^[a-z0-9\-]+$`)
)

// ResourceURIError says that a resource URI cannot be understood.
type ResourceURIError struct{ URI, Problem string }

func (e *ResourceURIError) Error() string {
	return fmt.Sprintf("invalid kbs resource uri %.128q: %s; want kbs:///repository/type/tag", e.URI, e.Problem)
}

// ParseResourceURI reads kbs://[host]/repository/type/tag[?query] or kbs+PLUGIN://…. The host is not used: the KBS is that
// of cdh.toml, so that a URI cannot lead to another. The error is a [*ResourceURIError].
func ParseResourceURI(text string) (*ResourceURI, error) {
	bad := func(problem string) (*ResourceURI, error) { return nil, &ResourceURIError{text, problem} }
	if len(text) > maxURI {
		return bad(fmt.Sprintf("%d bytes, limit %d", len(text), maxURI))
	}
	parsed, err := url.Parse(text)
	if err != nil {
		return bad("not a URI")
	}
	uri := &ResourceURI{Plugin: "resource", Query: parsed.RawQuery}
	if name, ok := strings.CutPrefix(parsed.Scheme, "kbs+"); ok {
		if !plugin.MatchString(name) {
			return bad("scheme kbs+ requires a plugin name")
		}
		uri.Plugin = name
	} else if parsed.Scheme != "kbs" {
		return bad("scheme must be kbs or kbs+<plugin>")
	}
	if parsed.Opaque != "" || parsed.User != nil || parsed.Fragment != "" {
		return bad("user, fragment and opaque forms have no meaning")
	}
	segments := strings.Split(parsed.EscapedPath(), "/")
	if len(segments) != 4 || segments[0] != "" {
		return bad("the path must have three segments")
	}
	for _, name := range segments[1:] {
		if !segment.MatchString(name) {
			return bad(fmt.Sprintf("segment %.64q: letters, digits, '_', '-' and, but for the first, '.'", name))
		}
	}
	uri.Repository, uri.Type, uri.Tag = segments[1], segments[2], segments[3]
	if strings.ContainsFunc(uri.Query, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return bad("query has characters that must be percent-encoded")
	}
	return uri, nil
}

// Path is where a KBS has the resource, below /kbs/v0.
func (u *ResourceURI) Path() string {
	path := strings.Join([]string{u.Plugin, u.Repository, u.Type, u.Tag}, "/")
	if u.Query != "" {
		path += "?" + u.Query
	}
	return path
}
