package measure

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrReplay: a log does not lead to the quoted registers. The error is a [*ReplayError], which names an event.
var ErrReplay = errors.New("event log does not lead to the quoted register")

// ReplayError is an [ErrReplay].
type ReplayError struct {
	Register         uint32
	Replayed, Quoted []byte
	// Event is the first that does not fit; nil if no single event explains the difference.
	Event   *Event
	Problem string
}

func (e *ReplayError) Error() string {
	text := fmt.Sprintf("%v %d: it leads to %x, quoted %x: ", ErrReplay, e.Register, e.Replayed, e.Quoted)
	if e.Event != nil {
		text += fmt.Sprintf("event %d (%s", e.Event.Number, EventTypeName(e.Event.Type))
		if aael, ok := e.Event.AAEL(); ok {
			text += fmt.Sprintf(", %q", aael)
		}
		text += ") "
	}
	return text + e.Problem
}

// Unwrap gives ErrReplay.
func (e *ReplayError) Unwrap() error { return ErrReplay }

// Replay computes the bank's registers after all events, from reset. Registers without events are not in the map. A
// measured event without a digest for the bank is an error.
func (l *EventLog) Replay(bank crypto.Hash) (map[uint32][]byte, error) {
	return l.ReplayFrom(bank, nil)
}

// ReplayFrom is Replay for registers that did not start at zero, such as a TPM's PCRs 17 to 22, or that had been extended
// before the log began.
func (l *EventLog) ReplayFrom(bank crypto.Hash, initial map[uint32][]byte) (map[uint32][]byte, error) {
	registers := map[uint32][]byte{}
	for i := range l.Events {
		event := &l.Events[i]
		if event.Type == EventNoAction {
			continue
		}
		current, ok := registers[event.Register]
		if !ok {
			if current, ok = initial[event.Register]; !ok {
				current = l.reset(bank, event.Register)
			}
		}
		next, err := event.extend(bank, current)
		if err != nil {
			return nil, err
		}
		registers[event.Register] = next
	}
	return registers, nil
}

func (e *Event) extend(bank crypto.Hash, current []byte) ([]byte, error) {
	digest := e.Digest(bank)
	if digest == nil {
		return nil, fmt.Errorf("event %d (type %#x, register %d) has no digest for bank %v", e.Number, e.Type, e.Register, bank)
	}
	return Extend(bank, current, digest)
}

// reset is a register's value before the first event: zeros, but PCR 0 ends with the locality of TPM2_Startup if the log
// has one.
func (l *EventLog) reset(bank crypto.Hash, register uint32) []byte {
	value := make([]byte, bank.Size())
	for _, event := range l.Events {
		locality, ok := bytes.CutPrefix(event.Data, []byte(localityEvent))
		if register == 0 && event.Type == EventNoAction && ok && len(locality) == 1 {
			value[len(value)-1] = locality[0]
		}
	}
	return value
}

// Compare replays the log in the bank and compares with the quoted registers, by their number in the log. Registers that
// were not quoted are ignored; quoted registers must be what their events lead to, or what they were initially when there
// are none. initial has the registers that did not start at zero and may be nil. A difference is a [*ReplayError].
func (l *EventLog) Compare(bank crypto.Hash, initial, quoted map[uint32][]byte) error {
	replayed, err := l.ReplayFrom(bank, initial)
	if err != nil {
		return err
	}
	for _, register := range slices.Sorted(maps.Keys(quoted)) {
		start, ok := initial[register]
		if !ok {
			start = l.reset(bank, register)
		}
		value, measured := replayed[register]
		if !measured {
			value = start
		}
		if forged := l.forged(bank, register); forged != nil || !bytes.Equal(value, quoted[register]) {
			return l.explain(bank, register, start, value, quoted[register])
		}
	}
	return nil
}

// forged is the register's first event whose data is not what its digest is of.
func (l *EventLog) forged(bank crypto.Hash, register uint32) *Event {
	for i := range l.Events {
		event := &l.Events[i]
		if event.Register == register && event.Type != EventNoAction && event.digestIsOfData() && !event.DigestMatchesData(bank) {
			return event
		}
	}
	return nil
}

func (l *EventLog) explain(bank crypto.Hash, register uint32, start, replayed, quoted []byte) error {
	mismatch := &ReplayError{Register: register, Replayed: replayed, Quoted: quoted}
	if mismatch.Event = l.forged(bank, register); mismatch.Event != nil {
		mismatch.Problem = "has data that its digest is not of"
		return mismatch
	}
	var events []*Event
	for i := range l.Events {
		if l.Events[i].Register == register && l.Events[i].Type != EventNoAction {
			events = append(events, &l.Events[i])
		}
	}
	for i := 0; i < len(events) && len(events) <= maxExplainable; i++ {
		if bytes.Equal(fold(bank, start, events[:i]), quoted) {
			mismatch.Event, mismatch.Problem = events[i], "and what follows was logged but not measured"
			return mismatch
		}
	}
	for i := 0; i < len(events) && len(events) <= maxExplainable; i++ {
		if bytes.Equal(fold(bank, fold(bank, start, events[:i]), events[i+1:]), quoted) {
			mismatch.Event, mismatch.Problem = events[i], "was logged but not measured"
			return mismatch
		}
	}
	for i := 0; i+1 < len(events) && len(events) <= maxExplainable; i++ {
		swapped := fold(bank, start, events[:i])
		swapped = fold(bank, swapped, []*Event{events[i+1], events[i]})
		if bytes.Equal(fold(bank, swapped, events[i+2:]), quoted) {
			mismatch.Event, mismatch.Problem = events[i], "was measured after the one that follows it in the log"
			return mismatch
		}
	}
	mismatch.Problem = "a digest was changed, or something was measured that is not in the log"
	return mismatch
}

// fold extends value with events whose digests are known to be there.
func fold(bank crypto.Hash, value []byte, events []*Event) []byte {
	for _, event := range events {
		next, err := event.extend(bank, value)
		if err != nil {
			return nil
		}
		value = next
	}
	return value
}
