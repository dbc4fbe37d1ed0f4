package agent_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/containerd/ttrpc"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// ttrpc's limit of a message, and the types of messages (ttrpc's PROTOCOL.md).
const (
	messageLimit = 4 << 20
	typeRequest  = 1
	typeResponse = 2
	typeData     = 3
)

// extent says whether a message comes to its end.
type extent int

const (
	whole extent = iota
	beginning
)

// frame is a message with its header: length, stream, type, flags.
func frame(length uint32, stream uint32, kind byte, payload []byte) []byte {
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), stream)
	return append(append(head, kind, 0), payload...)
}

// request is a well-formed message that asks the service for the method.
func request(service, method string, payload []byte) []byte {
	GinkgoHelper()
	body, err := proto.Marshal(&ttrpc.Request{Service: service, Method: method, Payload: payload})
	Expect(err).NotTo(HaveOccurred())
	return frame(uint32(len(body)), 1, typeRequest, body)
}

// say sends the bytes on a connection of their own and returns the status of
// the answer; closed says that there was none because the agent hung up. After
// what is only the beginning of a message, nothing more is going to come.
func (t *target) say(ctx context.Context, message []byte, beginning bool) (code codes.Code, closed bool) {
	GinkgoHelper()
	conn, err := agentapi.DialConn(ctx, t.address)
	Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	Expect(conn.SetDeadline(time.Now().Add(10 * time.Second))).To(Succeed())
	// The agent may hang up before it has heard everything.
	if _, err := conn.Write(message); err != nil {
		Expect(errors.Is(err, os.ErrDeadlineExceeded)).To(BeFalse(), "the agent neither reads nor hangs up")
		return 0, true
	}
	if beginning {
		c, ok := conn.(*net.UnixConn)
		if !ok {
			return 0, true // a connection that cannot be closed by half
		}
		Expect(c.CloseWrite()).To(Succeed())
	}
	head := make([]byte, 10)
	if _, err := io.ReadFull(conn, head); err != nil {
		Expect(errors.Is(err, os.ErrDeadlineExceeded)).To(BeFalse(), "the agent neither answers nor hangs up")
		return 0, true
	}
	body := make([]byte, binary.BigEndian.Uint32(head))
	_, err = io.ReadFull(conn, body)
	Expect(err).NotTo(HaveOccurred())
	Expect(head[8]).To(BeEquivalentTo(typeResponse))
	var r ttrpc.Response
	Expect(proto.Unmarshal(body, &r)).To(Succeed())
	return codes.Code(r.GetStatus().GetCode()), false
}

// noise is random bytes, the same in every run.
func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{'n', 'o', 'i', 's', 'e'})
	b := make([]byte, n)
	_, _ = r.Read(b) // never fails
	return b
}

// Bytes that no client sends. The control is a well-formed message, sent by the
// same means, that is answered.
var _ = Describe("A message that", func() {
	check := &pb.ExecProcessRequest{ContainerId: "none", ExecId: "none", Process: &pb.Process{Args: []string{"/bin/true"}}}
	DescribeTable("is refused or ends its own connection, and no other:", proof.Of("AGENT-MALFORMED-001"), func(ctx SpecContext, extent extent, message func() []byte) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		code, closed := t.say(ctx, request("grpc.Health", "Check", nil), false)
		Expect(closed).To(BeFalse())
		Expect(code).To(Equal(codes.OK), "the control")
		for range 3 {
			code, closed = t.say(ctx, message(), extent == beginning)
			if !closed {
				Expect(code).NotTo(Equal(codes.OK))
			}
		}
		w.testify(ctx)
		Expect(t.output(ctx, w.container, "echo alive")).To(Equal("alive\n"))
	},
		entry("64 KiB of noise", beginning, func() []byte { return noise(64 << 10) }),
		entry("5 MiB of noise", beginning, func() []byte { return noise(5 << 20) }),
		entry("zeros", beginning, func() []byte { return make([]byte, 4096) }),
		entry("half a header", beginning, func() []byte { return []byte{0, 0, 0, 9, 0} }),
		entry("a header that promises 4 GiB", beginning, func() []byte { return frame(0xffffffff, 1, typeRequest, noise(100)) }),
		entry("a header that promises more than there is", beginning, func() []byte { return frame(1000, 1, typeRequest, noise(100)) }),
		entry("one byte over the limit, all of it", whole, func() []byte {
			return frame(messageLimit+1, 1, typeRequest, bytes.Repeat([]byte{0}, messageLimit+1))
		}),
		entry("a file over the limit", whole, func() []byte {
			r := fileRequest("large", "")
			r.Data, r.FileSize = make([]byte, 5<<20), 5<<20
			b, err := proto.Marshal(r)
			Expect(err).NotTo(HaveOccurred())
			return request("grpc.AgentService", "CopyFile", b)
		}),
		entry("noise for a request", whole, func() []byte { return frame(100, 1, typeRequest, noise(100)) }),
		entry("noise for a request's payload", whole, func() []byte { return request("grpc.AgentService", "ExecProcess", noise(100)) }),
		entry("half a request's payload", whole, func() []byte {
			b, err := proto.Marshal(check)
			Expect(err).NotTo(HaveOccurred())
			return request("grpc.AgentService", "ExecProcess", b[:len(b)-3])
		}),
		entry("text that is not UTF-8", whole, func() []byte { return request("grpc.AgentService", "StartContainer", []byte{0x0a, 2, 0xff, 0xfe}) }),
		entry("an unknown service", whole, func() []byte { return request("grpc.NoService", "Check", nil) }),
		entry("an unknown method", whole, func() []byte { return request("grpc.AgentService", "Check", nil) }),
		entry("a stream of the kind that only servers open", whole, func() []byte {
			m := request("grpc.Health", "Check", nil)
			binary.BigEndian.PutUint32(m[4:], 2)
			return m
		}),
		entry("an answer that nobody asked for", beginning, func() []byte { return frame(0, 1, typeResponse, nil) }),
		entry("data of a stream that nobody opened", beginning, func() []byte { return frame(4, 7, typeData, noise(4)) }),
		entry("no service", whole, func() []byte { return request("", "", nil) }),
		entry("a method that is a path", whole, func() []byte { return request("grpc.AgentService", "../Health/Check", nil) }),
		entry("a service of the guest's own components", whole, func() []byte { return request("api.GetResourceService", "GetResource", nil) }),
	)

	It("is as large as allowed is taken", proof.Of("AGENT-MALFORMED-002"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		r := fileRequest(newID(), "")
		r.Data = make([]byte, messageLimit-4096)
		r.FileSize = int64(len(r.Data))
		_, err := t.Agent.CopyFile(ctx, r)
		Expect(err).NotTo(HaveOccurred())
	}, SpecTimeout(specTimeout))

	It("never comes keeps nobody else waiting", proof.Of("AGENT-MALFORMED-003"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		for range 200 {
			conn, err := agentapi.DialConn(ctx, t.address)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(conn.Close)
			_, err = conn.Write([]byte{0, 0})
			Expect(err).NotTo(HaveOccurred())
		}
		w.testify(ctx)
		Expect(t.output(ctx, w.container, "echo alive")).To(Equal("alive\n"))
	}, SpecTimeout(specTimeout))
})
