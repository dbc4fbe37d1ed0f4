package aa

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"time"
)

const (
	handshakeAttempts = 5
	handshakeInterval = time.Second
	// handshakeTime bounds all attempts together: a KBS that swallows packets would otherwise hold a caller for ten
	// minutes.
	handshakeTime = 3 * time.Minute
	httpTimeout   = 60 * time.Second
	maxResponse   = 4 << 20 // of a KBS, bytes; tokens have some KiB
)

// handshake is one client's RCAR (request, challenge, attestation, response) with a KBS.
type handshake struct {
	base     string // address with the path /kbs/v0
	attester Attester
	initData []byte // document, nil for none
	key      teeKey
	client   *http.Client
	interval time.Duration // between attempts
	log      *slog.Logger
}

// newHandshake makes a client with a TEE key and a cookie jar of its own, as each GetToken needs.
func newHandshake(config *KBSConfig, attester Attester, initData []byte, log *slog.Logger) (*handshake, error) {
	base, err := config.base()
	if err != nil {
		return nil, err
	}
	roots, err := config.roots()
	if err != nil {
		return nil, err
	}
	key, err := newTEEKey(config.KeyAlgorithm)
	if err != nil {
		return nil, err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("cookie jar: %w", err)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	return &handshake{
		base: base, attester: attester, initData: initData, key: key, interval: handshakeInterval, log: log,
		client: &http.Client{Transport: transport, Jar: jar, Timeout: httpTimeout},
	}, nil
}

// token performs the handshake until it succeeds, five times at most, and gives the attestation token.
func (h *handshake) token(ctx context.Context) (string, error) {
	defer h.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTime,
		fmt.Errorf("handshake took longer than %v: %w", handshakeTime, context.DeadlineExceeded))
	defer cancel()
	for attempt := 1; ; attempt++ {
		token, err := h.attempt(ctx)
		if err == nil {
			return token, nil
		}
		err = fmt.Errorf("RCAR handshake failed: %w", err)
		if ctx.Err() != nil {
			//lint:ignore ST1005 the text is attestation-agent's
			return "", fmt.Errorf("Unable to get token. RCAR handshake interrupted: %w: %w", context.Cause(ctx), err)
		}
		if attempt == handshakeAttempts {
			//lint:ignore ST1005 the text is attestation-agent's
			return "", fmt.Errorf("Unable to get token. RCAR handshake retried %d times. Final attempt failed with: %w", handshakeAttempts, err)
		}
		h.log.Warn("RCAR handshake failed", "attempt", attempt, "error", err.Error())
		timer := time.NewTimer(h.interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			//lint:ignore ST1005 the text is attestation-agent's
			return "", fmt.Errorf("Unable to get token. RCAR handshake interrupted: %w: %w", context.Cause(ctx), err)
		}
	}
}

func (h *handshake) attempt(ctx context.Context) (string, error) {
	var challenge challenge
	if err := h.post(ctx, "auth", "KBS request unauthorized, ErrorInformation", newRequest(h.attester.Tee()), &challenge); err != nil {
		return "", err
	}
	if challenge.Nonce == "" {
		return "", errors.New("challenge: missing field nonce")
	}
	attestation, err := h.attestation(ctx, &challenge)
	if err != nil {
		return "", err
	}
	var response struct {
		Token string `json:"token"`
	}
	if err := h.post(ctx, "attest", "KBS attest unauthorized, Error Info", attestation, &response); err != nil {
		return "", err
	}
	if response.Token == "" {
		return "", errors.New("attest response: missing field token")
	}
	return response.Token, nil
}

func (h *handshake) attestation(ctx context.Context, challenge *challenge) (*attestation, error) {
	newHash, err := challenge.hash()
	if err != nil {
		return nil, err
	}
	public, err := h.key.public()
	if err != nil {
		return nil, err
	}
	runtimeData := runtimeData{Nonce: challenge.Nonce, TEEPubkey: public}
	reportData, err := runtimeData.reportData(newHash)
	if err != nil {
		return nil, err
	}
	evidence, err := h.attester.Evidence(ctx, reportData)
	if err != nil {
		return nil, fmt.Errorf("get composite evidence failed: %w", err)
	}
	message := &attestation{RuntimeData: runtimeData, TEEEvidence: teeEvidence{Primary: evidence, Additional: noDevices}}
	if h.initData != nil {
		message.InitData = &initDataMessage{Format: "toml", Body: string(h.initData)}
	}
	return message, nil
}

// post sends message to an endpoint and reads the answer. refusal begins the error's text when the KBS refuses.
func (h *handshake) post(ctx context.Context, endpoint, refusal string, message, answer any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("%s: %w", endpoint, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.base+"/"+endpoint, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", endpoint, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := h.client.Do(request)
	if err != nil {
		return fmt.Errorf("http request failed: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return fmt.Errorf("%s response: %w", endpoint, err)
	}
	switch response.StatusCode {
	case http.StatusOK:
		if err := json.Unmarshal(raw, answer); err != nil {
			return fmt.Errorf("deserialize http response failed: %s: %w", endpoint, err)
		}
		return nil
	case http.StatusUnauthorized:
		var information errorInformation
		if err := json.Unmarshal(raw, &information); err != nil {
			return fmt.Errorf("deserialize http response failed: %s: status 401: %w", endpoint, err)
		}
		return fmt.Errorf("%s: %v", refusal, information)
	default:
		return fmt.Errorf("KBS Server Internal Failed, Response: status %d: %.256q", response.StatusCode, raw)
	}
}
