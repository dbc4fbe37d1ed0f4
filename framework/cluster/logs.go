package cluster

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coco-e2e/coco-e2e/framework/redact"
)

// CopyLogs copies regular files that can be read, without credentials, and goes on
// past others.
func CopyLogs(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return copyFile(p, target)
	})
}

// maxPiece is how much of a file is redacted at a time, in bytes.
const maxPiece = 16 << 20

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	return errors.Join(copyRedacted(out, in, maxPiece), out.Close())
}

// copyRedacted copies a text without credentials, in pieces of about limit bytes
// that end with a line, and not within a private key.
func copyRedacted(out io.Writer, in io.Reader, limit int) error {
	var text []byte
	for piece := make([]byte, limit); ; {
		n, err := io.ReadFull(in, piece)
		text = append(text, piece[:n]...)
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return err
		}
		end := len(text)
		if !ended {
			end = bytes.LastIndexByte(text, '\n') + 1
			if begin := bytes.LastIndex(text[:end], []byte("-----BEGIN ")); begin >= 0 && !bytes.Contains(text[begin:end], []byte("-----END ")) {
				end = begin
			}
			if end == 0 && len(text) > 4*limit { // a line that does not end
				end = len(text)
			}
		}
		if _, err := out.Write(redact.Bytes(text[:end])); err != nil || ended {
			return err
		}
		text = append([]byte(nil), text[end:]...)
	}
}
