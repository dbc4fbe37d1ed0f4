package aa

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/coco-e2e/coco-e2e/simulators/guest/tpm"
)

// Attester is a TEE as its guest sees it.
type Attester interface {
	// Tee is the TEE's name in the KBS protocol.
	Tee() string
	// BindInitData puts an init-data digest where the TEE's evidence shows it, or checks that the host has put it there.
	// ErrUnbound says that this TEE has no such place.
	BindInitData(ctx context.Context, digest []byte) error
	// Evidence is signed by the TEE and carries reportData.
	Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error)
}

// Extender is an [Attester] with registers that a guest can extend at run time.
type Extender interface {
	// Bank is the hash of the registers.
	Bank() crypto.Hash
	// Register is the number under which event logs have the register that stands for a PCR.
	Register(pcr uint32) uint32
	// Extend extends that register with a digest of the bank's size.
	Extend(ctx context.Context, pcr uint32, digest []byte) error
}

// Errors of attesters.
var (
	// ErrNoTEE says that this machine has no TEE. Nothing takes its place unless AA_SAMPLE_ATTESTER_TEST is set: evidence of
	// the sample attester, which attestation-agent falls back to, would prove nothing.
	ErrNoTEE = errors.New("no TEE found: this machine has no TDX or SEV-SNP device, and no TPM at AA_TPM_DEVICE, /dev/tpm0, /dev/tpm1 or /dev/tpm2")
	// ErrUnbound says that evidence of this TEE cannot show init-data.
	ErrUnbound = errors.New("this TEE binds no init-data")
)

// reportDataSize is what reports of TDX and SEV-SNP have room for, and Azure's vTPM.
const reportDataSize = 64

// pad64 zero-pads report data to what a report has room for.
func pad64(tee string, reportData []byte) (padded [reportDataSize]byte, err error) {
	if len(reportData) > reportDataSize {
		return padded, fmt.Errorf("%s Attester: Report data must be no more than %d bytes", tee, reportDataSize)
	}
	copy(padded[:], reportData)
	return padded, nil
}

// Detect finds this machine's TEE, with the environment's AA_TPM_DEVICE, AA_TPM_AK_HANDLE and AA_SAMPLE_ATTESTER_TEST, or
// gives [ErrNoTEE]. The order is attestation-agent's: a machine with hardware of its own is not taken for its TPM.
func Detect(getenv func(string) string) (Attester, error) {
	if getenv("AA_SAMPLE_ATTESTER_TEST") != "" {
		return sample{}, nil
	}
	if exists(tdxDevice) {
		return &TDX{Device: tdxDevice}, nil
	}
	device, err := tpm.FindDevice(getenv("AA_TPM_DEVICE"))
	switch {
	case errors.Is(err, tpm.ErrNoDevice):
		if exists(snpDevice) {
			return &SNP{Device: snpDevice}, nil
		}
		return nil, ErrNoTEE
	case err != nil:
		return nil, err
	}
	handle, err := tpm.ParseHandle(getenv("AA_TPM_AK_HANDLE"))
	if err != nil {
		return nil, err
	}
	if azure, err := detectAzure(device, handle); azure != nil || err != nil {
		return azure, err
	}
	if exists(snpDevice) {
		return &SNP{Device: snpDevice}, nil
	}
	return &TPM{TPM: tpm.TPM{Device: device, AKHandle: handle}}, nil
}
