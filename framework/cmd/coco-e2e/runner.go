package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/guest"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// Names in a directory with everything that a run on an existing cluster needs,
// beside this program: no Go, no checkout.
const (
	prebuiltSuites = "suites"
	prebuiltGinkgo = "ginkgo"
	// runnerDir is that directory in the runner's image.
	runnerDir   = "/opt/coco-e2e"
	runnerImage = "coco-e2e.local/runner:dev"
)

// prebuilt is the directory of this program when the compiled suites are beside
// it, or "".
func prebuilt() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	dir := filepath.Dir(self)
	for _, name := range []string{prebuiltSuites, prebuiltGinkgo} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return ""
		}
	}
	return dir
}

// prebuiltBinaries are the compiled suites of dir that were asked for, linked
// into cache as Ginkgo wants them.
func prebuiltBinaries(dir, cache string, names []string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(dir, prebuiltSuites, "*.test"))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, f := range found {
		all = append(all, strings.TrimSuffix(filepath.Base(f), ".test"))
	}
	if len(names) == 0 {
		names = all
	}
	var binaries []string
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("no suite on a cluster is called %q: SUITES takes any of %s, with commas between", name, strings.Join(all, ", "))
		}
		link := filepath.Join(cache, "suites", name, name+".test")
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return nil, err
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := os.Symlink(filepath.Join(dir, prebuiltSuites, name+".test"), link); err != nil {
			return nil, err
		}
		binaries = append(binaries, link)
	}
	return binaries, nil
}

func imageCommand() *cobra.Command {
	var out string
	var load, probe bool
	cmd := &cobra.Command{
		Use: "image", Short: "Make the image that runs the suites inside a cluster, or the host probe's, as an archive", Args: cobra.NoArgs,
		Long: "Make the image that runs the suites inside a cluster, as an archive for `ctr images import`, `kind load image-archive` or `skopeo copy`:\n" +
			runnerImage + ", see manifests/chart; or, with --probe, that of the host probe (PROBE_IMAGE):\n" + simulation.ProbeImage + ".",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			what, write := "runner", writeRunnerImage
			if probe {
				what, write = "host probe", writeProbeImage
			}
			if err := o.Progress.Do(what+": image", func() error { return write(cmd.Context(), o, out) }); err != nil || !load {
				return err
			}
			return loadImages(cmd.Context(), o, out)
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use: "load ARCHIVE…", Short: "Load image archives, as docker save writes them, onto the nodes of the cluster that make up brought up", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, archives []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			return loadImages(cmd.Context(), o, archives...)
		},
	})
	cmd.Flags().BoolVar(&probe, "probe", false, "make the host probe's image, not the runner's")
	cmd.Flags().BoolVar(&load, "load", false, "load it onto the nodes of the cluster that make up brought up")
	cmd.Flags().StringVarP(&out, "output", "o", "", "archive to write (required)")
	_ = cmd.MarkFlagRequired("output")
	return cmd
}

// loadImages loads archives onto the nodes of the cluster that is kept.
func loadImages(ctx context.Context, o testbed.Options, archives ...string) error {
	t, err := testbed.Found(o)
	if err != nil {
		return err
	}
	if t == nil {
		return fmt.Errorf("load images: no cluster called %s is kept: make up first", o.Name)
	}
	for _, archive := range archives {
		if err := o.Progress.Do(filepath.Base(archive)+": load onto the nodes", func() error { return t.LoadImage(ctx, archive) }); err != nil {
			return err
		}
	}
	return nil
}

// authorities are the certificates that the image trusts for https.
const authorities = "/etc/ssl/certs/ca-certificates.crt"

func writeRunnerImage(ctx context.Context, o testbed.Options, out string) error {
	dir := filepath.Join(o.Cache, "runner")
	if err := os.MkdirAll(filepath.Join(dir, prebuiltSuites), 0o755); err != nil {
		return err
	}
	suites, err := suitesOf(o.Root, testbed.Existing)
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "coco-e2e")
	if err := build(ctx, o.Root, "build", "-o", program, "./framework/cmd/coco-e2e"); err != nil {
		return err
	}
	if err := build(ctx, o.Root, "build", "-o", filepath.Join(dir, prebuiltGinkgo), "github.com/onsi/ginkgo/v2/ginkgo"); err != nil {
		return err
	}
	args := []string{
		"--reference", runnerImage, "--entrypoint", runnerDir + "/coco-e2e",
		"--binary", program + ":" + runnerDir + "/coco-e2e", "--binary", filepath.Join(dir, prebuiltGinkgo) + ":" + runnerDir + "/" + prebuiltGinkgo,
	}
	for _, name := range suites {
		binary := filepath.Join(dir, prebuiltSuites, name+".test")
		if err := build(ctx, o.Root, "test", "-c", "-o", binary, "./suites/"+name); err != nil {
			return err
		}
		args = append(args, "--binary", binary+":"+runnerDir+"/"+prebuiltSuites+"/"+name+".test")
	}
	if _, err := os.Stat(authorities); err == nil {
		args = append(args, "--file", authorities+":"+authorities)
	}
	return archive(ctx, o, out, args...)
}

func writeProbeImage(ctx context.Context, o testbed.Options, out string) error {
	program := filepath.Join(o.Cache, "runner", "hostprobe")
	if err := guest.Static(ctx, o.Root, program, "./framework/hostprobe/cmd"); err != nil {
		return err
	}
	return archive(ctx, o, out, "--reference", simulation.ProbeImage, "--binary", program+":/hostprobe", "--entrypoint", "/hostprobe")
}

// archive writes an image to the file out; args are what the registry's program
// takes for its content.
func archive(ctx context.Context, o testbed.Options, out string, args ...string) error {
	registry := filepath.Join(o.Cache, "runner", "registry")
	if err := guest.Static(ctx, o.Root, registry, "./simulators/registry/cmd"); err != nil {
		return err
	}
	if text, err := exec.CommandContext(ctx, registry, append([]string{"archive", "--out", out}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("image %s: %w\n%s", out, err, text)
	}
	return nil
}

// build runs the go command for a program that needs no library.
func build(ctx context.Context, root, verb string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{verb, "-trimpath", "-ldflags", "-s -w"}, args...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s %s: %w\n%s", verb, args[len(args)-1], err, text)
	}
	return nil
}
