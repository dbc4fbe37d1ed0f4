package kbs

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/attestation"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/message"
)

const contentJSON = "application/json"

var semver = regexp.MustCompile(`^\d{1,9}\.\d{1,9}\.\d{1,9}([-+][0-9A-Za-z.+-]+)?$`)

// auth begins a handshake: a challenge for a TEE.
func (s *Server) auth(x *exchange) (*reply, *failure) {
	request, err := message.ParseRequest(x.body)
	if err != nil {
		x.notes = append(x.notes, "reason", clip(err.Error()))
		return nil, authFailed(errors.New("deserialize Request"))
	}
	if !semver.MatchString(request.Version) {
		return nil, authFailed(errors.New("failed to parse KBS version"))
	}
	if request.Version != protocolVersion {
		return nil, authFailed(fmt.Errorf("KBS Client Protocol Version Mismatch: expect =%s while the request is %s", protocolVersion, clip(request.Version)))
	}
	begun, err := s.sessions.begin(request.TEE)
	if err != nil {
		return nil, authFailed(err)
	}
	x.session = fingerprint(begun.id)
	x.notes = append(x.notes, "tee", request.TEE)
	body, err := json.Marshal(map[string]string{"nonce": begun.nonce, "extra-params": ""})
	if err != nil {
		return nil, authFailed(err)
	}
	return &reply{decision: "challenged", contentType: contentJSON, body: body, cookie: begun.cookie()}, nil
}

// attest ends a handshake: a token for evidence that answers the challenge. A session that has its token gets it again,
// whatever evidence it sends now.
func (s *Server) attest(x *exchange) (*reply, *failure) {
	if cookie, err := x.Cookie(sessionCookie); err != nil || cookie.Value == "" {
		return nil, attestFailed(errNoCookie)
	}
	sent, err := message.ParseAttestation(x.body)
	if err != nil {
		return nil, attestFailed(fmt.Errorf("deserialize Attestation: %s", clip(err.Error())))
	}
	found, err := s.sessions.find(x.Request)
	if err != nil {
		return nil, attestFailed(err)
	}
	x.session = fingerprint(found.id)
	x.tee = found.tee
	x.notes = append(x.notes, "tee", found.tee)
	if found.token != "" {
		return tokenReply(x, found, "attested before")
	}
	if sent.Runtime.Nonce != found.nonce {
		return nil, attestFailed(errNonce)
	}
	x.judged = true
	appraisal, err := s.attestation.Attest(x.Context(), attestation.Input{
		TEE: found.tee, Evidence: sent.Evidence, Runtime: sent.Runtime, InitData: sent.InitData,
	})
	if appraisal != nil {
		s.journal.block(s.now(), "session "+x.session, appraisal.Report())
		x.notes = append(x.notes, "ear_status", appraisal.Status)
		if appraisal.Why != "" {
			x.notes = append(x.notes, "why", appraisal.Why)
		}
	}
	if err != nil {
		if register := (*evidence.RegisterError)(nil); errors.As(err, &register) {
			x.notes = append(x.notes, "register", register.Register, "expected", hex.EncodeToString(register.Expected), "actual", hex.EncodeToString(register.Actual))
		}
		return nil, attestFailed(err)
	}
	if found, err = s.sessions.attested(found.id, appraisal.Token); err != nil {
		return nil, attestFailed(err)
	}
	return tokenReply(x, found, "attested")
}

func tokenReply(x *exchange, attested session, decision string) (*reply, *failure) {
	x.token = fingerprint(attested.token)
	body, err := json.Marshal(map[string]string{"token": attested.token})
	if err != nil {
		return nil, attestFailed(err)
	}
	return &reply{decision: decision, contentType: contentJSON, body: body, cookie: attested.cookie()}, nil
}
