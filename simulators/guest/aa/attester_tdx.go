package aa

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/coco-e2e/coco-e2e/simulators/tee/message"
)

// tdxDevice is Linux's.
const tdxDevice = "/dev/tdx_guest"

// Layout of TDREPORT_STRUCT. Sizes in bytes.
const (
	tdReportSize = 1024
	tdConfigID   = 512 + 64
	tdDigest     = 48
)

// TDX is the attester of TDX guests.
type TDX struct {
	// Device is the path of the module's device.
	Device string
	// EventLog is the file that runtime measurements are logged to; "" for none.
	EventLog string
}

var (
	_ Attester = (*TDX)(nil)
	_ Extender = (*TDX)(nil)
)

// Tee is "tdx".
func (*TDX) Tee() string { return "tdx" }

// BindInitData compares MRCONFIGID, which the host set at launch, with digest cut or zero-padded to 48 bytes.
func (t *TDX) BindInitData(ctx context.Context, digest []byte) error {
	report, err := t.report(ctx, nil)
	if err != nil {
		return fmt.Errorf("TD report: %w", err)
	}
	if !bytes.Equal(report[tdConfigID:tdConfigID+tdDigest], fitted(digest, tdDigest)) {
		return errors.New("Init data does not match!") //nolint:staticcheck // attestation-agent's text
	}
	return nil
}

func (t *TDX) report(ctx context.Context, reportData []byte) ([]byte, error) {
	data, err := pad64("TDX", reportData)
	if err != nil {
		return nil, err
	}
	report, err := ask(ctx, t.Device, message.TDXReport, data[:])
	if err == nil && len(report) != tdReportSize {
		err = fmt.Errorf("%s: %d bytes that are no TDREPORT", t.Device, len(report))
	}
	return report, err
}

// Evidence is a quote, with the firmware's event log and after it what was measured at run time.
func (t *TDX) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	report, err := t.report(ctx, reportData)
	if err != nil {
		return nil, fmt.Errorf("TDX evidence: %w", err)
	}
	quote, err := ask(ctx, t.Device, message.TDXQuote, report)
	if err != nil {
		return nil, fmt.Errorf("TDX evidence: quote: %w", err)
	}
	log, err := ask(ctx, t.Device, message.TDXEventLog, nil)
	if err != nil {
		return nil, fmt.Errorf("TDX evidence: event log: %w", err)
	}
	if t.EventLog != "" {
		later, err := os.ReadFile(t.EventLog)
		if err != nil {
			return nil, fmt.Errorf("TDX evidence: event log: %w", err)
		}
		log = append(log, later...)
	}
	evidence, err := json.Marshal(map[string]string{
		"quote": base64.StdEncoding.EncodeToString(quote), "cc_eventlog": base64.StdEncoding.EncodeToString(log),
	})
	if err != nil {
		return nil, fmt.Errorf("TDX evidence: %w", err)
	}
	return evidence, nil
}

// Bank is SHA-384.
func (*TDX) Bank() crypto.Hash { return crypto.SHA384 }

// Register is the CC measurement register that stands for a PCR (UEFI specification, "Virtual Platform CC Event Log"): 1
// for RTMR 0, and so on.
func (*TDX) Register(pcr uint32) uint32 {
	switch {
	case pcr == 1 || pcr == 7:
		return 1
	case pcr >= 2 && pcr <= 6:
		return 2
	case pcr >= 8 && pcr <= 15:
		return 3
	}
	return 4
}

// Extend extends the RTMR that stands for a PCR.
func (t *TDX) Extend(ctx context.Context, pcr uint32, digest []byte) error {
	request := binary.LittleEndian.AppendUint32(nil, t.Register(pcr)-1)
	_, err := ask(ctx, t.Device, message.TDXExtend, append(request, digest...))
	return err
}
