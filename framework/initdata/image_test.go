package initdata

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
)

// imageContent is, before its padding to 512 bytes, the image that python3 makes:
// b"initdata" + struct.pack("<Q", len(gz)) + gz, with gz = gzip.compress(raw, 9, mtime=0).
const imageContent = "aW5pdGRhdGGUAAAAAAAAAB+LCAAAAAAAAgM1jMEKwjAQRO/7FSGXnEyjoJSCX1JKWWtMQtNsSLZC/95W8TCXeW8Go6MS2C/iLmT1eLneJLxtqYHSUR" +
	"l91kYC9E9kHEAiaqYlyp0ppaBnmm0aJ0qv4KqeH3WAtcSDeubcNc2ynbB2rWmNgmMhM8UwbbpYR/+XjNOMzoo9icef8JU/mmYZPp4="

func image(t testing.TB) []byte {
	t.Helper()
	content, err := base64.StdEncoding.DecodeString(imageContent + strings.Repeat("=", -len(imageContent)&3))
	if err != nil {
		t.Fatal(err)
	}
	padded := make([]byte, 512)
	copy(padded, content)
	return padded
}

func TestReadImage(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"at once":          bytes.NewReader(image(t)),
		"in pieces":        iotest.OneByteReader(bytes.NewReader(image(t))),
		"on a larger disk": bytes.NewReader(append(image(t), make([]byte, 1<<20)...)),
		"without padding":  bytes.NewReader(image(t)[:16+0x94]),
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ReadImage(r); err != nil || string(got) != document {
				t.Errorf("ReadImage = %q, %v", got, err)
			}
		})
	}
}

func TestReadImageRefuses(t *testing.T) {
	change := func(at int, to string) []byte {
		changed := image(t)
		copy(changed[at:], to)
		return changed
	}
	for name, c := range map[string]struct {
		image []byte
		want  string
	}{
		"magic only":        {[]byte("initdata"), "header: unexpected EOF"},
		"short length":      {image(t)[:12], "header: unexpected EOF"},
		"length zero":       {change(8, "\x00"), "gzip stream: EOF"},
		"length too small":  {change(8, "\x40"), "gzip stream: unexpected EOF"},
		"device too small":  {image(t)[:100], "gzip stream: the device ends after 84 bytes where the length field says 148: unexpected EOF"},
		"length beyond end": {change(8, "\x00\x02"), "gzip stream: the device ends after 496 bytes where the length field says 512: unexpected EOF"},
		"length beyond all": {change(8, "\x00\x00\x00\x00\x00\x00\x00\x80"), "length: the field says 9223372036854775808 bytes, the limit is 4194304"},
		"big-endian length": {change(8, "\x00\x00\x00\x00\x00\x00\x00\x94"), "length: the field says 10664523917613334528 bytes, the limit is 4194304"},
		"not gzip":          {change(16, "plain"), "gzip stream: gzip: invalid header"},
		"damaged":           {change(16+0x94-8, "\x00\x00\x00\x00"), "gzip stream: gzip: invalid checksum"},
		"bomb":              {bomb(t), "gzip stream: init-data is longer than 4128768 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadImage(bytes.NewReader(c.image))
			var typed *ImageError
			if !errors.As(err, &typed) || err.Error() != "read init-data image: "+c.want+"; write the image again" {
				t.Errorf("ReadImage: %v, want %s", err, c.want)
			}
		})
	}
	for name, device := range map[string][]byte{
		"nothing": nil, "short magic": []byte("init"), "other magic": change(0, "initDATA"), "other": []byte("some other disk"),
	} {
		if _, err := ReadImage(bytes.NewReader(device)); !errors.Is(err, ErrNotImage) {
			t.Errorf("%s: %v, want ErrNotImage: the agent looks at the next device", name, err)
		}
	}
	broken := errors.New("i/o error")
	if _, err := ReadImage(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a device that cannot be read: %v", err)
	}
}

// bomb is an image with a valid length field whose stream is longer than any document may be.
func bomb(t testing.TB) []byte {
	t.Helper()
	stream, err := compress(make([]byte, MaxSize+1))
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.LittleEndian.AppendUint64([]byte("initdata"), uint64(len(stream))), stream...)
}

// The agent's decoder stops after the first gzip member; what follows, within the stated length or not, is not read.
func TestReadImageTakesTheFirstMember(t *testing.T) {
	member := image(t)[16 : 16+0x94]
	device := append(append(binary.LittleEndian.AppendUint64([]byte("initdata"), 2*0x94), member...), member...)
	if got, err := ReadImage(bytes.NewReader(device)); err != nil || string(got) != document {
		t.Errorf("two members: %q, %v", got, err)
	}
	copy(device[16+0x94:], "no gzip at all")
	if got, err := ReadImage(bytes.NewReader(device)); err != nil || string(got) != document {
		t.Errorf("something after the first: %q, %v", got, err)
	}
}

// The image is taken apart by the system's own tools.
func TestWriteImageForOtherTools(t *testing.T) {
	var out bytes.Buffer
	if err := WriteImage(&out, []byte(document)); err != nil {
		t.Fatal(err)
	}
	written := out.Bytes()
	length := int(written[8]) | int(written[9])<<8 // a few hundred bytes at most
	if string(written[:8]) != "initdata" || !bytes.Equal(written[10:16], make([]byte, 6)) || len(written) != 512 ||
		length > 512-16 || len(bytes.Trim(written[16+length:], "\x00")) != 0 {
		t.Fatalf("layout: % x", written)
	}
	gunzip := exec.Command("gzip", "-dc")
	gunzip.Stdin = bytes.NewReader(written[16 : 16+length])
	got, err := gunzip.Output()
	if err != nil || string(got) != document {
		t.Errorf("gzip -dc: %q, %v", got, err)
	}
}

func TestWriteImage(t *testing.T) {
	for _, size := range []int{0, 1, 400, 5000, 1 << 20} {
		raw := []byte(strings.Repeat("# comment\n", size/10+1)[:size])
		var out bytes.Buffer
		if err := WriteImage(&out, raw); err != nil {
			t.Fatal(err)
		}
		if out.Len()%512 != 0 || !bytes.HasPrefix(out.Bytes(), []byte("initdata")) {
			t.Errorf("%d bytes of init-data: image of %d bytes", size, out.Len())
		}
		if back, err := ReadImage(&out); err != nil || !bytes.Equal(back, raw) {
			t.Errorf("%d bytes came back as %d, %v", size, len(back), err)
		}
	}
	broken := errors.New("disk full")
	if err := WriteImage(failingWriter{broken}, []byte(document)); !errors.Is(err, broken) {
		t.Errorf("WriteImage on a full disk: %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func FuzzReadImage(f *testing.F) {
	f.Add(image(f))
	f.Add([]byte("initdata"))
	f.Add(image(f)[:40])
	f.Add([]byte("initdata\x00\x00\x00\x00\x00\x00\x00\x80"))
	f.Add(bomb(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		content, err := ReadImage(bytes.NewReader(raw))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteImage(&out, content); err != nil {
			t.Fatal(err)
		}
		if back, err := ReadImage(&out); err != nil || !bytes.Equal(back, content) {
			t.Fatalf("%q came back as %q, %v", content, back, err)
		}
	})
}
