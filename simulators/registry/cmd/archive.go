package main

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
	"github.com/coco-e2e/coco-e2e/simulators/registry/workload"
)

type archiveOptions struct {
	out, reference    string
	binaries, files   []string
	trees, links      []string
	entrypoint, ports []string
}

func archiveCommand() *cobra.Command {
	var o archiveOptions
	cmd := &cobra.Command{
		Use: "archive", Short: "Make an image of static programs, as an archive for `ctr images import`", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return o.write() },
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "", "archive to write")
	f.StringVar(&o.reference, "reference", "", "name and tag of the image, such as coco-e2e.local/kbs:dev")
	f.StringArrayVar(&o.binaries, "binary", nil, "program as /path/here:/path/in/the/image; may be repeated")
	f.StringArrayVar(&o.files, "file", nil, "other file as /path/here:/path/in/the/image; may be repeated")
	f.StringArrayVar(&o.trees, "tree", nil, "directory with all that is in it as /path/here:/path/in/the/image; may be repeated")
	f.StringArrayVar(&o.links, "link", nil, "symbolic link as /path/in/the/image:target; may be repeated")
	f.StringArrayVar(&o.entrypoint, "entrypoint", nil, "word of the image's entrypoint; may be repeated")
	f.StringArrayVar(&o.ports, "port", nil, "port that the image says it serves, such as 8080/tcp; may be repeated")
	require(cmd, "out", "reference", "binary", "entrypoint")
	return cmd
}

func (o archiveOptions) write() error {
	tag, err := name.NewTag(o.reference, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("--reference %s: %w", o.reference, err)
	}
	tree := image.Tree{}
	for flag, pairs := range map[string][]string{"--binary": o.binaries, "--file": o.files} {
		for _, pair := range pairs {
			if err := tree.AddFrom(pair); err != nil {
				return fmt.Errorf("%s: %w", flag, err)
			}
		}
	}
	for _, pair := range o.trees {
		if err := tree.AddTree(pair); err != nil {
			return fmt.Errorf("--tree: %w", err)
		}
	}
	for _, pair := range o.links {
		link, target, ok := strings.Cut(pair, ":")
		if !ok || link == "" || target == "" {
			return fmt.Errorf("--link %q: write it as /path/in/the/image:target", pair)
		}
		tree.AddLink(link, target)
	}
	tree.AddUsers("/sbin/nologin")
	for _, dir := range []string{"dev", "proc", "run", "sys", "var/tmp"} {
		tree.AddDir(dir, 0o755)
	}
	tree.AddDir("tmp", 0o777|workload.Sticky)
	config := v1.Config{Entrypoint: o.entrypoint, WorkingDir: "/"}
	if len(o.ports) > 0 {
		config.ExposedPorts = map[string]struct{}{}
		for _, p := range o.ports {
			config.ExposedPorts[p] = struct{}{}
		}
	}
	img, err := image.New(tree, config)
	if err != nil {
		return fmt.Errorf("image %s: %w", o.reference, err)
	}
	return image.WriteArchive(o.out, tag, img)
}

func pauseBundleCommand() *cobra.Command {
	var program, out string
	cmd := &cobra.Command{
		Use: "pause-bundle", Short: "Make the bundle of the sandbox's container, for a guest image", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return workload.WritePauseBundle(out, program) },
	}
	cmd.Flags().StringVar(&program, "pause", "", "the pause program, static")
	cmd.Flags().StringVar(&out, "out", "", "directory of the bundle")
	require(cmd, "pause", "out")
	return cmd
}
