// Package tpm is the guest's use of a TPM 2.0: it reaches the TPM by its command stream, extends PCRs and makes evidence
// of the plain-TPM kind (guest-components attestation-agent/attester/src/tpm).
//
// It must not know whose TPM that is nor who verifies the evidence.
package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	headerSize  = 10   // tag, size, code
	maxResponse = 4096 // of a TPM of the PC Client profile
	// answerTime bounds one connection's work when the caller sets no earlier deadline. Real TPMs take up to seconds
	// for a signature.
	answerTime = 30 * time.Second
)

// ErrNoDevice says that this machine has no TPM.
var ErrNoDevice = errors.New("no TPM")

// devices are looked for in this order.
var devices = []string{"/dev/tpm0", "/dev/tpm1", "/dev/tpm2"}

// FindDevice is the path of this machine's TPM: chosen (the environment's AA_TPM_DEVICE), or else the first of /dev/tpm0,
// /dev/tpm1 and /dev/tpm2. The error is [ErrNoDevice] if there is none; a chosen one that is missing is another error,
// for someone counts on it.
func FindDevice(chosen string) (string, error) { return findDevice(chosen, devices) }

func findDevice(chosen string, candidates []string) (string, error) {
	if chosen != "" {
		if _, err := os.Stat(chosen); err != nil {
			return "", fmt.Errorf("TPM device of AA_TPM_DEVICE: %w", err)
		}
		return chosen, nil
	}
	for _, path := range candidates {
		switch _, err := os.Stat(path); {
		case err == nil:
			return path, nil
		case !errors.Is(err, os.ErrNotExist):
			return "", fmt.Errorf("TPM device: %w", err)
		}
	}
	return "", ErrNoDevice
}

// connection carries commands to a TPM and its responses back, without framing of its own: over a unix socket, as
// swtpm's data channel, or through a character device, as Linux's.
type connection struct {
	stream io.ReadWriteCloser
	// whole says that one read gives one whole response and that asking for less loses the rest, as the character
	// device does.
	whole bool
	stop  func() bool
}

// open connects to the TPM at path. The end of ctx interrupts what is under way.
func open(ctx context.Context, path string) (*connection, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("TPM device: %w", err)
	}
	switch {
	case info.Mode()&os.ModeSocket != 0:
		return dial(ctx, path)
	case info.Mode()&os.ModeCharDevice != 0:
		// A TPM's character device takes one user at a time and cannot be interrupted: the kernel bounds each command.
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("TPM device: %w", err)
		}
		return &connection{stream: file, whole: true, stop: func() bool { return true }}, nil
	default:
		return nil, fmt.Errorf("TPM device: %s is neither a unix socket nor a character device", path)
	}
}

func dial(ctx context.Context, path string) (*connection, error) {
	deadline := time.Now().Add(answerTime)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("TPM device: %w", err)
	}
	if err := socket.SetDeadline(deadline); err != nil {
		return nil, errors.Join(fmt.Errorf("TPM device: %w", err), socket.Close())
	}
	interrupt := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	return &connection{stream: socket, stop: interrupt}, nil
}

// Close ends the connection.
func (c *connection) Close() error {
	c.stop()
	return c.stream.Close()
}

// Send runs one command. It implements go-tpm's transport.TPM.
func (c *connection) Send(command []byte) ([]byte, error) {
	if _, err := c.stream.Write(command); err != nil {
		return nil, fmt.Errorf("write TPM command: %w", err)
	}
	if c.whole {
		response := make([]byte, maxResponse)
		n, err := c.stream.Read(response)
		if err != nil {
			return nil, fmt.Errorf("read TPM response: %w", err)
		}
		return checkSize(response[:n])
	}
	response := make([]byte, headerSize, 512)
	if _, err := io.ReadFull(c.stream, response); err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	size := binary.BigEndian.Uint32(response[2:])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("TPM response: size field says %d bytes, allowed %d to %d", size, headerSize, maxResponse)
	}
	response = append(response, make([]byte, size-headerSize)...)
	if _, err := io.ReadFull(c.stream, response[headerSize:]); err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	return response, nil
}

func checkSize(response []byte) ([]byte, error) {
	if len(response) < headerSize {
		return nil, fmt.Errorf("TPM response: %d bytes, a header has %d", len(response), headerSize)
	}
	if size := binary.BigEndian.Uint32(response[2:]); size != uint32(len(response)) {
		return nil, fmt.Errorf("TPM response: %d bytes where the size field says %d", len(response), size)
	}
	return response, nil
}
