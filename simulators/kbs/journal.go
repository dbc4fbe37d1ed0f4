package kbs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// journal is the log: JSON lines, and appraisals as text between them. Neither sessions nor tokens, both of which open
// doors to whoever reads them, appear but as fingerprints.
type journal struct {
	*slog.Logger
	out *serialised
}

// serialised lets one write at a time through.
type serialised struct {
	mu  sync.Mutex
	out io.Writer
}

func (s *serialised) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(text)
}

func newJournal(out io.Writer) *journal {
	own := &serialised{out: out}
	return &journal{slog.New(slog.NewJSONHandler(own, nil)), own}
}

// block writes text of several lines in one piece, under a headline.
func (j *journal) block(at time.Time, headline, text string) {
	_, _ = fmt.Fprintf(j.out, "[%s INFO attestation_service] %s: %s", at.UTC().Format(time.RFC3339), headline, text)
}

// fingerprint names a secret in the log.
func fingerprint(secret string) string {
	if secret == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(secret))
	return "sha256:" + hex.EncodeToString(sum[:8])
}

// clip shortens what a client chose, for the log.
func clip(text string) string {
	const limit = 256
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
