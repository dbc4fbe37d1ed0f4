package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb/typespb"
)

// FuzzInput serialises whatever decodes as a request: the message can be made
// again of the result, which has every field of it and no more.
func FuzzInput(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.ExecProcessRequest{ContainerId: "c", Process: &pb.Process{Args: []string{"a\u2028<b>\x00"}, Capabilities: &pb.LinuxCapabilities{}}},
		&pb.WriteStreamRequest{ContainerId: "c", Data: []byte{0, 255}},
		&pb.MemAgentCompactConfig{Disabled: proto.Bool(false), CompactSecMax: proto.Int64(math.MinInt64), CompactForceTimes: proto.Uint64(math.MaxUint64)},
		&pb.UpdateInterfaceRequest{Interface: &typespb.Interface{IPAddresses: []*typespb.IPAddress{{Family: typespb.IPFamily_v6}}, Mtu: math.MaxUint64}},
		&pb.CreateContainerRequest{OCI: &pb.Spec{Annotations: map[string]string{"k\"": "v\\"}, Linux: &pb.Linux{Seccomp: &pb.LinuxSeccomp{
			Syscalls: []*pb.LinuxSyscall{{ErrnoRet: &pb.LinuxSyscall_Errnoret{Errnoret: 1}}},
		}}}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte{0x10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01})                   // a negative integer
	f.Add([]byte{0x38, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x0a, 0x01, 0x20}) // a large one
	types := requestTypes()
	if len(types) < 40 {
		f.Fatalf("%d types of requests", len(types))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, kind := range types {
			m := kind.New().Interface()
			if (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, m) != nil {
				continue
			}
			text := Input(m)
			decoder := json.NewDecoder(bytes.NewReader(text))
			decoder.UseNumber()
			var doc any
			if err := decoder.Decode(&doc); err != nil || decoder.More() {
				t.Fatalf("%T: %v: %s", m, err, text)
			}
			if err := sameDocument(text); err != nil {
				t.Fatalf("%T: %v: %s", m, err, text)
			}
			back := kind.New()
			if err := read(back, doc); err != nil {
				t.Fatalf("%T: %v: %s", m, err, text)
			}
			if !proto.Equal(back.Interface(), m) {
				t.Errorf("%v\nbecame %s", m, text)
			}
		}
	})
}

// sameDocument says whether a policy sees in a text what OPA reads in it.
func sameDocument(text []byte) error {
	got, err := document(text)
	var doc any
	wantErr := util.UnmarshalJSON(text, &doc)
	if (err == nil) != (wantErr == nil) {
		return fmt.Errorf("error %w, OPA's %w", err, wantErr)
	}
	if err != nil {
		return nil
	}
	want, err := ast.InterfaceToValue(doc)
	if err != nil || got.Compare(want) != 0 {
		return fmt.Errorf("%v, OPA's %v (%w)", got, want, err)
	}
	return nil
}

