package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// dockerManifest is what older readers look for in an archive (manifest.json of `docker save`).
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// WriteArchive writes an image in the place of path, as today's `docker save` does: an OCI layout, from which `ctr images
// import` keeps the digest, with the older manifest.json beside it.
func WriteArchive(path string, tag name.Tag, img v1.Image) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("image archive: %w", err)
	}
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return fmt.Errorf("image archive: %w", err)
	}
	w := tar.NewWriter(f)
	err = errors.Join(writeImage(w, Familiar(tag)+":"+tag.TagStr(), img), w.Close(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("image archive %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

func writeImage(w *tar.Writer, full string, img v1.Image) error {
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	old := dockerManifest{Config: blobName(manifest.Config.Digest), RepoTags: []string{full}}
	for _, l := range manifest.Layers {
		old.Layers = append(old.Layers, blobName(l.Digest))
	}
	for _, put := range []func() error{
		func() error { return putJSON(w, "oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}) },
		func() error {
			return putJSON(w, "index.json", v1.IndexManifest{
				SchemaVersion: 2, MediaType: types.OCIImageIndex,
				Manifests: []v1.Descriptor{{
					MediaType: manifest.MediaType, Digest: digest, Size: int64(len(raw)), Annotations: map[string]string{NameAnnotation: full},
				}},
			})
		},
		func() error { return putJSON(w, "manifest.json", []dockerManifest{old}) },
		func() error { return put(w, blobName(digest), raw) },
		func() error { return put(w, blobName(manifest.Config.Digest), config) },
		func() error { return putLayers(w, img) },
	} {
		if err := put(); err != nil {
			return err
		}
	}
	return nil
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func putLayers(w *tar.Writer, img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return err
		}
		content, err := l.Compressed() // as it is in the manifest
		if err != nil {
			return err
		}
		all, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
		if err := put(w, blobName(digest), all); err != nil {
			return err
		}
	}
	return nil
}

func putJSON(w *tar.Writer, name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return put(w, name, text)
}

func put(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: epoch}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
