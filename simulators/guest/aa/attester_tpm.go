package aa

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"

	"github.com/coco-e2e/coco-e2e/simulators/guest/tpm"
)

// initDataPCR is the PCR that init-data is measured into.
const initDataPCR = 8

// TPM is the attester of machines whose only root of trust is a TPM 2.0.
type TPM struct{ TPM tpm.TPM }

var (
	_ Attester = (*TPM)(nil)
	_ Extender = (*TPM)(nil)
)

// Tee is "tpm".
func (*TPM) Tee() string { return "tpm" }

// BindInitData extends PCR 8 of the SHA-256 bank with digest, which must have 32 bytes. It is not idempotent: bound
// twice, init-data does not verify, as with attestation-agent.
func (t *TPM) BindInitData(ctx context.Context, digest []byte) error {
	if err := t.TPM.Extend(ctx, initDataPCR, digest); err != nil {
		//lint:ignore ST1005 the text is attestation-agent's
		return fmt.Errorf("Failed to extend PCR for init data: %w", err)
	}
	return nil
}

// Evidence is a quote of all PCRs of the SHA-256 bank.
func (t *TPM) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	evidence, err := t.TPM.Attest(ctx, reportData)
	if err != nil {
		return nil, fmt.Errorf("TPM evidence: %w", err)
	}
	raw, err := json.Marshal(evidence)
	if err != nil {
		return nil, fmt.Errorf("TPM evidence: %w", err)
	}
	return raw, nil
}

// Bank is SHA-256.
func (*TPM) Bank() crypto.Hash { return crypto.SHA256 }

// Register is the PCR itself.
func (*TPM) Register(pcr uint32) uint32 { return pcr }

// Extend extends a PCR.
func (t *TPM) Extend(ctx context.Context, pcr uint32, digest []byte) error {
	return t.TPM.Extend(ctx, pcr, digest)
}
