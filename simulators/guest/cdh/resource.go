package cdh

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
)

const (
	resourceAttempts = 3
	httpTimeout      = 60 * time.Second
	maxResponse      = 16 << 20 // of a KBS, bytes
)

// ErrUnauthorized says that the KBS refused each time. Why, only its log and this one's warnings say.
var ErrUnauthorized = errors.New("request unauthorized")

// NotFoundError says that the KBS knows no such path.
type NotFoundError struct{ Information string }

func (e *NotFoundError) Error() string {
	return "KBS resource not found: KBS resource Not Found (Error 404): " + e.Information
}

// Resources fetches resources of one KBS. It keeps its token until the KBS refuses it, as confidential-data-hub does.
// It is safe for concurrent use; fetches take turns.
type Resources struct {
	config KBCConfig
	agent  *channel.Client
	log    *slog.Logger

	turn   chan struct{} // one place: a lock that waiting for heeds a context
	client *http.Client
	token  *token // nil before the first
}

// NewResources makes a client of config's KBS with tokens from agent.
func NewResources(config KBCConfig, agent *channel.Client, log *slog.Logger) *Resources {
	return &Resources{config: config, agent: agent, log: log, turn: make(chan struct{}, 1)}
}

// Get fetches a resource. A refusal leads to a new token and another attempt, three attempts in all; then the error is
// [ErrUnauthorized].
func (r *Resources) Get(ctx context.Context, uri *ResourceURI) ([]byte, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	base, err := r.config.base()
	if err != nil {
		return nil, err
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	for attempt := 1; attempt <= resourceAttempts; attempt++ {
		status, body, err := r.fetch(ctx, base+"/"+uri.Path())
		if err != nil {
			return nil, err
		}
		switch status {
		case http.StatusOK:
			return r.token.decrypt(body)
		case http.StatusUnauthorized:
			r.log.Warn("KBS refused", "resource", uri.Path(), "attempt", attempt, "information", information(body))
			// Confidential-data-hub fetches a token after the last refusal, too.
			if err := r.renew(ctx); err != nil {
				return nil, err
			}
		case http.StatusNotFound:
			return nil, &NotFoundError{information(body)}
		default:
			return nil, fmt.Errorf("KBS internal error: KBS Server Internal Failed, Response: status %d: %s", status, information(body))
		}
	}
	return nil, ErrUnauthorized
}

// prepare makes what the first fetch needs.
func (r *Resources) prepare(ctx context.Context) error {
	if r.client == nil {
		roots, err := r.config.roots()
		if err != nil {
			return err
		}
		r.client = &http.Client{Timeout: httpTimeout, Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		}}
	}
	if r.token == nil {
		return r.renew(ctx)
	}
	return nil
}

func (r *Resources) renew(ctx context.Context) error {
	token, err := fetchToken(ctx, r.agent)
	if err != nil {
		return err
	}
	r.token = token
	return nil
}

func (r *Resources) fetch(ctx context.Context, address string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, nil, fmt.Errorf("http request failed: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+r.token.jwt)
	response, err := r.client.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("http request failed: get failed: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	if err != nil {
		return 0, nil, fmt.Errorf("http request failed: read response: %w", err)
	}
	if len(body) > maxResponse {
		return 0, nil, fmt.Errorf("http request failed: response exceeds %d bytes", maxResponse)
	}
	return response.StatusCode, body, nil
}

// information gives the type and the detail of a KBS's refusal, for a log.
func information(body []byte) string {
	var refusal struct {
		Type   string `json:"type"`
		Detail string `json:"detail"`
	}
	if err := json.Unmarshal(body, &refusal); err != nil || refusal.Type == "" {
		return fmt.Sprintf("%d bytes without error information", len(body))
	}
	return fmt.Sprintf("{type: %.256q, detail: %.512q}", refusal.Type, refusal.Detail)
}
