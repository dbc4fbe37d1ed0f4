// Package message is what simulated SNP and TDX hardware and its guests say to each other over a device's unix socket, in
// the place of Linux's ioctls: frames in the shape of TPM commands (tag 0x8001, size, code, then the structures that the
// ioctls carry), so that one server serves all kinds of hardware.
//
// It must not know what reports mean.
package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Requests, by their frames' codes. Sizes are in bytes.
const (
	// SNPReport asks for a report: struct snp_report_req (include/uapi/linux/sev-guest.h), 96. The answer is struct
	// snp_report_resp's data: status (4), report_size (4), reserved (24), the report, and after it the table of
	// certificates that SNP_GET_EXT_REPORT gives (GHCB specification, "SNP Extended Guest Request").
	SNPReport = 0x5300
	// TDXReport asks for a TDREPORT: report data (64), as TDX_CMD_GET_REPORT0 (include/uapi/linux/tdx-guest.h). The
	// answer has 1024.
	TDXReport = 0x5401
	// TDXQuote asks the host for a quote: a TDREPORT (1024), as TDG.VP.VMCALL<GetQuote>. The answer is the quote.
	TDXQuote = 0x5404
	// TDXExtend extends a runtime measurement register: index (4), SHA-384 digest (48), as TDG.MR.RTMR.EXTEND. The
	// answer is empty.
	TDXExtend = 0x5405
	// TDXEventLog asks for the firmware's event log: nothing. The answer is what the ACPI table CCEL points to.
	TDXEventLog = 0x5406
)

// OK is the code of an answer that is no error; another one's body is a text.
const OK = 0

const (
	headerSize = 10
	tag        = 0x8001
	maxSize    = 64 << 10
)

// Frame puts a header before a body.
func Frame(code uint32, body []byte) []byte {
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, headerSize+len(body)), tag)
	frame = binary.BigEndian.AppendUint32(frame, uint32(headerSize+len(body)))
	return append(binary.BigEndian.AppendUint32(frame, code), body...)
}

// Parse takes a whole frame apart.
func Parse(frame []byte) (code uint32, body []byte, err error) {
	if len(frame) < headerSize || binary.BigEndian.Uint32(frame[2:]) != uint32(len(frame)) {
		return 0, nil, errors.New("malformed frame")
	}
	return binary.BigEndian.Uint32(frame[6:]), frame[headerSize:], nil
}

// Call sends a request and gives the answer's body.
func Call(stream io.ReadWriter, code uint32, body []byte) ([]byte, error) {
	if _, err := stream.Write(Frame(code, body)); err != nil {
		return nil, err
	}
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(stream, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > maxSize {
		return nil, fmt.Errorf("answer: size field says %d bytes, allowed %d to %d", size, headerSize, maxSize)
	}
	answer := make([]byte, size-headerSize)
	if _, err := io.ReadFull(stream, answer); err != nil {
		return nil, err
	}
	if status := binary.BigEndian.Uint32(header[6:]); status != OK {
		return nil, fmt.Errorf("%s (status %d)", answer, status)
	}
	return answer, nil
}

// Serve turns a function of a request into one of frames.
func Serve(handle func(code uint32, body []byte) ([]byte, error)) func(frame []byte) ([]byte, error) {
	return func(frame []byte) ([]byte, error) {
		code, body, err := Parse(frame)
		if err != nil {
			return nil, err
		}
		answer, err := handle(code, body)
		if err != nil {
			return Frame(1, []byte(err.Error())), nil
		}
		return Frame(OK, answer), nil
	}
}
