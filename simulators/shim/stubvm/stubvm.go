// Package stubvm is a pod VM for the shim's tests: a hypervisor service and an agent that do nothing but answer, record
// what they are asked, and end processes when they are told to. It stands where the recordings of Kata's shim had
// theirs.
//
// It must not know the shim; only tests use it.
package stubvm

import (
	"context"
	"encoding/base64"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
)

// Call is a request that came.
type Call struct {
	Method  string // as CreateVM or ReadStdout
	Message proto.Message
}

// Answer replaces the stub's own answer to a method when it returns true.
type Answer func(ctx context.Context, request proto.Message) (response proto.Message, err error, handled bool)

// Program is what an exec session does.
type Program struct {
	Output string // is written first
	Echo   bool   // then input is repeated until it is closed
	Status int32  // exit status of a program that does not echo
}

// VM is a stub. Its sockets can be changed before the first call.
type VM struct {
	HypervisorSocket string
	AgentSocket      string

	mu        sync.Mutex
	answers   map[string]Answer
	programs  map[string]Program
	calls     []Call
	changed   chan struct{} // closed and replaced at every call
	processes map[string]*process
	ending    chan struct{} // closed by DestroySandbox
	agent     *listener
}

// process is one by the agent's exec id; a container's own has the container's id.
type process struct {
	output chan []byte // closed at the end
	end    chan struct{}
	once   sync.Once
	status int32
}

func newProcess() *process {
	return &process{output: make(chan []byte, 1024), end: make(chan struct{})}
}

func (p *process) exit(status int32) {
	p.once.Do(func() {
		p.status = status
		close(p.output)
		close(p.end)
	})
}

// Start serves a stub until the test ends.
func Start(t testing.TB) *VM {
	t.Helper()
	dir := t.TempDir()
	v := &VM{
		HypervisorSocket: filepath.Join(dir, "hypervisor.sock"),
		AgentSocket:      filepath.Join(dir, "agent.sock"),
		answers:          map[string]Answer{},
		programs:         map[string]Program{},
		changed:          make(chan struct{}),
		processes:        map[string]*process{},
		ending:           make(chan struct{}),
	}
	v.serve(t, v.HypervisorSocket, hypervisorpb.File_framework_agentapi_hypervisorpb_remote_proto)
	v.agent = v.serve(t, v.AgentSocket,
		agentpb.File_framework_agentapi_agentpb_agent_proto, agentpb.File_framework_agentapi_agentpb_health_proto)
	return v
}

func (v *VM) serve(t testing.TB, socket string, files ...protoreflect.FileDescriptor) *listener {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			server.RegisterService(string(service.FullName()), v.describe(service))
		}
	}
	inner, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{Listener: inner}
	go func() { _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() { server.Close() })
	return l
}

func (v *VM) describe(service protoreflect.ServiceDescriptor) *ttrpc.ServiceDesc {
	methods := map[string]ttrpc.Method{}
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		input, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
		if err != nil {
			panic(err)
		}
		output, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
		if err != nil {
			panic(err)
		}
		name := string(method.Name())
		methods[name] = func(ctx context.Context, unmarshal func(any) error) (any, error) {
			request := input.New().Interface()
			if err := unmarshal(request); err != nil {
				return nil, err
			}
			return v.handle(ctx, name, request, output.New().Interface())
		}
	}
	return &ttrpc.ServiceDesc{Methods: methods}
}

func (v *VM) handle(ctx context.Context, name string, request, empty proto.Message) (proto.Message, error) {
	v.mu.Lock()
	v.calls = append(v.calls, Call{name, request})
	close(v.changed)
	v.changed = make(chan struct{})
	answer := v.answers[name]
	v.mu.Unlock()
	if answer != nil {
		if response, err, handled := answer(ctx, request); handled {
			if response == nil {
				response = empty
			}
			return response, err
		}
	}
	response, err := v.act(ctx, name, request)
	if response == nil {
		response = empty
	}
	return response, err
}

func (v *VM) act(ctx context.Context, name string, request proto.Message) (proto.Message, error) {
	switch r := request.(type) {
	case *hypervisorpb.CreateVMRequest:
		return &hypervisorpb.CreateVMResponse{AgentSocketPath: v.AgentSocket}, nil
	case *agentpb.CheckRequest:
		return &agentpb.HealthCheckResponse{Status: agentpb.HealthCheckResponse_SERVING}, nil
	case *agentpb.CreateContainerRequest:
		v.put(r.ExecId, newProcess())
	case *agentpb.ExecProcessRequest:
		v.exec(r)
	case *agentpb.SignalProcessRequest:
		id := r.ExecId
		if id == "" {
			id = r.ContainerId
		}
		if p := v.get(id); p != nil {
			p.exit(128 + int32(r.Signal))
		}
	case *agentpb.WaitProcessRequest:
		p := v.get(r.ExecId)
		if p == nil {
			return nil, status.Error(codes.NotFound, "no such process")
		}
		select {
		case <-p.end:
			return &agentpb.WaitProcessResponse{Status: p.status}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case *agentpb.ReadStreamRequest:
		return v.read(ctx, name, r)
	case *agentpb.WriteStreamRequest:
		if p := v.get(r.ExecId); p != nil {
			p.output <- r.Data
		}
		return &agentpb.WriteStreamResponse{Len: uint32(len(r.Data))}, nil
	case *agentpb.CloseStdinRequest:
		if p := v.get(r.ExecId); p != nil {
			p.exit(0)
		}
	case *agentpb.GetOOMEventRequest:
		select {
		case <-v.ending:
		case <-ctx.Done():
		}
		return nil, status.Error(codes.Internal, "")
	case *agentpb.DestroySandboxRequest:
		close(v.ending)
	case *agentpb.StatsContainerRequest:
		return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{
			PidsStats: &agentpb.PidsStats{Current: 1},
		}}, nil
	}
	return nil, nil
}