// FuzzDocument reads any text as OPA does.
func FuzzDocument(f *testing.F) {
	for _, text := range documents {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := sameDocument(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// documents are JSON and nearly JSON.
var documents = []string{
	`{"a":[1,-2,0,18446744073709551615],"b":{"c":null,"d":true,"e":false}}`, `{"a":1,"a":2}`, `{ "a" : [ 1 , 2 ] }`, `{"a":1.5,"b":1e3,"c":-0}`,
	`"\u00e9\n\"\\\ud83d\ude00\ud800"`, "\"\xff\"", "\"\x01\"", "\"a\x7f\u2028\"", `{}`, `[]`, `[[],{}]`, ``, `{`, `[1,]`, `{"a":1,}`, `{,}`, `[,1]`, `01`, `-`, `--1`, `+1`, `1 2`, `{}{}`,
	`nul`, `truefalse`, `{"a"}`, `{"a":}`, `{1:2}`, `"`, `"\"`, `"\x"`, strings.Repeat("[", 40) + strings.Repeat("]", 40),
}

// requestTypes are those of all RPCs.
func requestTypes() (types []protoreflect.MessageType) {
	methods := pb.File_framework_agentapi_agentpb_agent_proto.Services().ByName("AgentService").Methods()
	seen := map[protoreflect.FullName]bool{}
	for i := range methods.Len() {
		name := methods.Get(i).Input().FullName()
		kind, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err == nil && !seen[name] {
			types, seen[name] = append(types, kind), true
		}
	}
	return types
}

// read makes the message again that a document was made of: serde's rules, read
// backwards. What is missing, too much or of another form is an error.
func read(m protoreflect.Message, doc any) error {
	object, ok := doc.(map[string]any)
	all := m.Descriptor().Fields()
	if !ok || len(object) != all.Len() {
		return fmt.Errorf("%s is %v", m.Descriptor().Name(), doc)
	}
	for i := range all.Len() {
		fd := all.Get(i)
		name := string(fd.Name())
		switch {
		case name == "type":
			name = "type_"
		case name == "errnoret":
			name = "ErrnoRet"
		}
		value, there := object[name]
		if !there {
			return fmt.Errorf("no %s", fd.FullName())
		}
		if err := readField(m, fd, value); err != nil {
			return fmt.Errorf("%s: %w", fd.FullName(), err)
		}
	}
	return nil
}

func readField(m protoreflect.Message, fd protoreflect.FieldDescriptor, value any) error {
	switch {
	case fd.IsMap():
		entries, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("%v", value)
		}
		for k, v := range entries {
			x, err := readValue(m.Mutable(fd).Map().NewValue(), fd.MapValue(), v)
			if err != nil {
				return err
			}
			m.Mutable(fd).Map().Set(protoreflect.ValueOfString(k).MapKey(), x)
		}
	case fd.IsList():
		list, ok := value.([]any)
		if !ok {
			return fmt.Errorf("%v", value)
		}
		for _, v := range list {
			x, err := readValue(m.Mutable(fd).List().NewElement(), fd, v)
			if err != nil {
				return err
			}
			m.Mutable(fd).List().Append(x)
		}
	case value == nil:
		if !fd.HasPresence() {
			return errors.New("null")
		}
	case fd.Name() == "errnoret":
		inner, ok := value.(map[string]any)
		if !ok || len(inner) != 1 {
			return fmt.Errorf("%v", value)
		}
		value = inner["errnoret"]
		fallthrough
	default:
		x, err := readValue(m.NewField(fd), fd, value)
		if err != nil {
			return err
		}
		m.Set(fd, x)
	}
	return nil
}

// readValue reads one value; into is a new one of its type.
func readValue(into protoreflect.Value, fd protoreflect.FieldDescriptor, value any) (protoreflect.Value, error) {
	switch v := value.(type) {
	case bool:
		return protoreflect.ValueOfBool(v), is(fd, protoreflect.BoolKind)
	case string:
		return protoreflect.ValueOfString(v), is(fd, protoreflect.StringKind)
	case map[string]any:
		if err := is(fd, protoreflect.MessageKind); err != nil {
			return into, err
		}
		return into, read(into.Message(), v)
	case []any:
		data := make([]byte, len(v))
		for i := range v {
			n, err := strconv.ParseUint(fmt.Sprint(v[i]), 10, 8)
			if err != nil {
				return into, err
			}
			data[i] = byte(n)
		}
		return protoreflect.ValueOfBytes(data), is(fd, protoreflect.BytesKind)
	case json.Number:
		signed, err := strconv.ParseInt(string(v), 10, 64)
		unsigned, unsignedErr := strconv.ParseUint(string(v), 10, 64)
		switch fd.Kind() {
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(signed)), err
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(int32(signed)), err
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(signed), err
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(uint32(unsigned)), unsignedErr
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(unsigned), unsignedErr
		}
	}
	return into, fmt.Errorf("%v", value)
}

func is(fd protoreflect.FieldDescriptor, kind protoreflect.Kind) error {
	if fd.Kind() != kind {
		return fmt.Errorf("not a %v but a %v", fd.Kind(), kind)
	}
	return nil
}

// FuzzCopyFileInput: the result tells the request's path and nothing of its data.
func FuzzCopyFileInput(f *testing.F) {
	f.Add("/run/kata-containers/shared/containers/x", uint32(0o100644), []byte("data"), int64(0))
	f.Add("/p", uint32(0o120777), []byte("../\xff"), int64(1))
	f.Add("", uint32(0), []byte(nil), int64(-1))
	f.Fuzz(func(t *testing.T, path string, mode uint32, data []byte, offset int64) {
		if !utf8.ValidString(path) {
			t.Skip("a message's text is UTF-8")
		}
		got, err := CopyFileInput(&pb.CopyFileRequest{Path: path, FileMode: mode, Data: data, Offset: offset})
		link := mode&0o170000 == 0o120000
		if (err != nil) != (link && !utf8.Valid(data)) {
			t.Fatalf("mode %o, data %q: error %v", mode, data, err)
		}
		if err != nil {
			return
		}
		var in struct {
			Path          string
			Offset        int64
			SymlinkTarget *string `json:"symlink_target"`
		}
		if err := json.Unmarshal(got, &in); err != nil || in.Path != path || in.Offset != offset || (in.SymlinkTarget != nil) != link {
			t.Errorf("%s (%v)", got, err)
		}
		if link && *in.SymlinkTarget != string(data) {
			t.Errorf("the link to %q became one to %q", data, *in.SymlinkTarget)
		}
	})
}

// FuzzSetPolicy: no text makes the engine panic, and it answers afterwards.
func FuzzSetPolicy(f *testing.F) {
	f.Add("package agent_policy\ndefault ExecProcessRequest := true\n")
	f.Add("package agent_policy\nExecProcessRequest if { x := foo.bar(1); x }\n")
	f.Add("package agent_policy\nimport data.x as input\n")
	f.Add("package agent_policy\nExecProcessRequest := {\"allowed\": true, \"ops\": [{\"op\": \"move\", \"from\": \"\", \"path\": \"/x\"}]}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 || strings.Contains(text, "numbers.range") {
			t.Skip("a policy may take all the time that it likes")
		}
		e := New()
		err := e.SetPolicy(t.Context(), text)
		d := e.Eval(t.Context(), "ExecProcessRequest", execRequest("ls"))
		if err != nil && d.Outcome != Error {
			t.Errorf("after a policy that was refused (%v): %v", err, d.Outcome)
		}
	})
}
