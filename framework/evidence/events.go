package evidence

import (
	"bytes"
	"crypto"
	"fmt"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// EventPCR is the register that attestation-agent measures its events into unless its configuration names another
// (aa.toml, eventlog_config.init_pcr); on TDX it stands for RTMR 3.
const EventPCR = 17

// checkEvents compares a log with a TPM's quoted registers: those that the log has events of, and EventPCR, so that a log
// from which everything was left out does not fit either.
func checkEvents(pcrs *[PCRCount][32]byte, log *measure.EventLog) error {
	if log == nil {
		return nil
	}
	quoted := map[uint32][]byte{EventPCR: pcrs[EventPCR][:]}
	for _, event := range log.Events {
		if event.Type == measure.EventNoAction {
			continue
		}
		if event.Register >= PCRCount {
			return fmt.Errorf("%w: event %d is of register %d, which no TPM has", ErrEventLog, event.Number, event.Register)
		}
		quoted[event.Register] = pcrs[event.Register][:]
	}
	// PCRs 17 to 22 are all ones until a dynamic launch resets them to zeros.
	ones := map[uint32][]byte{}
	for register := uint32(17); register <= 22; register++ {
		ones[register] = bytes.Repeat([]byte{0xff}, 32)
	}
	err := log.Compare(crypto.SHA256, ones, quoted)
	if err == nil || log.Compare(crypto.SHA256, nil, quoted) == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrEventLog, err)
}

// checkEvents compares a log with the quoted RTMRs, all of them.
func (t *TDXClaims) checkEvents(log *measure.EventLog) error {
	if log == nil {
		return nil
	}
	if err := log.Compare(crypto.SHA384, nil, t.ccRegisters()); err != nil {
		return fmt.Errorf("%w: %w", ErrEventLog, err)
	}
	t.EventLog = log
	return nil
}
