package evidence

import (
	"bytes"
	"crypto"
	"fmt"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// DefaultEventPCR is the register that attestation-agent measures its events into unless its configuration names another
// (aa.toml, eventlog_config.init_pcr); on TDX it stands for RTMR 3.
const DefaultEventPCR = 17

// CheckEventPCR refuses registers that hold no log: those that do not exist, and those that every program in the guest may
// reset (TCG PC Client Platform TPM Profile, PCR attributes: 16, debug, and 23, application).
func CheckEventPCR(pcr uint32) error {
	switch {
	case pcr >= PCRCount:
		return fmt.Errorf("event register %d: a TPM has 0 to %d", pcr, PCRCount-1)
	case pcr == 16 || pcr == 23:
		return fmt.Errorf("event register %d: everybody in the guest may reset it, so it proves no log", pcr)
	}
	return nil
}

// checkEvents compares a log with a TPM's quoted registers: those that the log has events of, and the register that events
// are measured into, so that a log from which everything was left out does not fit either.
func checkEvents(pcrs *[PCRCount][32]byte, options Options) error {
	log, into := options.EventLog, options.EventPCR
	if log == nil {
		return nil
	}
	if into == 0 {
		into = DefaultEventPCR
	}
	if err := CheckEventPCR(into); err != nil {
		return fmt.Errorf("%w: %w", ErrEventLog, err)
	}
	quoted := map[uint32][]byte{into: pcrs[into][:]}
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
