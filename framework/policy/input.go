// Package policy is Kata's agent policy: the input that the agent makes of a
// request, the evaluation of a Rego policy on it, and the decision with the
// very text that the agent answers (Kata src/agent/policy and src/agent/src/rpc.rs).
//
// It must not know how requests arrive nor what is done after a decision.
package policy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Input is the JSON that the agent's policy sees of a request: field names as in
// the protocol (type is type_, as Rust cannot have that name), every field
// there, unset messages null, enums and bytes as numbers (Kata
// src/libs/protocols/build.rs). It is not protojson.
func Input(m proto.Message) []byte {
	var b bytes.Buffer
	writeMessage(&b, m.ProtoReflect())
	return b.Bytes()
}

func writeMessage(b *bytes.Buffer, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	b.WriteByte('{')
	for i := range fields.Len() {
		fd := fields.Get(i)
		if i > 0 {
			b.WriteByte(',')
		}
		if oneof := fd.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() {
			writeOneof(b, m, fd, oneof)
			continue
		}
		writeKey(b, jsonName(fd.Name()))
		writeField(b, m, fd)
	}
	b.WriteByte('}')
}

func jsonName(n protoreflect.Name) string {
	if n == "type" {
		return "type_"
	}
	return string(n)
}

// writeOneof writes a oneof as the Rust enum that it becomes; the protocol has
// one, LinuxSyscall.ErrnoRet, of a single field.
func writeOneof(b *bytes.Buffer, m protoreflect.Message, fd protoreflect.FieldDescriptor, oneof protoreflect.OneofDescriptor) {
	writeKey(b, string(oneof.Name()))
	if !m.Has(fd) {
		b.WriteString("null")
		return
	}
	b.WriteByte('{')
	writeKey(b, string(fd.Name()))
	writeValue(b, fd, m.Get(fd))
	b.WriteByte('}')
}

func writeKey(b *bytes.Buffer, name string) {
	b.WriteByte('"') // names have nothing to escape
	b.WriteString(name)
	b.WriteString(`":`)
}

func writeField(b *bytes.Buffer, m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	switch {
	case fd.IsMap():
		writeMap(b, fd, m.Get(fd).Map())
	case fd.IsList():
		list := m.Get(fd).List()
		b.WriteByte('[')
		for i := range list.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			writeValue(b, fd, list.Get(i))
		}
		b.WriteByte(']')
	case fd.HasPresence() && !m.Has(fd):
		b.WriteString("null")
	default:
		writeValue(b, fd, m.Get(fd))
	}
}

func writeMap(b *bytes.Buffer, fd protoreflect.FieldDescriptor, entries protoreflect.Map) {
	b.WriteByte('{')
	first := true
	entries.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		if !first {
			b.WriteByte(',')
		}
		first = false
		writeString(b, k.String())
		b.WriteByte(':')
		writeValue(b, fd.MapValue(), v)
		return true
	})
	b.WriteByte('}')
}

func writeValue(b *bytes.Buffer, fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		writeMessage(b, v.Message())
	case protoreflect.StringKind:
		writeString(b, v.String())
	case protoreflect.BytesKind:
		b.WriteByte('[')
		for i, c := range v.Bytes() {
			if i > 0 {
				b.WriteByte(',')
			}
			writeInt(b, int64(c))
		}
		b.WriteByte(']')
	case protoreflect.EnumKind:
		writeInt(b, int64(v.Enum()))
	case protoreflect.BoolKind:
		b.Write(strconv.AppendBool(b.AvailableBuffer(), v.Bool()))
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		b.Write(strconv.AppendUint(b.AvailableBuffer(), v.Uint(), 10))
	default: // the protocol has no floats
		writeInt(b, v.Int())
	}
}

func writeInt(b *bytes.Buffer, n int64) {
	b.Write(strconv.AppendInt(b.AvailableBuffer(), n, 10))
}

// writeString writes a string with serde_json's escapes: no others than JSON
// asks for.
func writeString(b *bytes.Buffer, s string) {
	b.WriteByte('"')
	done := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b.WriteString(s[done:i])
		done = i + 1
		if j := strings.IndexByte("\"\\\b\f\n\r\t", c); j >= 0 {
			b.WriteByte('\\')
			b.WriteByte(`"\bfnrt`[j])
		} else {
			fmt.Fprintf(b, `\u%04x`, c)
		}
	}
	b.WriteString(s[done:])
	b.WriteByte('"')
}

// jsonText is the text that serde_json makes of a document, its keys in order.
func jsonText(doc any) []byte {
	var b bytes.Buffer
	writeDocument(&b, doc)
	return b.Bytes()
}

func writeDocument(b *bytes.Buffer, doc any) {
	switch v := doc.(type) {
	case string:
		writeString(b, v)
	case []any:
		b.WriteByte('[')
		for i, x := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			writeDocument(b, x)
		}
		b.WriteByte(']')
	case map[string]any:
		b.WriteByte('{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b.WriteByte(',')
			}
			writeString(b, k)
			b.WriteByte(':')
			writeDocument(b, v[k])
		}
		b.WriteByte('}')
	case nil:
		b.WriteString("null")
	default: // booleans and numbers
		fmt.Fprint(b, v)
	}
}
