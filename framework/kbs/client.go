// Package kbs is a client of Trustee's key broker service, protocol 0.4.0: the attestation handshake (RCAR: request,
// challenge, attestation, response), resources, attestation tokens, administration.
//
// It is for specs, which ask what a KBS releases and what it refuses, and why; [Classify] tells a refusal from a failure
// that proves nothing. It must not know whether the KBS is a simulator, nor judge what a token claims.
//
// Tokens and TEE keys print as fingerprints, so that neither reaches a log.
package kbs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	apiPath         = "/kbs/v0"
	defaultTimeout  = 60 * time.Second // as kbs-client
	maxResponseSize = 16 << 20         // bytes
)

// Options say which KBS to ask, and as whom.
type Options struct {
	// URL of the KBS, such as https://kbs.coco-tenant:8080; http or https, a path before /kbs/v0 is kept.
	URL string
	// CA is the PEM of the only authorities to trust for https. Empty trusts the system's.
	CA []byte
	// HTTPClient is used as it is, but for redirects, which are never followed. Nil makes one with CA and a timeout of
	// a minute. Not both.
	HTTPClient *http.Client
	// AdminToken is sent with administration calls; see [MintAdminToken]. Empty sends none.
	AdminToken string
	// TEEKey is the kind of key that [Client.Handshake] makes. Empty is ECP256.
	TEEKey KeyAlgorithm
}

// Client asks one KBS. It keeps no state between calls and is safe for concurrent use.
type Client struct {
	base       string
	http       *http.Client
	adminToken string
	keyKind    KeyAlgorithm
}

// New makes a client. It does not contact the KBS.
func New(options Options) (*Client, error) {
	base, err := parseURL(options.URL)
	if err != nil {
		return nil, err
	}
	client := options.HTTPClient
	switch {
	case client != nil && len(options.CA) > 0:
		return nil, errors.New("KBS options: CA and HTTPClient are both set; put the CA into the HTTPClient's transport")
	case client == nil:
		if client, err = newHTTPClient(options.CA); err != nil {
			return nil, err
		}
	}
	own := *client
	// A KBS does not redirect; following would take tokens elsewhere.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	kind := options.TEEKey
	if kind == "" {
		kind = ECP256
	}
	return &Client{base: base, http: &own, adminToken: options.AdminToken, keyKind: kind}, nil
}

func parseURL(text string) (string, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("KBS options: URL %q: %w", text, err)
	}
	if (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" || parsed.RawQuery != "" || parsed.Fragment != "" {
		return "", fmt.Errorf("KBS options: URL %q: want http://HOST[:PORT] or https://HOST[:PORT]", text)
	}
	return strings.TrimSuffix(strings.TrimRight(text, "/"), apiPath) + apiPath, nil
}

func newHTTPClient(ca []byte) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("KBS options: CA has no certificate in PEM")
		}
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
	}
	return &http.Client{Transport: transport, Timeout: defaultTimeout}, nil
}

// call is one request to the KBS.
type call struct {
	method, path string // path below /kbs/v0, escaped
	body         []byte
	contentType  string
	bearer       string
	cookie       *http.Cookie
}

// answer is the KBS's, with status 200.
type answer struct {
	body    []byte
	cookies []*http.Cookie
}

// do makes the request. An answer with another status than 200 is an [*Error] or a [*ResponseError].
func (c *Client) do(ctx context.Context, call call) (*answer, error) {
	request, err := http.NewRequestWithContext(ctx, call.method, c.base+"/"+call.path, bytes.NewReader(call.body))
	if err != nil {
		return nil, err
	}
	if call.contentType != "" {
		request.Header.Set("Content-Type", call.contentType)
	}
	if call.bearer != "" {
		request.Header.Set("Authorization", "Bearer "+call.bearer)
	}
	if call.cookie != nil {
		request.AddCookie(&http.Cookie{Name: call.cookie.Name, Value: call.cookie.Value})
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reach KBS: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponseSize+1))
	if err != nil {
		return nil, fmt.Errorf("read KBS's answer: %w", err)
	}
	if len(body) > maxResponseSize {
		return nil, &ResponseError{response.StatusCode, fmt.Sprintf("more than %d bytes", maxResponseSize)}
	}
	if response.StatusCode != http.StatusOK {
		return nil, parseFailure(response.StatusCode, body)
	}
	return &answer{body: body, cookies: response.Cookies()}, nil
}
