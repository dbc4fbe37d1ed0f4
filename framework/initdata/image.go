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
	maxGzipSize = MaxSize
)

// ErrNotImage says that a device does not begin with the init-data magic. Kata's agent then looks at the next device.
var ErrNotImage = errors.New(`not an init-data image: it does not begin with "initdata"`)

// WriteImage writes the block-device image of a document's raw bytes.
func WriteImage(w io.Writer, raw []byte) error {
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

// ReadImage takes a document's raw bytes out of a block-device image. A device without the magic gives [ErrNotImage];
// neither the compressed nor the decompressed document may exceed [MaxSize].
func ReadImage(r io.Reader) ([]byte, error) {
	var header [headerSize]byte
	switch n, err := io.ReadFull(r, header[:]); {
	case n < len(imageMagic) || string(header[:len(imageMagic)]) != imageMagic:
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("read init-data image: header: %w", err)
		}
		return nil, ErrNotImage
	case err != nil:
		return nil, fmt.Errorf("read init-data image: header: %w", err)
	}
	length := binary.LittleEndian.Uint64(header[len(imageMagic):])
	if length > maxGzipSize {
		return nil, fmt.Errorf("read init-data image: length field says %d bytes, limit %d", length, maxGzipSize)
	}
	// Copied rather than read into a buffer of the claimed length, which nothing vouches for.
	var compressed bytes.Buffer
	if _, err := io.CopyN(&compressed, r, int64(length)); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%d bytes where the length field says %d: %w", compressed.Len(), length, io.ErrUnexpectedEOF)
		}
		return nil, fmt.Errorf("read init-data image: gzip stream: %w", err)
	}
	decoder, err := gzip.NewReader(&compressed)
	if err != nil {
		return nil, fmt.Errorf("read init-data image: %w", err)
	}
	raw, err := readLimited(decoder)
	if err != nil {
		return nil, fmt.Errorf("read init-data image: %w", err)
	}
	return raw, nil
}
