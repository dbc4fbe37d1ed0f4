// Package attestation is the attestation service in the KBS: it verifies evidence, appraises what the evidence says with a
// policy and reference values, and makes a token of the result (Trustee attestation-service).
//
// It must not know sessions, HTTP or resources.
package attestation

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/message"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/policy"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/token"
)

const (
	// DefaultPolicyID is the attestation policy for a machine's own evidence.
	DefaultPolicyID = "default_cpu"

	maxPolicies        = 1024
	maxReferenceValues = 1 << 16
)

// Options configure a service. Empty names get defaults that say that this is a simulator.
type Options struct {
	Issuer, Developer, Build, Profile string
	TokenLifetime                     time.Duration
	// Terse leaves devices' evidence out of tokens (verbose_token = false).
	Terse bool
	// Signer signs tokens; nil makes one with a key of its own.
	Signer *token.Signer
	// Roots are test roots that certify simulated hardware.
	Roots evidence.Roots
	Now   func() time.Time
}

// Defaults of [Options].
const (
	DefaultIssuer    = "coco-e2e simulator of Trustee's CoCo-Attestation-Service, for tests only"
	DefaultDeveloper = "https://github.com/coco-e2e/coco-e2e"
	DefaultBuild     = "coco-e2e simulators/kbs"
	DefaultProfile   = "tag:github.com,2024:confidential-containers/Trustee"
)

