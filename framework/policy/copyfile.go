package policy

import (
	"encoding/json"
	"errors"
	"unicode/utf8"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// copyFile is the input of CopyFileRequest.
type copyFile struct {
	Path          string  `json:"path"`
	FileType      string  `json:"file_type"`
	SymlinkTarget *string `json:"symlink_target"`
	FileSize      int64   `json:"file_size"`
	FileMode      uint32  `json:"file_mode"`
	DirMode       uint32  `json:"dir_mode"`
	UID           int32   `json:"uid"`
	GID           int32   `json:"gid"`
	Offset        int64   `json:"offset"`
}

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
	in := copyFile{
		Path: r.Path, FileType: "Unknown", FileSize: r.FileSize, FileMode: r.FileMode, DirMode: r.DirMode, UID: r.Uid, GID: r.Gid, Offset: r.Offset,
	}
	switch r.FileMode & typeMask {
	case typeRegular:
		in.FileType = "Regular"
	case typeDir:
		in.FileType = "Directory"
	case typeLink:
		if !utf8.Valid(r.Data) {
			return nil, errors.New("parsing CopyFileRequest for policy: invalid symlink content")
		}
		target := string(r.Data)
		in.FileType, in.SymlinkTarget = "Symlink", &target
	}
	return json.Marshal(in)
}
