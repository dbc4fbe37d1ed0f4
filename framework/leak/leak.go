// Package leak looks for secrets where none may be: in logs, events, reports and
// artefacts.
//
// Every secret of a run begins with the run's mark, so that all of them are
// found without knowing any. It must not know who made them.
package leak

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// NewMark makes a run's mark. Nothing but its secrets has it.
func NewMark() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails
	return "coco-e2e-secret-" + hex.EncodeToString(b) + "-"
}

// MarkVariable names the environment variable that has the mark of a run.
const MarkVariable = "COCO_E2E_SECRET_MARK"

// Secret makes a secret that begins with the run's mark.
func Secret() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return os.Getenv(MarkVariable) + hex.EncodeToString(b)
}

// Leak is a place where a mark was found.
type Leak struct {
	// Path of the file.
	Path string
	// Offset in bytes.
	Offset int64
	// Form in which it stands there: plain, hex, base64 …
	Form string
}

func (l Leak) String() string { return fmt.Sprintf("%s at byte %d (%s)", l.Path, l.Offset, l.Form) }

// form is a way in which a mark may be written.
type form struct {
	name string
	text []byte
}

// forms are the ways in which a secret that begins with mark may have been
// written. Base64 depends on where in the text the secret stands, and its first
// and last character on what is beside it: those are left out.
func forms(mark string) []form {
	out := []form{
		{"plain", []byte(mark)},
		{"hex", []byte(hex.EncodeToString([]byte(mark)))},
		{"HEX", []byte(strings.ToUpper(hex.EncodeToString([]byte(mark))))},
	}
	if escaped := url.QueryEscape(mark); escaped != mark {
		out = append(out, form{"URL", []byte(escaped)})
	}
	for shift := range 3 {
		padded := append(make([]byte, shift), mark...)
		encoded := base64.StdEncoding.EncodeToString(padded)
		inner := strings.TrimRight(encoded, "=")
		inner = inner[min(len(inner), (shift*8+5)/6) : len(inner)-1]
		out = append(out, form{"base64", []byte(inner)})
		if other := strings.NewReplacer("+", "-", "/", "_").Replace(inner); other != inner {
			out = append(out, form{"base64url", []byte(other)})
		}
	}
	list := []byte{}
	for _, b := range []byte(mark) {
		list = fmt.Appendf(list, "%d,", b)
	}
	return append(out, form{"numbers", list[:len(list)-1]})
}

// chunk is how much of a file is looked at together, in bytes.
const chunk = 1 << 20

// Search looks for the mark in all files below dir, and gives the first place
// in each file. Files that go away meanwhile are no error.
func Search(dir, mark string) ([]Leak, error) {
	if len(mark) < 16 {
		return nil, fmt.Errorf("mark of %d bytes: too short to be told from chance", len(mark))
	}
	wanted := forms(mark)
	var found []Leak
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		leak, err := searchFile(path, wanted)
		if leak != nil {
			found = append(found, *leak)
		}
		return err
	})
	return found, err
}

func searchFile(path string, wanted []form) (*Leak, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	longest := 0
	for _, w := range wanted {
		longest = max(longest, len(w.text))
	}
	buffer, kept, offset := make([]byte, chunk+longest), 0, int64(0)
	for {
		n, err := io.ReadFull(f, buffer[kept:])
		window := buffer[:kept+n]
		for _, w := range wanted {
			if at := bytes.Index(window, w.text); at >= 0 {
				return &Leak{path, offset + int64(at), w.name}, nil
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, nil
			}
			return nil, err
		}
		// A mark may lie across the end.
		kept = min(longest, len(window))
		offset += int64(len(window) - kept)
		copy(buffer, window[len(window)-kept:])
	}
}