func (o *Options) complete() {
	for into, value := range map[*string]string{
		&o.Issuer: DefaultIssuer, &o.Developer: DefaultDeveloper, &o.Build: DefaultBuild, &o.Profile: DefaultProfile,
	} {
		if *into == "" {
			*into = value
		}
	}
	if o.TokenLifetime == 0 {
		o.TokenLifetime = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Service is an attestation service. It is safe for concurrent use.
type Service struct {
	options Options
	signer  *token.Signer

	mu         sync.RWMutex
	policies   map[string]*policy.Attestation
	references map[string]any
}

// New makes a service with the default policy, no reference values and a new token key.
func New(options Options) (*Service, error) {
	options.complete()
	if options.Signer == nil {
		var err error
		if options.Signer, err = token.NewSigner(); err != nil {
			return nil, err
		}
	}
	service := &Service{
		options: options, signer: options.Signer, policies: map[string]*policy.Attestation{}, references: map[string]any{},
	}
	return service, service.SetPolicy(DefaultPolicyID, policy.DefaultAttestation)
}

// SetPolicy sets the policy with this id. Only [DefaultPolicyID] has an effect, as this service verifies no devices.
func (s *Service) SetPolicy(id, rego string) error {
	compiled, err := policy.CompileAttestation(id, rego)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.policies[id]; !known && len(s.policies) >= maxPolicies {
		return fmt.Errorf("policy %s: there are %d policies already", id, maxPolicies)
	}
	s.policies[id] = compiled
	return nil
}

// SetReferenceValues sets values by name; other names keep theirs. Values are as encoding/json decodes them.
func (s *Service) SetReferenceValues(values map[string]any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.references)+len(values) > maxReferenceValues {
		return fmt.Errorf("more than %d reference values", maxReferenceValues)
	}
	for name, value := range values {
		s.references[name] = value
	}
	return nil
}

// ReferenceValue gives a value, which is not to be changed.
func (s *Service) ReferenceValue(name string) (value any, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	value, ok = s.references[name]
	return value, ok
}

// Input is what is attested.
type Input struct {
	TEE      string
	Evidence []byte // JSON
	Runtime  message.Runtime
	InitData *message.InitData
}

// Appraisal is what came of evidence that was verified.
type Appraisal struct {
	Token string
	TEE   string
	// Claims are the annotated evidence.
	Claims map[string]any
	Vector map[string]int
	Status string
	// Extensions are what the policy has the token say beside that.
	Extensions []policy.Extension
	// Why says which rules of the policy did not affirm, for people; empty when all did.
	Why string
	// Consulted are the reference values that the policy asked for.
	Consulted []policy.Consultation
}

// Attest verifies evidence, appraises it and makes a token. An appraisal that is not affirming is no error: judging it
// is for whoever takes the token. Errors have Trustee's texts where it has one.
func (s *Service) Attest(ctx context.Context, input Input) (*Appraisal, error) {
	reportData, err := input.Runtime.ReportData()
	if err != nil {
		return nil, err
	}
	initData, err := parseInitData(input.InitData)
	if err != nil {
		return nil, err
	}
	if input.Runtime.AdditionalEvidence != "" {
		return nil, errors.New("additional_evidence: this simulator of Trustee verifies no devices")
	}
	claims, err := s.verify(input, reportData, initData)
	if err != nil {
		return nil, err
	}
	appraisal := &Appraisal{TEE: input.TEE, Claims: annotated(claims, input, initData)}
	if s.options.Terse {
		delete(appraisal.Claims["runtime_data_claims"].(map[string]any), "additional-evidence")
	}
	if err := s.appraise(ctx, appraisal); err != nil {
		return appraisal, err
	}
	appraisal.Token, err = s.signer.Sign(s.ear(appraisal))
	return appraisal, err
}

// verify gives what the evidence claims, under Trustee's names. Whether a guest may be debugged is for the policy to
// judge, as with Trustee. Evidence of the kind sample binds no init-data: Trustee claims the digest that it was sent.
func (s *Service) verify(input Input, reportData []byte, initData *parsedInitData) (map[string]any, error) {
	options := evidence.Options{InitDataDigest: initData.digest, Roots: s.options.Roots, AllowDebug: true}
	unbound := input.TEE == evidence.KindSample
	if unbound {
		options.InitDataDigest = nil
	}
	verified, err := evidence.Verify(input.TEE, input.Evidence, reportData, options)
	if err != nil {
		return nil, verifierError(input.TEE, err)
	}
	claims := verified.Map()
	if unbound && initData.digest != nil {
		claims["init_data"] = base64.StdEncoding.EncodeToString(initData.digest)
	}
	return claims, nil
}

// annotated gives the annotated evidence: the TEE's claims under its name, what binds runtime data and init-data beside
// them, as Trustee moves them out (attestation-service/src/ear_token/broker.rs).
func annotated(claims map[string]any, input Input, initData *parsedInitData) map[string]any {
	result := map[string]any{"report_data": claims["report_data"], "runtime_data_claims": input.Runtime.Claims()}
	// A verifier that claims no init-data leaves both claims out.
	if claims["init_data"] != nil {
		result["init_data"], result["init_data_claims"] = claims["init_data"], nil
		if initData.claims != nil {
			result["init_data_claims"] = initData.claims
		}
	}
	delete(claims, "init_data")
	delete(claims, "report_data")
	result[input.TEE] = claims
	return result
}

// verifierTexts are Trustee's for what can be wrong with evidence of a kind (deps/verifier/src). The first that fits is
// taken.
var verifierTexts = map[string][]struct {
	err  error
	text string
}{
	evidence.KindTPM: {
		{evidence.ErrSignature, "TPM quote signature verification failed"},
		{evidence.ErrPCRDigest, "Digest of PCRs does not match digest in Quote"},
		{evidence.ErrNonce, "TPM quote nonce doesn't match expected report_data"},
		{evidence.ErrInitData, "TPM PCR[8] doesn't match expected initdata hash"},
	},
	evidence.KindAzSNPVTPM: append(slices.Clone(azureTexts), verifierText{evidence.ErrHCLBinding, "HCL variable data digest doesn't match SNP report data"}),
	evidence.KindAzTDXVTPM: append(slices.Clone(azureTexts), verifierText{evidence.ErrHCLBinding, "TDX Quote report data mismatch"}),
	evidence.KindSNP: {
		{evidence.ErrReportData, "Report Data Mismatch"},
		{evidence.ErrInitData, "Host Data Mismatch"},
	},
	evidence.KindTDX: {
		{evidence.ErrReportData, "REPORT_DATA is different from that in TDX Quote"},
		{evidence.ErrInitData, "MRCONFIGID is different from that in TDX Quote"},
	},
	evidence.KindSample: {
		{evidence.ErrReportData, "REPORT_DATA is different from that in Sample Quote"},
	},
}

type verifierText = struct {
	err  error
	text string
}

var azureTexts = []verifierText{
	{evidence.ErrAKBinding, "Failed to get AKpub"},
	{evidence.ErrSignature, "vTPM quote is not signed by AKpub"},
	{evidence.ErrNonce, "TPM quote nonce doesn't match expected report_data"},
	{evidence.ErrPCRDigest, "Digest of PCRs does not match digest in Quote"},
	{evidence.ErrUserData, "User-data in HCL variable data doesn't match report_data"},
	{evidence.ErrInitData, "Expected init_data digest is different from the content of PCR8"},
}

// verifierError has Trustee's text where there is one, and what really was found.
func verifierError(tee string, err error) error {
	for _, known := range verifierTexts[tee] {
		if errors.Is(err, known.err) {
			return fmt.Errorf("verify TEE evidence failed: Verifier evaluate failed: %s: %w", known.text, err)
		}
	}
	return fmt.Errorf("verify TEE evidence failed: Verifier evaluate failed: %w", err)
}
