package kbs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Request is one request as the KBS simulator's audit log tells it. Tokens and
// sessions are fingerprints there, and no secret is in it.
type Request struct {
	Time time.Time `json:"time"`
	// Event is the kind: auth, attest, resource, or what administrators do.
	Event  string `json:"event"`
	Method string `json:"method"`
	Path   string `json:"path"`
	// Decision is what was granted, or the error's type.
	Decision string `json:"decision"`
	Status   int    `json:"status"`
	Session  string `json:"session"`
	TEE      string `json:"tee"`
	// EARStatus is the appraisal's: affirming, warning, contraindicated or none.
	EARStatus string `json:"ear_status"`
	// Cause is why it was refused, Why which rules of a policy did so.
	Cause string `json:"cause"`
	Why   string `json:"why"`
	// Register is the one that init-data is bound to where it is not what the
	// presented init-data makes it, Expected and Actual in hex.
	Register string `json:"register"`
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
}

// maxJournalLine bounds a line of the log, in bytes.
const maxJournalLine = 1 << 20

// ReadJournal reads the requests of a KBS simulator's log. Other lines are passed
// over: appraisals are text, and a line of more than 1 MiB is no request.
func ReadJournal(r io.Reader) ([]Request, error) {
	var out []Request
	lines, long := bufio.NewReaderSize(r, maxJournalLine), false
	for {
		line, more, err := lines.ReadLine()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("KBS log: %w", err)
		}
		// The pieces of a long line: all but the last say that there is more.
		piece := long || more
		long = more
		if line = bytes.TrimSpace(line); piece || len(line) == 0 || line[0] != '{' {
			continue
		}
		var entry struct {
			Message string `json:"msg"`
			Request
		}
		if json.Unmarshal(line, &entry) == nil && entry.Message == "request" {
			out = append(out, entry.Request)
		}
	}
}

// Explain tells where handshakes stopped: for each refusal the step (auth, attest,
// resource), the error's type, the reason, and the rules of the policy that did not
// hold. Appraisals that do not affirm are told too, though they are no refusals.
// Without any it is an error that says so.
func Explain(requests []Request) (string, error) {
	var b strings.Builder
	last, times := "", 0
	var until time.Time
	repeated := func() {
		if times > 1 {
			fmt.Fprintf(&b, "  the same %d times, until %s\n", times, until.UTC().Format(time.TimeOnly))
		}
	}
	for _, r := range requests {
		text := r.trouble()
		if text == "" {
			continue
		}
		if text == last {
			times, until = times+1, r.Time
			continue
		}
		repeated()
		last, times = text, 1
		fmt.Fprintf(&b, "%s  %s", r.Time.UTC().Format(time.TimeOnly), text)
	}
	repeated()
	if b.Len() == 0 {
		return "", errors.New("the KBS refused nothing: look at whether the guest reached it")
	}
	return b.String(), nil
}

// trouble tells of a step that was refused or that did not affirm; "" of others.
func (r *Request) trouble() string {
	step, isStep := steps[r.Event]
	if !isStep || r.Status < 400 && r.Why == "" {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: ", r.Method, r.Path)
	if r.Status < 400 {
		fmt.Fprintf(&b, "the evidence of kind %s was verified, and its appraisal is %s\n", r.TEE, r.EARStatus)
	} else {
		fmt.Fprintf(&b, "stopped at %s with %s (%d)\n", step, r.Decision, r.Status)
	}
	if r.Cause != "" {
		fmt.Fprintf(&b, "  reason: %s\n", r.Cause)
	}
	if r.Register != "" {
		fmt.Fprintf(&b, "  %s, expected: %s\n  %s, actual:   %s\n", r.Register, r.Expected, r.Register, r.Actual)
	}
	for line := range strings.SplitSeq(strings.Trim(r.Why, "\n"), "\n") {
		if line != "" {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	return b.String()
}

// steps are the steps of a handshake, in words.
var steps = map[string]string{"auth": "the start of the handshake", "attest": "attestation", "resource": "the release of the resource"}
