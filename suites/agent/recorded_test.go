package agent_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/recording"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/guest"
)

// recordedImage is what the recorded pod ran; here ShellImage takes its place.
const recordedImage = "registry.local/busybox:1"

var _ = Describe("a recorded pod", func() {
	// Nothing in the guest may depend on the simulator's shim: these are the
	// requests of Kata's own, one for one and in its order.
	It("runs, answers and ends, driven by what Kata's own shim sent", proof.Of("AGENT-RECORDED-001"), func(ctx SpecContext) {
		needsLone("the recording brings its own init-data")
		requests, err := recording.SimplePod()
		Expect(err).NotTo(HaveOccurred())
		r := &replay{target: freshWith(ctx, recordedInitData(requests))}
		for _, q := range requests {
			// The pod VM daemon's requests are answered already: this guest runs.
			if strings.HasPrefix(q.Service, "grpc.") {
				r.send(ctx, q)
			}
		}

		By("every request is answered without an error; of waits for one process the first has the status")
		statuses := map[string][]int32{}
		output := map[string]string{}
		for _, c := range r.calls {
			if c.Method == "GetOOMEvent" {
				continue // ends with the connection
			}
			r.wait(ctx, c)
			if c.Method == "WaitProcess" && status.Code(c.err) == codes.NotFound {
				continue
			}
			Expect(c.err).NotTo(HaveOccurred(), "request %d, %s", c.Seq, c.Method)
			switch out := c.out.(type) {
			case *pb.WaitProcessResponse:
				statuses[c.process] = append(statuses[c.process], out.Status)
			case *pb.ReadStreamResponse:
				output[c.process] += string(out.Data)
			}
		}
		By("whoami says root and succeeds")
		exec := r.processOf("ExecProcess")
		Expect(output[exec]).To(Equal("root\n"))
		Expect(statuses[exec]).To(HaveExactElements(int32(0)))
		By("SIGKILL ends the container: the SIGTERM before it means nothing to the first process of a PID namespace")
		Expect(statuses).To(HaveLen(3), "sandbox, container, exec")
		delete(statuses, exec)
		for process, all := range statuses {
			Expect(all).NotTo(BeEmpty(), process)
			Expect(all).To(HaveEach(int32(128+9)), process)
		}
	}, SpecTimeout(specTimeout))
})

// replay sends recorded requests to a guest.
type replay struct {
	*target
	calls []*sent
}

// sent is a request and what became of it.
type sent struct {
	recording.Request
	// process is the container or, of an exec, the session that it is about.
	process string
	out     any
	err     error
	done    chan struct{}
}

// send sends one request, when all those are answered that were when the shim
// sent it.
func (r *replay) send(ctx context.Context, q recording.Request) {
	GinkgoHelper()
	in, out := messages(q)
	Expect(q.Into(in)).To(Succeed())
	if create, ok := in.(*pb.CreateContainerRequest); ok {
		for _, s := range create.Storages {
			s.Source = strings.Replace(s.Source, recordedImage, guest.ShellImage, 1)
		}
	}
	c := &sent{Request: q, process: processOf(in), out: out, done: make(chan struct{})}
	// The shim waited for some answers and not for others: none is asked earlier than it was.
	for _, earlier := range r.calls {
		if slices.Contains(q.Answered, earlier.Seq) {
			r.wait(ctx, earlier)
		}
	}
	if q.Method == "SignalProcess" && r.processOf("SignalProcess") == "" {
		// The pod was deleted long after it had started. Before that, its first
		// process is the runtime, for which a signal means something else.
		Eventually(ctx, func() string { return r.output(ctx, c.process, "cat /proc/1/comm") }).ShouldNot(HavePrefix("runc"))
	}
	r.calls = append(r.calls, c)
	go func() {
		defer close(c.done)
		c.err = r.Call(ctx, q.Service, q.Method, in, out)
	}()
}

func (r *replay) wait(ctx context.Context, c *sent) {
	GinkgoHelper()
	select {
	case <-c.done:
	case <-ctx.Done():
		Fail(fmt.Sprintf("request %d, %s, got no answer: %v", c.Seq, c.Method, ctx.Err()))
	}
}

// processOf is the process that the first request of a method is about.
func (r *replay) processOf(method string) string {
	for _, c := range r.calls {
		if c.Method == method {
			return c.process
		}
	}
	return ""
}

func processOf(in proto.Message) string {
	if m, ok := in.(interface{ GetExecId() string }); ok && m.GetExecId() != "" {
		return m.GetExecId()
	}
	if m, ok := in.(interface{ GetContainerId() string }); ok {
		return m.GetContainerId()
	}
	return ""
}

// messages makes an empty request and answer of a method.
func messages(q recording.Request) (in, out proto.Message) {
	GinkgoHelper()
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(q.Service))
	Expect(err).NotTo(HaveOccurred())
	method := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(q.Method))
	Expect(method).NotTo(BeNil(), "%s/%s", q.Service, q.Method)
	for into, d := range map[*proto.Message]protoreflect.MessageDescriptor{&in: method.Input(), &out: method.Output()} {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		Expect(err).NotTo(HaveOccurred())
		*into = kind.New().Interface()
	}
	return in, out
}

// recordedInitData is the init-data with which the recorded pod's VM was made.
func recordedInitData(requests []recording.Request) string {
	GinkgoHelper()
	var create hypervisorpb.CreateVMRequest
	Expect(requests[0].Into(&create)).To(Succeed())
	return create.Annotations["io.katacontainers.config.hypervisor.cc_init_data"]
}
