package pod

import (
	"fmt"
	"regexp"
)

// Outcome is what became of a request that a policy may refuse.
type Outcome int

// A refusal has three outcomes, not two: a request that failed for another
// reason than the policy proves nothing.
const (
	// Inconclusive: it failed, and the text does not say that the policy did it.
	Inconclusive Outcome = iota
	// Allowed: it was carried out.
	Allowed
	// Refused: the guest's agent refused it because of its policy.
	Refused
	// Undefined: the agent's policy has no rule for it, or the rule could not
	// be evaluated. Also a rejection, but not the policy's decision.
	Undefined
)

func (o Outcome) String() string {
	return [...]string{"inconclusive", "allowed", "refused by policy", "rejected by an undefined or broken policy rule"}[o]
}

// Denial is a parsed refusal.
type Denial struct {
	Outcome Outcome
	// Endpoint is the policy's rule, for example ExecProcessRequest.
	Endpoint string
	// Code is the agent's status code where the text names it, for example
	// PermissionDenied; "" where containerd or the kubelet dropped it.
	Code string
	// Text is the whole text, as the user sees it.
	Text string
}

// The texts are the agent's (Kata 4.1, src/agent/policy/src/policy.rs); the
// code stands before them in what the Go shim makes of an exec's error.
var (
	blocked   = regexp.MustCompile(`\b([A-Z][A-Za-z]+(?:Request|Config)) is blocked by policy`)
	undefined = regexp.MustCompile(`\b([A-Z][A-Za-z]+(?:Request|Config)): internal error`)
	codeText  = regexp.MustCompile(`code = ([A-Za-z]+) desc = \\?"`)
)

// ParseDenial reads the text of an error or an event.
func ParseDenial(text string) Denial {
	d := Denial{Text: text}
	if m := blocked.FindStringSubmatch(text); m != nil {
		d.Outcome, d.Endpoint = Refused, m[1]
	} else if m := undefined.FindStringSubmatch(text); m != nil {
		d.Outcome, d.Endpoint = Undefined, m[1]
	}
	if d.Outcome != Inconclusive {
		if m := codeText.FindStringSubmatch(text); m != nil {
			d.Code = m[1]
		}
	}
	return d
}

// Classify tells what became of an exec from what Exec returned.
func Classify(r Result, err error) Denial {
	if err == nil {
		return Denial{Outcome: Allowed, Text: fmt.Sprintf("exit code %d, stdout %q, stderr %q", r.ExitCode, r.Stdout, r.Stderr)}
	}
	return ParseDenial(err.Error())
}
