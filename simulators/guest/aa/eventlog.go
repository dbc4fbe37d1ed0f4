package aa

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// EventLogPath is where attestation-agent keeps its event log.
const EventLogPath = "/run/attestation-agent/eventlog"

// defaultEventPCR is the PCR that events are measured into unless aa.toml names another.
const defaultEventPCR = 17

// Records of the log (TCG PC Client Platform Firmware Profile, TCG_PCR_EVENT2 with TCG_PCClientTaggedEvent).
const (
	eventTag = 0x00000006 // EV_EVENT_TAG
	aaelTag  = 0x4141454c // "AAEL"

	maxEvent = 64 << 10 // bytes of an event's text
)

var bankAlgorithms = map[crypto.Hash]uint16{crypto.SHA256: 0x000b, crypto.SHA384: 0x000c}

// EventLog is a log of events that are measured into a runtime register when they are recorded. It is safe for concurrent
// use.
type EventLog struct {
	pcr      uint32
	extender Extender
	log      *slog.Logger

	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenEventLog begins a log at path. Events that name no register go to pcr.
func OpenEventLog(path string, pcr uint32, extender Extender, log *slog.Logger) (*EventLog, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	return &EventLog{pcr: pcr, extender: extender, log: log, file: file}, nil
}

// ErrEvent says that what was to be measured is no event.
var ErrEvent = errors.New("no event")

func checkEvent(domain, operation, content string) error {
	for _, part := range []struct {
		name, text string
		word       bool
	}{{"domain", domain, true}, {"operation", operation, true}, {"content", content, false}} {
		switch {
		case strings.ContainsAny(part.text, "\n\r"):
			return fmt.Errorf("%w: %s contains newline", ErrEvent, part.name)
		case part.word && (part.text == "" || strings.Contains(part.text, " ")):
			return fmt.Errorf("%w: %s %q: want one word", ErrEvent, part.name, part.text)
		}
	}
	if size := len(domain) + len(operation) + len(content); size > maxEvent {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrEvent, size, maxEvent)
	}
	return nil
}

// Record writes an event and measures it into the register that stands for a PCR. What cannot be measured is not left in
// the log.
func (l *EventLog) Record(ctx context.Context, pcr *uint32, domain, operation, content string) error {
	if err := checkEvent(domain, operation, content); err != nil {
		return err
	}
	target := l.pcr
	if pcr != nil {
		target = *pcr
	}
	bank := l.extender.Bank()
	record, digest := event(bank, l.extender.Register(target), domain+" "+operation+" "+content)
	l.mu.Lock()
	defer l.mu.Unlock()
	// First the log, as attestation-agent does: a register without its log proves nothing, a log without its register is
	// found out.
	if _, err := l.file.WriteAt(record, l.size); err != nil {
		return fmt.Errorf("event log: %w", errors.Join(err, l.file.Truncate(l.size)))
	}
	if err := l.extender.Extend(ctx, target, digest); err != nil {
		return fmt.Errorf("measure event: %w", errors.Join(err, l.file.Truncate(l.size)))
	}
	l.size += int64(len(record))
	l.log.Info("event measured", "pcr", target, "domain", domain, "operation", operation, "record", base64.StdEncoding.EncodeToString(record))
	return nil
}

// During runs f while nothing is recorded, so that log and registers agree.
func (l *EventLog) During(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f()
}

// event is a record with one digest, of the tagged event.
func event(bank crypto.Hash, register uint32, text string) (record, digest []byte) {
	little := binary.LittleEndian
	data := little.AppendUint32(nil, aaelTag)
	data = append(little.AppendUint32(data, uint32(len(text))), text...)
	h := bank.New()
	h.Write(data)
	digest = h.Sum(nil)
	record = little.AppendUint32(nil, register)
	record = little.AppendUint32(record, eventTag)
	record = little.AppendUint32(record, 1)
	record = append(little.AppendUint16(record, bankAlgorithms[bank]), digest...)
	return append(little.AppendUint32(record, uint32(len(data))), data...), digest
}

// EventPCR says whether events are to be logged, and into which PCR unless they name another. What aa.toml says counts;
// otherwise the guest image's default, the environment's COCO_EVENTLOG: the number of a PCR, or nothing.
func (c *Config) EventPCR(environment string) (pcr uint32, enabled bool, err error) {
	pcr = defaultEventPCR
	if environment != "" {
		number, err := strconv.ParseUint(environment, 10, 32)
		if err != nil || number > 23 {
			return 0, false, fmt.Errorf("COCO_EVENTLOG=%q: want the number of a PCR, 0 to 23", environment)
		}
		pcr, enabled = uint32(number), true
	}
	if c.EventLog.Enable != nil {
		enabled = *c.EventLog.Enable
	}
	if c.EventLog.PCR != nil {
		if *c.EventLog.PCR > 23 {
			return 0, false, fmt.Errorf("aa.toml: eventlog_config.init_pcr = %d: want the number of a PCR, 0 to 23", *c.EventLog.PCR)
		}
		pcr = *c.EventLog.PCR
	}
	return pcr, enabled, nil
}
