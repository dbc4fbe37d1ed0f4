package policy

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// FuzzInput serialises whatever decodes as a request: the result is JSON with
// every field of the message, text comes back as it was, and bytes are numbers.
func FuzzInput(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.ExecProcessRequest{ContainerId: "c", Process: &pb.Process{Args: []string{"a\u2028<b>\x00"}, Capabilities: &pb.LinuxCapabilities{}}},
		&pb.WriteStreamRequest{ContainerId: "c", Data: []byte{0, 255}},
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
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, m := range []proto.Message{
			&pb.ExecProcessRequest{}, &pb.WriteStreamRequest{}, &pb.CreateContainerRequest{}, &pb.MemAgentCompactConfig{}, &pb.UpdateInterfaceRequest{},
		} {
			if proto.Unmarshal(raw, m) != nil {
				continue
			}
			got := Input(m)
			var fields map[string]any
			if err := json.Unmarshal(got, &fields); err != nil {
				t.Fatalf("%T: %v: %s", m, err, got)
			}
			all := m.ProtoReflect().Descriptor().Fields()
			for i := range all.Len() {
				if name := jsonName(all.Get(i).Name()); !has(fields, name) {
					t.Errorf("%T: no %s: %s", m, name, got)
				}
			}
			if w, ok := m.(*pb.WriteStreamRequest); ok {
				if fields["container_id"] != w.ContainerId || len(fields["data"].([]any)) != len(w.Data) {
					t.Errorf("%v became %s", w, got)
				}
			}
		}
	})
}

func has(m map[string]any, key string) bool { _, ok := m[key]; return ok }

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
