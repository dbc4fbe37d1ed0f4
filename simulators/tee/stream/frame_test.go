package stream

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// getRandom is TPM2_GetRandom(4) as tpm2-tools sends it.
const getRandom = "80010000000c0000017b0004"

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	value, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestReadCommand(t *testing.T) {
	for name, c := range map[string]struct{ input, want, problem string }{
		"whole":           {getRandom, getRandom, ""},
		"header only":     {"80010000000a00000144", "80010000000a00000144", ""},
		"first of two":    {getRandom + "8001", getRandom, ""},
		"largest":         {"8001000010000000017b" + strings.Repeat("00", 4086), "8001000010000000017b" + strings.Repeat("00", 4086), ""},
		"one byte":        {"80", "", "1 bytes, a header has 10"},
		"short header":    {getRandom[:18], "", "9 bytes, a header has 10"},
		"size zero":       {"8001000000000000017b", "", "size field says 0 bytes, allowed 10 to 4096"},
		"size of nine":    {"8001000000090000017b", "", "size field says 9 bytes, allowed 10 to 4096"},
		"one too many":    {"8001000010010000017b", "", "size field says 4097 bytes, allowed 10 to 4096"},
		"four gigabytes":  {"8001ffffffff0000017b", "", "size field says 4294967295 bytes, allowed 10 to 4096"},
		"no parameters":   {getRandom[:20], "", "10 bytes where the size field says 12"},
		"cut parameters":  {getRandom[:22], "", "11 bytes where the size field says 12"},
		"text, not a TPM": {hex.EncodeToString([]byte("GET / HTTP/1.1\r\n")), "", "size field says 1411395360 bytes, allowed 10 to 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{
				bytes.NewReader(fromHex(t, c.input)), iotest.OneByteReader(bytes.NewReader(fromHex(t, c.input))),
			} {
				got, err := ReadCommand(r)
				var frame *FrameError
				if c.problem == "" && (err != nil || hex.EncodeToString(got) != c.want) {
					t.Errorf("ReadCommand = %x, %v", got, err)
				}
				if c.problem != "" && (!errors.As(err, &frame) || frame.Problem != c.problem) {
					t.Errorf("ReadCommand: %v, want %s", err, c.problem)
				}
			}
		})
	}
	if _, err := ReadCommand(strings.NewReader("")); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	broken := errors.New("connection reset")
	for _, before := range []string{"", getRandom[:10], getRandom[:22]} {
		r := io.MultiReader(bytes.NewReader(fromHex(t, before)), iotest.ErrReader(broken))
		if _, err := ReadCommand(r); !errors.Is(err, broken) {
			t.Errorf("broken after %d bytes: %v", len(before)/2, err)
		}
	}
}

func FuzzReadCommand(f *testing.F) {
	f.Add(fromHex(f, getRandom))
	f.Add(fromHex(f, "8001000010010000017b"))
	f.Fuzz(func(t *testing.T, input []byte) {
		rest := bytes.NewReader(input)
		var read []byte
		for {
			command, err := ReadCommand(rest)
			if err != nil {
				break
			}
			if len(command) < HeaderSize || len(command) > MaxSize {
				t.Fatalf("a command of %d bytes", len(command))
			}
			read = append(read, command...)
		}
		if !bytes.HasPrefix(input, read) {
			t.Fatal("commands are not the bytes that came")
		}
	})
}
