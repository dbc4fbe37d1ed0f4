// Package agent is the Kata agent of a simulated guest: it answers
// grpc.AgentService and grpc.Health (Kata src/libs/protocols/protos), puts every
// request before the policy, and runs containers with runc.
//
// It must not know who calls it: our shim, Kata's, or a test.
package agent

import (
	"context"
	"sync"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/coco-e2e/coco-e2e/framework/policy"
	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
)

// Version is the agent that this one stands for.
const Version = "4.1.0"

// Agent serves one guest. It is safe for concurrent use.
type Agent struct {
	policy       *policy.Engine
	replacing    sync.Mutex // held while a policy may be replaced by another
	log          *rpcLog
	cgroupParent string
	children     *children
	// events measures what changes the sandbox; nil where that is not asked for.
	events *channel.Client

	// lifecycle is held while containers are made and removed, which may take
	// as long as a pull; sandboxID and mounts belong to its holder.
	lifecycle sync.Mutex
	sandboxID string
	mounts    []string // of storages, oldest first

	// mu guards what follows, shortly: a stream or a signal must not wait for
	// another container's pull.
	mu         sync.Mutex
	containers map[string]*container

	// oom has the ids of containers that ran out of memory.
	oom chan string

	// done is closed by DestroySandbox.
	done     chan struct{}
	doneOnce sync.Once
}

// find returns a container, or nil.
func (a *Agent) find(id string) *container {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.containers[id]
}

// gate asks the policy about r and runs f when it allows it; the answer is
// logged either way.
func gate[Q proto.Message, A any](ctx context.Context, a *Agent, method string, r Q, f func(context.Context, Q) (A, error)) (A, error) {
	return gateInput(ctx, a, method, policy.Input(r), r, f)
}

func gateInput[Q proto.Message, A any](ctx context.Context, a *Agent, method string, input []byte, r Q, f func(context.Context, Q) (A, error)) (answer A, err error) {
	rpc := byMethod[method]
	line := a.log.begin(method, rpc.endpoint, r)
	d := a.policy.Eval(ctx, rpc.endpoint, input)
	if err = decisionError(d); err != nil {
		line.explain(ctx, a.policy, d, input)
		line.end(d, err)
		return answer, err
	}
	if err = a.measure(ctx, rpc, line, input); err != nil {
		line.end(d, err)
		return answer, err
	}
	if rpc.waits {
		line.end(d, nil)
		return f(ctx, r)
	}
	answer, err = f(ctx, r)
	line.end(d, err)
	return answer, err
}

// decisionError is the status that the agent answers a rejection with.
func decisionError(d policy.Decision) error { return status.Error(d.Code, d.Message) }
