package measure

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Event types of the TCG PC Client Platform Firmware Profile, section "Event Types", that a replay treats specially.
const (
	EventNoAction  = 0x00000003 // EV_NO_ACTION: information that is not measured
	EventSeparator = 0x00000004 // EV_SEPARATOR
	EventAction    = 0x00000005 // EV_ACTION
	EventTag       = 0x00000006 // EV_EVENT_TAG
	EventEFIAction = 0x80000007 // EV_EFI_ACTION
)

// AAELTag is the tag of attestation-agent's events within EV_EVENT_TAG: "AAEL" in ASCII
// (guest-components attestation-agent/src/eventlog).
const AAELTag = 0x4141454c

const (
	maxEventLog    = 4 << 20 // bytes; firmware reserves 64 KiB to 256 KiB
	maxDigests     = 8       // banks of a log
	specSignature  = "Spec ID Event03\x00"
	localityEvent  = "StartupLocality\x00"
	maxExplainable = 2048 // events of one register for which an omission is searched
)

// ErrEventLog: bytes are not an event log. The error is an [*EventLogError], which says where.
var ErrEventLog = errors.New("event log is malformed")

// EventLogError is an [ErrEventLog] at a byte offset of the log.
type EventLogError struct {
	Offset  int
	Problem string
}

func (e *EventLogError) Error() string {
	return fmt.Sprintf("%v: at byte %d: %s", ErrEventLog, e.Offset, e.Problem)
}

// Unwrap gives ErrEventLog.
func (e *EventLogError) Unwrap() error { return ErrEventLog }

// Digest is what one bank was extended with.
type Digest struct {
	Bank  crypto.Hash
	Value []byte
}

// Event is one record of a log (TCG_PCR_EVENT2).
type Event struct {
	Number   int // position in the log, from 1; the log's own header does not count
	Register uint32
	Type     uint32
	Digests  []Digest
	Data     []byte
}

// EventLog is a parsed crypto-agile log: a TPM's, a CC event log (whose register is the CC measurement register: 0 MRTD,
// 1 to 4 RTMR 0 to 3), or attestation-agent's, which has no header.
type EventLog struct{ Events []Event }

// ParseEventLog reads a log in TCG2 format (TCG PC Client Platform Firmware Profile, section "Event Logging"), with its
// Spec ID header or, as attestation-agent writes /run/attestation-agent/eventlog, without. A rest that is all 0xff or all
// zeros is the unused end of the firmware's buffer. Errors are an [*EventLogError].
func ParseEventLog(raw []byte) (*EventLog, error) {
	if len(raw) > maxEventLog {
		return nil, &EventLogError{0, fmt.Sprintf("%d bytes, limit %d", len(raw), maxEventLog)}
	}
	r := &logReader{raw: raw}
	if bytes.HasPrefix(after(raw, 32), []byte("Spec ID Event")) {
		r.header()
	}
	log := &EventLog{}
	for r.err == nil && !r.atPadding() {
		event := r.event()
		event.Number = len(log.Events) + 1
		log.Events = append(log.Events, event)
	}
	if r.err != nil {
		return nil, r.err
	}
	return log, nil
}

func after(raw []byte, offset int) []byte {
	if len(raw) < offset {
		return nil
	}
	return raw[offset:]
}

// logReader takes little-endian fields, and remembers the first that was not there.
type logReader struct {
	raw    []byte
	offset int
	err    error
}

func (r *logReader) fail(problem string) {
	if r.err == nil {
		r.err = &EventLogError{r.offset, problem}
	}
}

func (r *logReader) take(part string, size uint32) []byte {
	if r.err == nil && uint64(len(r.raw)-r.offset) < uint64(size) {
		r.fail(fmt.Sprintf("%s: %d bytes where %d belong", part, len(r.raw)-r.offset, size))
	}
	if r.err != nil {
		return nil
	}
	taken := r.raw[r.offset:][:size:size]
	r.offset += int(size)
	return taken
}

func (r *logReader) uint16(part string) uint16 {
	if taken := r.take(part, 2); taken != nil {
		return binary.LittleEndian.Uint16(taken)
	}
	return 0
}

func (r *logReader) uint32(part string) uint32 {
	if taken := r.take(part, 4); taken != nil {
		return binary.LittleEndian.Uint32(taken)
	}
	return 0
}

func (r *logReader) atPadding() bool {
	rest := r.raw[r.offset:]
	if len(rest) == 0 {
		return true
	}
	pad := rest[0]
	return (pad == 0xff || pad == 0) && bytes.Count(rest, []byte{pad}) == len(rest)
}

// header takes the first record, which alone is a TCG_PCClientPCREvent.
func (r *logReader) header() {
	r.take("header: register", 4)
	if kind := r.uint32("header: type"); kind != EventNoAction {
		r.fail(fmt.Sprintf("header: type %#x, want EV_NO_ACTION", kind))
	}
	r.take("header: digest", 20)
	size := r.uint32("header: size")
	body := r.take("header: Spec ID event", size)
	if r.err == nil && !bytes.HasPrefix(body, []byte(specSignature)) {
		r.fail("header: not a Spec ID Event03, so not a crypto-agile log")
	}
}