func (v *VM) exec(r *agentpb.ExecProcessRequest) {
	p := newProcess()
	v.put(r.ExecId, p)
	v.mu.Lock()
	program := v.programs[r.Process.Args[0]]
	v.mu.Unlock()
	if program.Output != "" {
		p.output <- []byte(program.Output)
	}
	if !program.Echo {
		p.exit(program.Status)
	}
}

func (v *VM) read(ctx context.Context, name string, r *agentpb.ReadStreamRequest) (proto.Message, error) {
	p := v.get(r.ExecId)
	if p == nil {
		return nil, status.Error(codes.NotFound, "no such process")
	}
	if name == "ReadStderr" {
		select {
		case <-p.end:
		case <-ctx.Done():
		}
		return &agentpb.ReadStreamResponse{}, nil
	}
	select {
	case data := <-p.output:
		return &agentpb.ReadStreamResponse{Data: data}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (v *VM) put(id string, p *process) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.processes[id] = p
}

func (v *VM) get(id string) *process {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.processes[id]
}

// Answer changes the answer to a method while calls come; nil is the stub's own.
func (v *VM) Answer(method string, answer Answer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answers[method] = answer
}

// Install says what exec sessions with a first argument do; others end at once.
func (v *VM) Install(name string, program Program) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.programs[name] = program
}

// Exit ends a process, as if by itself.
func (v *VM) Exit(id string, status int32) { v.get(id).exit(status) }

// Crash closes the agent's socket and its connections, as the end of its process does.
func (v *VM) Crash() {
	v.agent.Close()
	v.agent.mu.Lock()
	defer v.agent.mu.Unlock()
	for _, conn := range v.agent.accepted {
		conn.Close()
	}
}

// listener remembers its connections.
type listener struct {
	net.Listener
	mu       sync.Mutex
	accepted []net.Conn
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.accepted = append(l.accepted, conn)
		l.mu.Unlock()
	}
	return conn, err
}

// Calls are the requests that came so far.
func (v *VM) Calls() []Call {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]Call(nil), v.calls...)
}

// Methods are the names of the requests that came so far.
func (v *VM) Methods() []string {
	var names []string
	for _, call := range v.Calls() {
		names = append(names, call.Method)
	}
	return names
}

// Await returns when method has been called count times.
func (v *VM) Await(t testing.TB, method string, count int) {
	t.Helper()
	for {
		v.mu.Lock()
		seen, changed := 0, v.changed
		for _, call := range v.calls {
			if call.Method == method {
				seen++
			}
		}
		v.mu.Unlock()
		if seen >= count {
			return
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatalf("%s was called %d times, not %d", method, seen, count)
		}
	}
}

// Deny answers with a policy's refusal, as the agent words it.
func Deny(request string) Answer {
	return Fail(status.Error(codes.PermissionDenied, `"`+request+` is blocked by policy: "`))
}

// Fail answers with an error.
func Fail(err error) Answer {
	return func(context.Context, proto.Message) (proto.Message, error, bool) { return nil, err, true }
}

// Fields is a message in the form of the recordings: every field under its proto name, unset messages null, bytes in
// base64, numbers as they are.
func Fields(message proto.Message) map[string]any {
	if _, ok := message.(*emptypb.Empty); ok {
		return map[string]any{}
	}
	return fields(message.ProtoReflect())
}

func fields(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	for i := range m.Descriptor().Fields().Len() {
		field := m.Descriptor().Fields().Get(i)
		out[string(field.Name())] = fieldValue(m, field)
	}
	return out
}

func fieldValue(m protoreflect.Message, field protoreflect.FieldDescriptor) any {
	value := m.Get(field)
	switch {
	case field.IsMap():
		out := map[string]any{}
		value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			out[key.String()] = scalar(value)
			return true
		})
		return out
	case field.IsList():
		out := []any{}
		for i := range value.List().Len() {
			out = append(out, scalar(value.List().Get(i)))
		}
		return out
	case field.Message() != nil && !m.Has(field):
		return nil
	}
	return scalar(value)
}

func scalar(value protoreflect.Value) any {
	switch v := value.Interface().(type) {
	case protoreflect.Message:
		return fields(v)
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	case protoreflect.EnumNumber:
		return float64(v)
	case int32:
		return float64(v)
	case int64:
		return float64(v)
	case uint32:
		return float64(v)
	case uint64:
		return float64(v)
	default:
		return v
	}
}
