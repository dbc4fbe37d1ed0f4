package aa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/coco-e2e/coco-e2e/simulators/guest/tpm"
)

// Attester is a TEE as its guest sees it.
type Attester interface {
	// Tee is the TEE's name in the KBS protocol.
	Tee() string
	// BindInitData puts an init-data digest where the TEE's evidence shows it.
	BindInitData(ctx context.Context, digest []byte) error
	// Evidence is signed by the TEE and carries reportData.
	Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error)
}

// ErrNoTEE says that this machine has no TEE. Nothing takes its place: evidence of a sample attester, which
// attestation-agent falls back to, would prove nothing.
var ErrNoTEE = errors.New("no TEE found: this machine has no TPM at AA_TPM_DEVICE, /dev/tpm0, /dev/tpm1 or /dev/tpm2")

// Detect finds this machine's TEE with the environment's AA_TPM_DEVICE and AA_TPM_AK_HANDLE, or gives [ErrNoTEE].
func Detect(getenv func(string) string) (Attester, error) {
	device, err := tpm.FindDevice(getenv("AA_TPM_DEVICE"))
	if errors.Is(err, tpm.ErrNoDevice) {
		return nil, ErrNoTEE
	}
	if err != nil {
		return nil, err
	}
	handle, err := tpm.ParseHandle(getenv("AA_TPM_AK_HANDLE"))
	if err != nil {
		return nil, err
	}
	return &TPM{tpm.TPM{Device: device, AKHandle: handle}}, nil
}

// initDataPCR is the PCR that init-data is measured into.
const initDataPCR = 8

// TPM is the attester of machines whose only root of trust is a TPM 2.0.
type TPM struct{ TPM tpm.TPM }

var _ Attester = (*TPM)(nil)

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
