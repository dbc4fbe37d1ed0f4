package kbs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxEvidence bounds an answer of a guest, in bytes.
const maxEvidence = 16 << 20

// Guest is the TEE of a guest whose api-server-rest can be reached, as through kubectl port-forward POD 8006.
type Guest struct {
	url, kind string
	http      *http.Client
}

var _ Attester = (*Guest)(nil)

// NewGuest makes the TEE of the guest at address, such as http://127.0.0.1:8006. An empty kind is asked of the guest. A nil
// client is http.DefaultClient.
func NewGuest(ctx context.Context, address, kind string, client *http.Client) (*Guest, error) {
	if client == nil {
		client = http.DefaultClient
	}
	g := &Guest{url: strings.TrimRight(address, "/"), kind: kind, http: client}
	if kind != "" {
		return g, nil
	}
	text, err := g.get(ctx, "/info")
	if err != nil {
		return nil, err
	}
	var info struct {
		TEE string `json:"tee"`
	}
	if err := json.Unmarshal(text, &info); err != nil || info.TEE == "" {
		return nil, fmt.Errorf("guest %s: it does not say its kind of TEE", address)
	}
	g.kind = info.TEE
	return g, nil
}

// TEE implements [Attester].
func (g *Guest) TEE() string { return g.kind }

// Evidence implements [Attester].
func (g *Guest) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	return g.get(ctx, "/aa/evidence?encoding=base64&runtime_data="+url.QueryEscape(base64.RawURLEncoding.EncodeToString(reportData)))
}

func (g *Guest) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url+path, nil)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", g.url, err)
	}
	response, err := g.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("guest: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxEvidence))
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", g.url, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("guest %s: %s: %.200s", g.url, response.Status, text)
	}
	return text, nil
}
