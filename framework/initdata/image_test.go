package initdata

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
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
		"nothing":           {nil, ErrNotImage.Error()},
		"short magic":       {[]byte("init"), ErrNotImage.Error()},
		"other magic":       {change(0, "initDATA"), ErrNotImage.Error()},
		"magic only":        {[]byte("initdata"), "read init-data image: header: unexpected EOF"},
		"short length":      {image(t)[:12], "read init-data image: header: unexpected EOF"},
		"length zero":       {change(8, "\x00"), "read init-data image: EOF"},
		"length too small":  {change(8, "\x40"), "read init-data image: unexpected EOF"},
		"length beyond end": {change(8, "\x00\x02"), "read init-data image: gzip stream: 496 bytes where the length field says 512: unexpected EOF"},
		"length beyond all": {change(8, "\x00\x00\x00\x00\x00\x00\x00\x80"), "read init-data image: length field says 9223372036854775808 bytes, limit 67108864"},
		"not gzip":          {change(16, "plain"), "read init-data image: gzip: invalid header"},
		"damaged":           {change(16+0x94-8, "\x00\x00\x00\x00"), "read init-data image: gzip: invalid checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ReadImage(bytes.NewReader(c.image)); err == nil || err.Error() != c.want {
				t.Errorf("ReadImage: %v, want %s", err, c.want)
			}
		})
	}
	if _, err := ReadImage(bytes.NewReader([]byte("other"))); !errors.Is(err, ErrNotImage) {
		t.Error("a device without the magic must give ErrNotImage")
	}
	broken := errors.New("i/o error")
	if _, err := ReadImage(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a device that cannot be read: %v", err)
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
