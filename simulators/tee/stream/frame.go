// Package stream carries TPM 2.0 commands and responses over unix-socket connections, as swtpm's data channel does and
// as a character device would: the bytes of one command, then the bytes of its response, with no framing of its own.
//
// It must not know the TPM behind it, nor judge what commands ask: it bounds sizes, takes turns, and logs what was
// asked and answered, without parameters.
package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// HeaderSize is the length of a command's and a response's header: tag, size, code.
	HeaderSize = 10
	// MaxSize is the longest command, header included, that a TPM of the PC Client profile takes.
	MaxSize = 4096

	tagNoSessions = 0x8001 // TPM_ST_NO_SESSIONS
	rcFailure     = 0x101  // TPM_RC_FAILURE
)

// FrameError says that a connection's bytes are no command; nothing after them can be understood.
type FrameError struct{ Problem string }

func (e *FrameError) Error() string { return "malformed TPM command: " + e.Problem }

// ReadCommand reads one command. It gives io.EOF if the connection ends before a command begins, and a [*FrameError]
// for a size that no command has or an end within a command.
func ReadCommand(r io.Reader) ([]byte, error) {
	command := make([]byte, HeaderSize)
	if n, err := io.ReadFull(r, command); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &FrameError{fmt.Sprintf("%d bytes, a header has %d", n, HeaderSize)}
		}
		return nil, err
	}
	size := binary.BigEndian.Uint32(command[2:])
	if size < HeaderSize || size > MaxSize {
		return nil, &FrameError{fmt.Sprintf("size field says %d bytes, allowed %d to %d", size, HeaderSize, MaxSize)}
	}
	command = append(command, make([]byte, size-HeaderSize)...)
	if n, err := io.ReadFull(r, command[HeaderSize:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &FrameError{fmt.Sprintf("%d bytes where the size field says %d", HeaderSize+n, size)}
		}
		return nil, err
	}
	return command, nil
}

// code is the third field of a header: a command's code or a response's.
func code(message []byte) uint32 {
	if len(message) < HeaderSize {
		return rcFailure
	}
	return binary.BigEndian.Uint32(message[6:])
}

// failure is the response of a TPM in failure mode.
func failure() []byte {
	response := binary.BigEndian.AppendUint16(nil, tagNoSessions)
	response = binary.BigEndian.AppendUint32(response, HeaderSize)
	return binary.BigEndian.AppendUint32(response, rcFailure)
}
