package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// layersAhead is how many layers are downloaded and decompressed while the one before is being unpacked.
	layersAhead = 2
	chunkSize   = 256 << 10
	// chunksAhead bounds what a layer has in memory: 8 MiB.
	chunksAhead = 32
)

// unpack applies the image's layers to rootfs, lowest first. It calls cancel, ctx's, when it needs no more downloads.
func unpack(ctx context.Context, cancel context.CancelFunc, image v1.Image, rootfs string) error {
	layers, err := image.Layers()
	if err != nil {
		return fmt.Errorf("layers: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(layers) {
		return fmt.Errorf("configuration: %d diff_ids for %d layers", len(config.RootFS.DiffIDs), len(layers))
	}
	tree, err := openTree(rootfs)
	if err != nil {
		return err
	}
	defer tree.close()
	streams := make([]*layerStream, len(layers))
	defer func() {
		cancel()
		for _, stream := range streams {
			stream.wait()
		}
	}()
	started := 0
	for i := range layers {
		for ; started < len(layers) && started <= i+layersAhead; started++ {
			streams[started] = startLayer(ctx, layers[started], config.RootFS.DiffIDs[started])
		}
		if err := tree.applyLayer(streams[i]); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = fmt.Errorf("%w (%w)", cause, err)
			}
			return fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	return nil
}

// layerStream is a layer's tar archive, downloaded, verified and decompressed ahead of its reader. It ends with io.EOF only
// if both digests are right, that of the blob and that of the archive.
type layerStream struct {
	chunks  chan []byte
	done    chan struct{} // closed when the download has ended; err is set before
	err     error
	current []byte
}

func startLayer(ctx context.Context, layer v1.Layer, diffID v1.Hash) *layerStream {
	stream := &layerStream{chunks: make(chan []byte, chunksAhead), done: make(chan struct{})}
	go func() {
		defer close(stream.done)
		defer close(stream.chunks)
		stream.err = stream.download(ctx, layer, diffID)
	}()
	return stream
}

func (s *layerStream) wait() {
	if s != nil {
		<-s.done
	}
}

// Read implements io.Reader.
func (s *layerStream) Read(into []byte) (int, error) {
	if len(s.current) == 0 {
		chunk, ok := <-s.chunks
		if !ok {
			<-s.done
			if s.err != nil {
				return 0, s.err
			}
			return 0, io.EOF
		}
		s.current = chunk
	}
	n := copy(into, s.current)
	s.current = s.current[n:]
	return n, nil
}

func (s *layerStream) download(ctx context.Context, layer v1.Layer, diffID v1.Hash) (err error) {
	if mediaType, err := layer.MediaType(); err != nil {
		return fmt.Errorf("media type: %w", err)
	} else if strings.HasSuffix(string(mediaType), "+encrypted") {
		return fmt.Errorf("media type %s: the simulated confidential-data-hub decrypts no images", mediaType)
	}
	if diffID.Algorithm != "sha256" {
		return fmt.Errorf("diff_id %v: want sha256", diffID)
	}
	// The library verifies the blob's size and digest when it is read to its end.
	archive, err := layer.Uncompressed()
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	sum := sha256.New()
	if err := s.pump(ctx, archive, sum); err != nil {
		return fmt.Errorf("download: %w", err)
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != diffID.Hex {
		return fmt.Errorf("digest of the archive is sha256:%s, the configuration says %v", got, diffID)
	}
	return nil
}

// pump reads the archive to its end, in chunks.
func (s *layerStream) pump(ctx context.Context, archive io.Reader, sum hash.Hash) error {
	for {
		chunk := make([]byte, chunkSize)
		n, err := fill(archive, chunk)
		if n > 0 {
			_, _ = sum.Write(chunk[:n])
			select {
			case s.chunks <- chunk[:n]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads until chunk is full. Unlike io.ReadFull it passes io.EOF on, which tells an archive's end from that of a
// truncated blob, io.ErrUnexpectedEOF.
func fill(r io.Reader, chunk []byte) (n int, err error) {
	for n < len(chunk) && err == nil {
		var more int
		more, err = r.Read(chunk[n:])
		n += more
	}
	return n, err
}
