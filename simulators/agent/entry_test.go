package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// frame is a ttrpc message: length, stream, type, flags, and what it carries.
func frame(stream uint32, kind, flags byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(append(b, kind, flags), payload...)
}

// request is the first frame of a call.
func request(f *testing.F, stream uint32, service, method string, m proto.Message) []byte {
	f.Helper()
	payload, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := proto.Marshal(&ttrpc.Request{Service: service, Method: method, Payload: payload, TimeoutNano: int64(time.Second)})
	if err != nil {
		f.Fatal(err)
	}
	return frame(stream, 1, 0, raw)
}

// entryPolicy allows what changes nothing outside the agent.
const entryPolicy = `package agent_policy
default WaitProcessRequest := true
default SignalProcessRequest := true
default WriteStreamRequest := true
default ReadStreamRequest := true
default CloseStdinRequest := true
default TtyWinResizeRequest := true
default StatsContainerRequest := true
default GuestDetailsRequest := true
default GetDiagnosticDataRequest := true
default OnlineCPUMemRequest := true
default MemAgentMemcgConfig := true
default AddSwapRequest := true
default ExecProcessRequest := false
`

// FuzzEntry writes bytes to the agent's socket: it answers health checks
// afterwards, to whom was there before and to whom comes later.
func FuzzEntry(f *testing.F) {
	exec := request(f, 1, agentService, "ExecProcess", &pb.ExecProcessRequest{ContainerId: "c", Process: &pb.Process{Args: []string{"ls"}}})
	read := request(f, 3, agentService, "ReadStdout", &pb.ReadStreamRequest{ContainerId: "c", Len: 1 << 31})
	f.Add(exec)
	f.Add(append(exec, read...))
	f.Add(exec[:len(exec)-3])
	f.Add(request(f, 1, healthService, "Check", &pb.CheckRequest{}))
	f.Add(request(f, 1, agentService, "NoSuchCall", &pb.CheckRequest{}))
	f.Add(request(f, 2, agentService, "WaitProcess", &pb.WaitProcessRequest{ContainerId: "c"}))
	f.Add(frame(1, 1, 0, []byte("no request")))
	f.Add(frame(1, 3, 4, []byte("data of no call")))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		address := startServer(t)
		before := dial(t, address)
		if err := pour(address, raw); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*agentapi.Client{before, dial(t, address)} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			r, err := c.Health.Check(ctx, &pb.CheckRequest{})
			cancel()
			if err != nil || r.Status != pb.HealthCheckResponse_SERVING {
				t.Errorf("health: %v, %v", r, err)
			}
		}
	})
}

// startServer serves an agent without a guest until the test ends.
func startServer(t *testing.T) string {
	t.Helper()
	a, _ := newAgent(t, entryPolicy)
	a.log.w = io.Discard
	server, err := a.server()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.WithoutCancel(t.Context()), l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, ttrpc.ErrServerClosed) {
			t.Errorf("the server ended with %v", err)
		}
	})
	return path
}

func dial(t *testing.T, path string) *agentapi.Client {
	t.Helper()
	c, err := agentapi.Dial(t.Context(), "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pour writes raw and hangs up when the server has answered what it will.
func pour(path string, raw []byte) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return err
	}
	// The server may hang up before it has read all.
	_, _ = c.Write(raw)
	_ = c.(*net.UnixConn).CloseWrite()
	_, _ = io.Copy(io.Discard, c)
	return nil
}
