package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/simulators/registry/debian"
	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
	"github.com/coco-e2e/coco-e2e/simulators/registry/workload"
)

// recipe is how an image is made.
type recipe struct {
	name string
	make func(context.Context, debian.Cache, bool) (v1.Image, error)
}

var recipes = map[string]recipe{"nginx": {workload.NginxName, workload.Nginx}}

// built describes an image on standard output.
type built struct {
	Reference string `json:"reference"`
	Tag       string `json:"tag"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Archive   string `json:"archive,omitempty"`
}

type buildOptions struct {
	out, cache, archives string
	images               []string
	refresh              bool
}

func buildCommand() *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use: "build", Short: "Make images from Debian's packages and describe them in JSON", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := map[string]built{}
			for _, short := range o.images {
				b, err := o.build(cmd.Context(), short)
				if err != nil {
					return err
				}
				list[short] = b
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"images": list})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "", "OCI layout to put the images into")
	f.StringVar(&o.cache, "debs-cache", "", "directory that keeps Debian's packages and the choice of them")
	f.StringVar(&o.archives, "archives", "", "directory to write archives into as well, for `ctr images import`")
	f.StringArrayVar(&o.images, "image", slices.Sorted(maps.Keys(recipes)), "image to make; may be repeated")
	f.BoolVar(&o.refresh, "refresh", false, "have apt choose packages anew, rather than take those of the last time")
	require(cmd, "out", "debs-cache")
	return cmd
}

func (o buildOptions) build(ctx context.Context, short string) (built, error) {
	r, ok := recipes[short]
	if !ok {
		return built{}, fmt.Errorf("--image %s: there is no such image; there are %v", short, slices.Sorted(maps.Keys(recipes)))
	}
	tag, err := name.NewTag(r.name)
	if err != nil {
		return built{}, err
	}
	img, err := r.make(ctx, debian.Cache{Dir: o.cache}, o.refresh)
	if err != nil {
		return built{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return built{}, err
	}
	size, err := image.Size(img)
	if err != nil {
		return built{}, err
	}
	b := built{Reference: image.Familiar(tag), Tag: tag.TagStr(), Digest: digest.String(), Size: size}
	if o.archives != "" {
		b.Archive = filepath.Join(o.archives, short+".tar")
		if err := image.WriteArchive(b.Archive, tag, img); err != nil {
			return built{}, err
		}
	}
	return b, image.AddToLayout(o.out, tag, img)
}
