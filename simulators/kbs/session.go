package kbs

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	sessionCookie = "kbs-session-id"
	nonceSize     = 32 // bytes
	maxSessions   = 1 << 16
)

var (
	errNoCookie  = errors.New("cookie not found")
	errNoSession = errors.New("session not found")
	errNonce     = errors.New("the nonce in the handshake session is different from the client side in KBS protocol's Attestation message")
)

// session is one handshake, and what came of it. Its times are fixed when it begins.
type session struct {
	id, tee, nonce string
	expires        time.Time
	token          string // empty until attested
}

func (s *session) cookie() *http.Cookie {
	return &http.Cookie{Name: sessionCookie, Value: s.id, Expires: s.expires}
}

// sessions are all handshakes that have not expired. It is safe for concurrent use.
type sessions struct {
	timeout time.Duration
	now     func() time.Time

	mu    sync.Mutex
	byID  map[string]session
	swept time.Time
}

func newSessions(timeout time.Duration, now func() time.Time) *sessions {
	return &sessions{timeout: timeout, now: now, byID: map[string]session{}, swept: now()}
}

// begin makes a session with a new nonce.
func (s *sessions) begin(tee string) (session, error) {
	var random [16 + nonceSize]byte
	if _, err := rand.Read(random[:]); err != nil {
		return session{}, fmt.Errorf("random: %w", err)
	}
	now := s.now()
	begun := session{
		id: hex.EncodeToString(random[:16]), tee: tee, expires: now.Add(s.timeout),
		nonce: base64.StdEncoding.EncodeToString(random[16:]),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept) >= s.timeout || len(s.byID) >= maxSessions {
		s.sweep(now)
	}
	if len(s.byID) >= maxSessions {
		return session{}, fmt.Errorf("there are %d sessions already", maxSessions)
	}
	s.byID[begun.id] = begun
	return begun, nil
}

func (s *sessions) sweep(now time.Time) {
	for id, old := range s.byID {
		if !now.Before(old.expires) {
			delete(s.byID, id)
		}
	}
	s.swept = now
}

// find gives the session that a request's cookie names.
func (s *sessions) find(r *http.Request) (session, error) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return session{}, errNoCookie
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.byID[cookie.Value]
	if !ok {
		return session{}, errNoSession
	}
	if !s.now().Before(found.expires) {
		delete(s.byID, found.id)
		return session{}, errNoSession
	}
	return found, nil
}

// attested records a session's token and gives the token that counts: the first, if two requests attested at once.
func (s *sessions) attested(id, token string) (session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.byID[id]
	if !ok {
		return session{}, errNoSession
	}
	if found.token == "" {
		found.token = token
		s.byID[id] = found
	}
	return found, nil
}

// count gives the number of sessions, expired ones among them until they are swept.
func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}
