package initdata

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The block device by which Kata hands init-data to a guest (src/agent/src/initdata.rs): magic, u64 little-endian
// length of the gzip stream, gzip stream, zeros up to a whole number of sectors.
const (
	imageMagic  = "initdata"
	headerSize  = len(imageMagic) + 8
	sectorSize  = 512
	maxGzipSize = MaxSize + 1<<16 // what does not compress grows a little
)

// ErrNotImage says that a device does not begin with the init-data magic. Kata's agent then looks at the next device.
var ErrNotImage = errors.New(`not an init-data image: it does not begin with "initdata"`)

// WriteImage writes the block-device image of a document's raw bytes, at most [MaxSize] of them.
func WriteImage(w io.Writer, raw []byte) error {
	if len(raw) > MaxSize {
		return fmt.Errorf("write init-data image: %w", &TooLargeError{})
	}
	compressed, err := compress(raw)
	if err != nil {
		return fmt.Errorf("write init-data image: %w", err)
	}
	image := make([]byte, 0, headerSize+len(compressed)+sectorSize)
	image = append(image, imageMagic...)
	image = binary.LittleEndian.AppendUint64(image, uint64(len(compressed)))
	image = append(image, compressed...)
	if rest := len(image) % sectorSize; rest != 0 {
		image = append(image, make([]byte, sectorSize-rest)...)
	}
	if _, err := w.Write(image); err != nil {
		return fmt.Errorf("write init-data image: %w", err)
	}
	return nil
}

// ReadImage takes a document's raw bytes out of a block-device image, as Kata's agent does: of several gzip members the
// first counts, and what follows the gzip stream, inside its stated length or after it, does not. A device without the
// magic gives [ErrNotImage], a broken image an [*ImageError]; neither the compressed nor the decompressed document may
// exceed [MaxSize].
func ReadImage(r io.Reader) ([]byte, error) {
	length, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	// Copied rather than read into a buffer of the claimed length, which nothing vouches for.
	var compressed bytes.Buffer
	if _, err := io.CopyN(&compressed, r, length); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the device ends after %d bytes where the length field says %d: %w", compressed.Len(), length, io.ErrUnexpectedEOF)
		}
		return nil, &ImageError{"gzip stream", err}
	}
	decoder, err := gzip.NewReader(&compressed)
	if err != nil {
		return nil, &ImageError{"gzip stream", err}
	}
	decoder.Multistream(false)
	raw, err := readLimited(decoder)
	if err != nil {
		return nil, &ImageError{"gzip stream", err}
	}
	return raw, nil
}

// readHeader reads magic and length.
func readHeader(r io.Reader) (int64, error) {
	var header [headerSize]byte
	switch n, err := io.ReadFull(r, header[:]); {
	case n < len(imageMagic) || string(header[:len(imageMagic)]) != imageMagic:
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, &ImageError{"header", err}
		}
		return 0, ErrNotImage
	case err != nil:
		return 0, &ImageError{"header", err}
	}
	length := binary.LittleEndian.Uint64(header[len(imageMagic):])
	if length > maxGzipSize {
		return 0, &ImageError{"length", fmt.Errorf("the field says %d bytes, the limit is %d", length, maxGzipSize)}
	}
	return int64(length), nil
}