func (r *logReader) event() Event {
	event := Event{Register: r.uint32("event: register"), Type: r.uint32("event: type")}
	count := r.uint32("event: count of digests")
	if count > maxDigests {
		r.fail(fmt.Sprintf("event: %d digests, limit %d", count, maxDigests))
	}
	for i := uint32(0); i < count && r.err == nil; i++ {
		bank, size := hashOf(r.uint16("event: digest algorithm"))
		if size == 0 {
			r.fail("event: digest algorithm is not SHA-1, SHA-256, SHA-384, SHA-512 or SM3")
		}
		value := r.take("event: digest", size)
		if bank != 0 {
			event.Digests = append(event.Digests, Digest{bank, value})
		}
	}
	size := r.uint32("event: size")
	event.Data = r.take("event: data", size)
	return event
}

// hashOf translates a TPM_ALG_ID. Banks that Go cannot compute have hash 0.
func hashOf(algorithm uint16) (bank crypto.Hash, size uint32) {
	switch algorithm {
	case 0x0004:
		return crypto.SHA1, 20
	case 0x000b:
		return crypto.SHA256, 32
	case 0x000c:
		return crypto.SHA384, 48
	case 0x000d:
		return crypto.SHA512, 64
	case 0x0012: // SM3
		return 0, 32
	}
	return 0, 0
}

// Digest is what the event extended the bank with, or nil.
func (e *Event) Digest(bank crypto.Hash) []byte {
	for _, digest := range e.Digests {
		if digest.Bank == bank {
			return digest.Value
		}
	}
	return nil
}

// AAEL gives the text of an attestation-agent event, "domain operation content".
func (e *Event) AAEL() (text string, ok bool) {
	if e.Type != EventTag || len(e.Data) < 8 || binary.LittleEndian.Uint32(e.Data) != AAELTag ||
		binary.LittleEndian.Uint32(e.Data[4:]) != uint32(len(e.Data)-8) {
		return "", false
	}
	return string(e.Data[8:]), true
}

// digestIsOfData says whether the event's type defines its digest as the hash of its data.
func (e *Event) digestIsOfData() bool {
	if _, ok := e.AAEL(); ok {
		return true
	}
	return slices.Contains([]uint32{EventSeparator, EventAction, EventEFIAction}, e.Type)
}

// DigestMatchesData says whether the bank's digest is the hash of the event's data. Many types measure something else
// than they log, so that false says nothing about them.
func (e *Event) DigestMatchesData(bank crypto.Hash) bool {
	if !bank.Available() {
		return false
	}
	hash := bank.New()
	hash.Write(e.Data)
	return bytes.Equal(hash.Sum(nil), e.Digest(bank))
}

// eventTypes are the names in the TCG PC Client Platform Firmware Profile, section "Event Types".
var eventTypes = map[uint32]string{
	0x00: "EV_PREBOOT_CERT", 0x01: "EV_POST_CODE", 0x02: "EV_UNUSED", EventNoAction: "EV_NO_ACTION",
	EventSeparator: "EV_SEPARATOR", EventAction: "EV_ACTION", EventTag: "EV_EVENT_TAG", 0x07: "EV_S_CRTM_CONTENTS",
	0x08: "EV_S_CRTM_VERSION", 0x09: "EV_CPU_MICROCODE", 0x0a: "EV_PLATFORM_CONFIG_FLAGS", 0x0b: "EV_TABLE_OF_DEVICES",
	0x0c: "EV_COMPACT_HASH", 0x0d: "EV_IPL", 0x0e: "EV_IPL_PARTITION_DATA", 0x0f: "EV_NONHOST_CODE",
	0x10: "EV_NONHOST_CONFIG", 0x11: "EV_NONHOST_INFO", 0x12: "EV_OMIT_BOOT_DEVICE_EVENTS", 0x13: "EV_POST_CODE2",
	0x80000000: "EV_EFI_EVENT_BASE", 0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG", 0x80000002: "EV_EFI_VARIABLE_BOOT",
	0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION", 0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
	0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER", 0x80000006: "EV_EFI_GPT_EVENT", EventEFIAction: "EV_EFI_ACTION",
	0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB", 0x80000009: "EV_EFI_HANDOFF_TABLES",
	0x8000000a: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", 0x8000000b: "EV_EFI_HANDOFF_TABLES2",
	0x8000000c: "EV_EFI_VARIABLE_BOOT2", 0x8000000d: "EV_EFI_GPT_EVENT2", 0x80000010: "EV_EFI_HCRTM_EVENT",
	0x800000e0: "EV_EFI_VARIABLE_AUTHORITY", 0x800000e1: "EV_EFI_SPDM_FIRMWARE_BLOB", 0x800000e2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

// EventTypeName is TCG's name of an event type, or its number in hexadecimal.
func EventTypeName(kind uint32) string {
	if name, ok := eventTypes[kind]; ok {
		return name
	}
	return fmt.Sprintf("%#x", kind)
}
