package attestation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// trustClaims are the names of a trustworthiness vector's claims (AR4SI).
var trustClaims = []string{
	"instance-identity", "configuration", "executables", "file-system", "hardware", "runtime-opaque", "storage-opaque", "sourced-data",
}

// appraise lets the policy judge the claims and sets what came of it.
func (s *Service) appraise(ctx context.Context, appraisal *Appraisal) error {
	s.mu.RLock()
	appraiser := s.policies[DefaultPolicyID]
	s.mu.RUnlock()
	reference := func(name string) any {
		value, _ := s.ReferenceValue(name)
		return value
	}
	claims, consulted, err := appraiser.TrustClaims(ctx, appraisal.Claims, reference)
	appraisal.Consulted = consulted
	if err != nil {
		return fmt.Errorf("attestation policy %s: %w", DefaultPolicyID, err)
	}
	if appraisal.Vector, err = vector(claims); err != nil {
		return fmt.Errorf("attestation policy %s: %w", DefaultPolicyID, err)
	}
	appraisal.Status = status(appraisal.Vector)
	if appraisal.Extensions, err = appraiser.Extensions(ctx, appraisal.Claims, reference); err != nil {
		return fmt.Errorf("attestation policy %s: %w", DefaultPolicyID, err)
	}
	for _, name := range slices.Sorted(maps.Keys(appraisal.Vector)) {
		if appraisal.Vector[name] > maxAffirming {
			appraisal.Why += fmt.Sprintf("trust claim %s is %d, which does not affirm\n%s", name, appraisal.Vector[name], appraiser.Why(ctx, strings.ReplaceAll(name, "-", "_"), appraisal.Claims, reference))
		}
	}
	return nil
}

// maxAffirming is the highest value of a trust claim that affirms (draft-ietf-rats-ar4si, section 2.3).
const maxAffirming = 31

// vector turns a policy's result into a trustworthiness vector. No result at all is a vector of zeros.
func vector(claims map[string]any) (map[string]int, error) {
	result := map[string]int{}
	if claims == nil {
		for _, name := range trustClaims {
			result[name] = 0
		}
		return result, nil
	}
	for name, value := range claims {
		if !slices.Contains(trustClaims, name) {
			return nil, fmt.Errorf("%q is no trustworthiness claim; want one of %q", name, trustClaims)
		}
		number, ok := value.(json.Number)
		if !ok {
			return nil, errors.New("Policy claim value not number") //nolint:staticcheck // Trustee's text
		}
		claim, err := number.Int64()
		if err != nil || claim < -128 || claim > 127 {
			return nil, fmt.Errorf("%s is %s: want an integer from -128 to 127", name, number)
		}
		result[name] = int(claim)
	}
	return result, nil
}

// Tiers of trustworthiness claims, from best to worst (rust-ear src/trust).
var tiers = []string{"none", "affirming", "warning", "contraindicated"}

func tier(claim int) int {
	switch {
	case claim >= -1 && claim <= 1:
		return 0
	case claim >= -32 && claim <= 31:
		return 1
	case claim >= -96 && claim <= 95:
		return 2
	}
	return 3
}

// status is the worst claim's tier.
func status(vector map[string]int) string {
	worst := 0
	for _, claim := range vector {
		worst = max(worst, tier(claim))
	}
	return tiers[worst]
}

// ear gives a token's claims (draft-ietf-rats-ear; Trustee attestation-service/docs/attestation_token.md).
func (s *Service) ear(appraisal *Appraisal) map[string]any {
	now := s.options.Now()
	module := map[string]any{}
	for _, extension := range appraisal.Extensions {
		module[extension.Name] = extension.Value
	}
	// What the service says itself no policy replaces.
	maps.Copy(module, map[string]any{
		"ear.status":                      appraisal.Status,
		"ear.trustworthiness-vector":      appraisal.Vector,
		"ear.appraisal-policy-id":         "default",
		"ear.veraison.annotated-evidence": appraisal.Claims,
	})
	return map[string]any{
		"eat_profile":     s.options.Profile,
		"iss":             s.options.Issuer,
		"iat":             now.Unix(),
		"exp":             now.Add(s.options.TokenLifetime).Unix(),
		"ear.verifier-id": map[string]string{"developer": s.options.Developer, "build": s.options.Build},
		"submods":         map[string]any{"cpu0": module},
	}
}
