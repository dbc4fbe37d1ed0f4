package simulation

import (
	"bufio"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/policy"
)

// LogDir is where a node keeps one directory per guest, below /var/log:
// <namespace>_<pod>_<sandbox id>.
const LogDir = "coco-sim"

// RPC is one line of a guest's agent log.
type RPC struct {
	Time time.Time `json:"time"`
	// Method is the RPC's name, Endpoint the policy rule that it asked.
	Method, Endpoint string
	// Decision is allowed, denied, error or unchecked.
	Decision    string `json:"decision"`
	ContainerID string `json:"container_id"`
	// Code is the status that the caller got.
	Code   string `json:"code"`
	Detail string `json:"detail"`
	// Why says why the policy refused the request, on Input with State; nil for
	// what it allowed. They have no values of environments and no data.
	Why   *policy.Explanation `json:"why"`
	Input json.RawMessage     `json:"input"`
	State json.RawMessage     `json:"state"`
	// Policy is the SHA-256 of the policy that refused it, PolicyText that policy
	// where the log has it.
	Policy     string `json:"policy"`
	PolicyText string `json:"policy_text"`
}

// maxLine bounds a line of an agent's log: a policy may be in it.
const maxLine = 16 << 20

// ErrNoGuestLog says that the node's logs hold nothing of such a pod.
var ErrNoGuestLog = errors.New("no guest log")

// GuestLogs is the pattern (filepath.Glob) of the directories in which the
// guests of a pod left their logs; logs is as for AgentLog.
func GuestLogs(logs, namespace, podName string) string {
	return filepath.Join(logs, "*", LogDir, namespace+"_"+podName+"_*")
}

// AgentLog reads the RPCs that the guests of a pod answered, oldest first.
// logs is a directory that shows each node's /var/log under the node's name.
func AgentLog(logs, namespace, podName string) ([]RPC, error) {
	files, err := filepath.Glob(filepath.Join(GuestLogs(logs, namespace, podName), "agent.jsonl"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w of pod %s/%s below %s", ErrNoGuestLog, namespace, podName, logs)
	}
	var out []RPC
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		s := bufio.NewScanner(f)
		s.Buffer(nil, maxLine)
		policies := map[string]string{}
		for s.Scan() {
			var r RPC
			if err := json.Unmarshal(s.Bytes(), &r); err != nil {
				f.Close()
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if r.PolicyText != "" {
				policies[r.Policy] = r.PolicyText
			}
			r.PolicyText = policies[r.Policy]
			out = append(out, r)
		}
		f.Close()
		if err := s.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}

// AttestationKeys reads the public halves of the attestation keys that the TPMs
// of a pod's guests were made with, as the host side wrote them down: quotes
// that other keys signed are not of this pod's TPM.
func AttestationKeys(logs, namespace, podName string) ([]*rsa.PublicKey, error) {
	files, err := filepath.Glob(filepath.Join(GuestLogs(logs, namespace, podName), "tee-ak.pem"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w of pod %s/%s below %s", ErrNoGuestLog, namespace, podName, logs)
	}
	keys := []*rsa.PublicKey{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("%s: no PEM block", name)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		k, ok := key.(*rsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("%s: a %T, want an RSA key", name, key)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// measuredEvent is attestation-agent's line about an event.
var measuredEvent = regexp.MustCompile(`(?m)msg="event measured".* record="?([A-Za-z0-9+/=]+)"?$`)

// EventLog is the log of what a pod's guest measured, in TCG2 format, as its
// attestation-agent logged it to the host side. Whether it is true, the TEE's
// registers say.
func EventLog(logs, namespace, podName string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(GuestLogs(logs, namespace, podName), "aa.log"))
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("%w of pod %s/%s below %s: %d guests", ErrNoGuestLog, namespace, podName, logs, len(files))
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		return nil, err
	}
	out := []byte{}
	for _, match := range measuredEvent.FindAllSubmatch(text, -1) {
		record, err := base64.StdEncoding.DecodeString(string(match[1]))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", files[0], err)
		}
		out = append(out, record...)
	}
	return out, nil
}
