package kbs

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// resourceSegment is what Trustee takes as repository, type or tag (kbs/src/plugins/implementations/resource).
var resourceSegment = regexp.MustCompile(`^[a-zA-Z0-9_\-]+[a-zA-Z0-9_\-.]*$`)

// resourcePath gives REPOSITORY/TYPE/TAG from that, or from a kbs:// URI without host.
func resourcePath(path string) (string, error) {
	trimmed := strings.TrimPrefix(strings.TrimPrefix(path, "kbs://"), "/")
	segments := strings.Split(trimmed, "/")
	if len(segments) != 3 {
		return "", fmt.Errorf("resource %q: want REPOSITORY/TYPE/TAG", path)
	}
	for _, segment := range segments {
		if !resourceSegment.MatchString(segment) {
			return "", fmt.Errorf("resource %q: %q: want letters, digits, _, - and, but for the first, dots", path, segment)
		}
	}
	return "resource/" + trimmed, nil
}

// GetResource fetches the resource REPOSITORY/TYPE/TAG with a token and decrypts it with the key that the token
// certifies. [Classify] says what an error means. An empty token sends none.
func (c *Client) GetResource(ctx context.Context, path string, token Token, key TEEKey) ([]byte, error) {
	return c.getResource(ctx, path, call{bearer: string(token)}, key)
}

func (c *Client) getResource(ctx context.Context, path string, with call, key TEEKey) ([]byte, error) {
	full, err := resourcePath(path)
	if err != nil {
		return nil, err
	}
	with.method, with.path = http.MethodGet, full
	answer, err := c.do(ctx, with)
	if err != nil {
		return nil, fmt.Errorf("get resource %s: %w", path, err)
	}
	plaintext, err := key.Decrypt(answer.body)
	if err != nil {
		return nil, fmt.Errorf("get resource %s: %w", path, err)
	}
	return plaintext, nil
}
