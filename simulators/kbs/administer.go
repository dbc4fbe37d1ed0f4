package kbs

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/coco-e2e/coco-e2e/simulators/kbs/message"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/policy"
)

// resourcePolicyID is the name of the only resource policy.
const resourcePolicyID = "resource-policy"

// administer lets administrators through to handle.
func (s *Server) administer(x *exchange, handle func(*exchange) (*reply, *failure)) (*reply, *failure) {
	if err := s.gate.Check(x.Request); err != nil {
		return nil, adminRefused(x.plugin, err)
	}
	return handle(x)
}

func accepted() *reply { return &reply{decision: "accepted"} }

func (s *Server) setAttestationPolicy(x *exchange) (*reply, *failure) {
	sent, err := message.ParseAttestationPolicy(x.body)
	if err != nil {
		return nil, setPolicyFailed(fmt.Errorf("parse set policy request: %w", err))
	}
	if err := s.attestation.SetPolicy(sent.ID, sent.Rego); err != nil {
		return nil, setPolicyFailed(err)
	}
	x.notes = append(x.notes, "policy_id", clip(sent.ID), "policy", fingerprint(sent.Rego))
	return accepted(), nil
}

func (s *Server) setResourcePolicy(x *exchange) (*reply, *failure) {
	rego, err := message.ParseResourcePolicy(x.body)
	if err != nil {
		return nil, policyUnreadable(err)
	}
	compiled, err := policy.CompileResource(rego)
	if err != nil {
		return nil, policyEngineFailed(err)
	}
	s.policy.Store(compiled)
	x.notes = append(x.notes, "policy", fingerprint(rego))
	return accepted(), nil
}

// listResourcePolicies gives the policies' names, not their text.
func (s *Server) listResourcePolicies(*exchange) (*reply, *failure) {
	return &reply{decision: "accepted", contentType: contentJSON, body: []byte(`["` + resourcePolicyID + `"]`)}, nil
}

func (s *Server) setReferenceValues(x *exchange) (*reply, *failure) {
	values, err := message.ParseReferenceValues(x.body)
	if err == nil {
		err = s.attestation.SetReferenceValues(values)
	}
	if err != nil {
		return nil, rvpsFailed(fmt.Errorf("Failed to register reference value: %w", err)) //nolint:staticcheck // Trustee's text
	}
	return &reply{decision: "accepted", contentType: contentJSON}, nil
}

func (s *Server) getReferenceValue(x *exchange) (*reply, *failure) {
	name := strings.Join(x.path, "/")
	value, ok := s.attestation.ReferenceValue(name)
	if !ok {
		return nil, rvpsFailed(fmt.Errorf("Failed to get reference_values: No reference value found for the given id: %s", clip(name))) //nolint:staticcheck // Trustee's text
	}
	body, err := json.Marshal(value)
	if err != nil {
		return nil, rvpsFailed(err)
	}
	return &reply{decision: "accepted", contentType: contentJSON, body: body}, nil
}
