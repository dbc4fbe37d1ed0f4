package policy

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// The types of a file in its mode (inode(7)).
const (
	typeMask    = 0o170000
	typeRegular = 0o100000
	typeDir     = 0o040000
	typeLink    = 0o120000
)

// CopyFileInput is the JSON that the agent's policy sees of a CopyFile, once
// per chunk: not the message, but what it is about, without the data (Kata
// src/agent/policy, PolicyCopyFileRequest). It fails for a link whose target is
// not UTF-8, which the agent answers with INTERNAL before it asks the policy.
func CopyFileInput(r *pb.CopyFileRequest) ([]byte, error) {
	kind, target := "Unknown", ""
	switch r.FileMode & typeMask {
	case typeRegular:
		kind = "Regular"
	case typeDir:
		kind = "Directory"
	case typeLink:
		if !utf8.Valid(r.Data) {
			return nil, errors.New("parsing CopyFileRequest for policy\n\nCaused by:\n    invalid symlink content")
		}
		kind, target = "Symlink", string(r.Data)
	}
	var b bytes.Buffer
	b.WriteString(`{"path":`)
	writeString(&b, r.Path)
	fmt.Fprintf(&b, `,"file_type":"%s","symlink_target":`, kind)
	if kind == "Symlink" {
		writeString(&b, target)
	} else {
		b.WriteString("null")
	}
	fmt.Fprintf(&b, `,"file_size":%d,"file_mode":%d,"dir_mode":%d,"uid":%d,"gid":%d,"offset":%d}`, r.FileSize, r.FileMode, r.DirMode, r.Uid, r.Gid, r.Offset)
	return b.Bytes(), nil
}
