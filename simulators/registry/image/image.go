package image

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// NameAnnotation names an image of a layout, with its registry and tag: "docker.io/library/nginx:coco-e2e". containerd
// writes and reads this one.
const NameAnnotation = "io.containerd.image.name"

// DefaultPath is the search path of images that name none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// New makes an image of one layer, which is the tree. PATH is set if config has no environment.
func New(t Tree, config v1.Config) (v1.Image, error) {
	content, err := t.Archive()
	if err != nil {
		return nil, err
	}
	if config.Env == nil {
		config.Env = []string{"PATH=" + DefaultPath}
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	// Not compressed: guests unpack it anew for each pod, over a link that is as fast as memory.
	img, err := mutate.Append(base, mutate.Addendum{
		Layer: static.NewLayer(content, types.OCIUncompressedLayer), MediaType: types.OCIUncompressedLayer,
		History: v1.History{CreatedBy: "coco-e2e registry", Created: v1.Time{Time: epoch}},
	})
	if err != nil {
		return nil, fmt.Errorf("append the layer: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created, file.Config = "linux", "amd64", v1.Time{Time: epoch}, config
	return mutate.ConfigFile(img, file)
}

// Familiar is an image's name with its registry as users and containerd write it, without its tag.
func Familiar(tag name.Tag) string {
	registry := tag.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	return registry + "/" + tag.RepositoryStr()
}

// Size is the sum of an image's layers in bytes, as they are pulled.
func Size(img v1.Image) (int64, error) {
	m, err := img.Manifest()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, l := range m.Layers {
		sum += l.Size
	}
	return sum, nil
}

// AddToLayout puts an image under a name into the OCI layout at dir, which it makes when there is none. Blobs of an image
// that had the name before stay: a server that runs may still be asked for them.
func AddToLayout(dir string, tag name.Tag, img v1.Image) error {
	l, err := layout.FromPath(dir)
	if errors.Is(err, fs.ErrNotExist) {
		l, err = layout.Write(dir, empty.Index)
	}
	if err == nil {
		full := Familiar(tag) + ":" + tag.TagStr()
		err = l.ReplaceImage(img, match.Annotation(NameAnnotation, full), layout.WithAnnotations(map[string]string{NameAnnotation: full}))
	}
	if err != nil {
		return fmt.Errorf("OCI layout %s: %w", dir, err)
	}
	return nil
}
