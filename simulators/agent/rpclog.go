package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/policy"
)

// rpcLog writes one JSON line per RPC: what was asked and decided, never an
// environment or data.
type rpcLog struct {
	mu sync.Mutex
	w  io.Writer
	// explained are the refusals that were, by endpoint and request: a host asks
	// some of them again and again.
	explained map[[sha256.Size]byte]bool
	// told is the digest of the policy whose text is in the log last.
	told string
}

// rpcLine is one RPC.
type rpcLine struct {
	log *rpcLog

	Time        time.Time `json:"time"`
	Method      string    `json:"method"`
	Endpoint    string    `json:"endpoint"`
	Decision    string    `json:"decision"`
	ContainerID string    `json:"container_id"`
	ExecID      string    `json:"exec_id"`
	Code        string    `json:"code"`
	Duration    int64     `json:"duration_us"`
	Detail      string    `json:"detail"`
	// Why is there for what the policy refused, with the request that it saw and
	// its state, all without values of environments and without data.
	Why   *policy.Explanation `json:"why,omitempty"`
	Input json.RawMessage     `json:"input,omitempty"`
	State json.RawMessage     `json:"state,omitempty"`
	// Policy is the SHA-256 of the policy that refused it. Its text is there too
	// when the line before told of another.
	Policy     string `json:"policy,omitempty"`
	PolicyText string `json:"policy_text,omitempty"`
}

// Explanations are for people: one for each request that is refused, however often.
// More than maxExplained in a guest, and those of requests larger than
// maxExplainedInput bytes, are left out.
const (
	maxExplained      = 50
	maxExplainedInput = 256 << 10
	// maxPolicyText is the length in bytes up to which a policy is told.
	maxPolicyText = 1 << 20
)

func (l *rpcLog) begin(method, endpoint string, r proto.Message) *rpcLine {
	line := &rpcLine{log: l, Time: time.Now(), Method: method, Endpoint: endpoint, Detail: detail(r)}
	if x, ok := r.(interface{ GetContainerId() string }); ok {
		line.ContainerID = x.GetContainerId()
	}
	if x, ok := r.(interface{ GetExecId() string }); ok {
		line.ExecID = x.GetExecId()
	}
	return line
}

func (r *rpcLine) end(d policy.Decision, err error) {
	r.Decision, r.Code = d.Outcome.String(), status.Code(err).String()
	r.Duration = time.Since(r.Time).Microseconds()
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if r.Policy == r.log.told {
		r.PolicyText = ""
	}
	b, jsonErr := json.Marshal(r)
	if jsonErr != nil {
		return
	}
	if r.PolicyText != "" {
		r.log.told = r.Policy
	}
	_, _ = r.log.w.Write(append(b, '\n')) // nobody to tell when the log cannot be written
}

// explain says why the policy refused a request. It asks the policy once more:
// a request that comes in between may have changed its state.
func (r *rpcLine) explain(ctx context.Context, e *policy.Engine, d policy.Decision, input []byte) {
	if d.Outcome == policy.Allowed || len(input) > maxExplainedInput || !r.log.mayExplain(r.Endpoint, input) {
		return
	}
	why := e.Explain(ctx, r.Endpoint, input)
	why.Redact()
	state, err := e.State(ctx)
	if err != nil {
		return
	}
	r.Why, r.Input, r.State = &why, why.RedactJSON(input), why.RedactJSON(state)
	e.Compare(ctx, &why, r.Input, r.State)
	text := e.Text()
	sum := sha256.Sum256([]byte(text))
	r.Policy = hex.EncodeToString(sum[:])
	if len(text) <= maxPolicyText {
		r.PolicyText = text
	}
}

// mayExplain says whether a refusal is new, and not one too many.
func (l *rpcLog) mayExplain(endpoint string, input []byte) bool {
	key := sha256.Sum256(append([]byte(endpoint+"\x00"), input...))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.explained == nil {
		l.explained = map[[sha256.Size]byte]bool{}
	}
	if l.explained[key] || len(l.explained) >= maxExplained {
		return false
	}
	l.explained[key] = true
	return true
}

// detail says what a request is about, shortly.
func detail(m proto.Message) string {
	switch r := m.(type) {
	case *pb.CreateContainerRequest:
		var sources []string
		for _, s := range r.Storages {
			sources = append(sources, s.Source)
		}
		return fmt.Sprintf("args %q, storages %q", r.GetOCI().GetProcess().GetArgs(), sources)
	case *pb.ExecProcessRequest:
		return strings.Join(r.GetProcess().GetArgs(), " ")
	case *pb.CopyFileRequest:
		return fmt.Sprintf("%s size %d mode %o offset %d", r.Path, r.FileSize, r.FileMode, r.Offset)
	case *pb.SignalProcessRequest:
		return fmt.Sprintf("signal %d", r.Signal)
	}
	return ""
}
