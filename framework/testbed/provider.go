package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
	"github.com/coco-e2e/coco-e2e/framework/cluster/kind"
	"github.com/coco-e2e/coco-e2e/framework/cluster/local"
	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
)

// Providers of clusters.
const (
	Local = "local"
	Kind  = "kind"
	// Existing is a cluster that is there already.
	Existing = "existing"
)

// ChooseProvider fills in the provider where CLUSTER names none: kind where a
// container engine answers and kind's node image can be had, else local. It
// says which, and why.
func ChooseProvider(ctx context.Context, o *Options) {
	if o.Provider != "" {
		return
	}
	o.Provider = Local
	engine, err := kind.DetectEngine(ctx)
	if err != nil {
		o.Progress.Printf("cluster: local (%v); CLUSTER=kind|local chooses", err)
		return
	}
	image := os.Getenv("KIND_IMAGE")
	if image == "" {
		if image, err = engine.PublishedImage(ctx); err != nil {
			o.Progress.Printf("cluster: local (%s answers, but kind's node image cannot be had: %v); CLUSTER=kind uses the local provider's image", engine, err)
			return
		}
	}
	o.Provider = Kind
	o.Progress.Printf("cluster: kind on %s, with %s; CLUSTER=kind|local chooses", engine, image)
}

// bringUp makes the cluster and puts the simulated TEE on it.
func bringUp(ctx context.Context, o Options, img *node.Image, parts *simulation.Parts) (cluster.Provider, error) {
	if o.Provider == Kind {
		return bringUpKind(ctx, o, img, parts)
	}
	return bringUpLocal(ctx, o, img, parts)
}

// bringUpLocal shows the nodes what the simulated TEE needs before they start.
func bringUpLocal(ctx context.Context, o Options, img *node.Image, parts *simulation.Parts) (cluster.Provider, error) {
	c, err := local.New(local.Options{Name: o.Name, Nodes: o.Nodes, StateRoot: o.ClustersDir(), Image: img, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	if err := c.Reserve(); err != nil {
		return nil, err
	}
	if err := parts.Prepare(c, filepath.Join(o.ClustersDir(), o.Name, "simulation"), o.Shim); err != nil {
		return nil, err
	}
	if _, err := c.Create(ctx); err != nil {
		return nil, err
	}
	return c, o.Progress.Do("simulated TEE: registry and pod VM daemons", func() error { return parts.StartNodes(ctx, c, o.Shim) })
}

// bringUpKind installs the simulated TEE as on any cluster, with a DaemonSet.
func bringUpKind(ctx context.Context, o Options, img *node.Image, parts *simulation.Parts) (cluster.Provider, error) {
	engine, err := kind.DetectEngine(ctx)
	if err != nil {
		return nil, fmt.Errorf("CLUSTER=kind: %w; start one, or use CLUSTER=local", err)
	}
	k := kind.Options{Name: o.Name, Nodes: o.Nodes, StateRoot: o.ClustersDir(), Engine: engine, NodeImage: os.Getenv("KIND_IMAGE"), Own: img, Progress: o.Progress}
	if k.NodeImage == "" {
		if k.NodeImage, err = engine.PublishedImage(ctx); err != nil {
			o.Progress.Printf("kind: %v; the local provider's node image serves", err)
		}
	}
	archive, err := (&simulation.Builder{Root: o.Root, Cache: filepath.Join(o.Cache, "simulation"), Progress: o.Progress}).DeployArchive(ctx, parts)
	if err != nil {
		return nil, err
	}
	c, err := kind.New(k)
	if err != nil {
		return nil, err
	}
	if err := simulation.AddShim(c, filepath.Join(o.Cache, "simulation", "kata-"+o.Name), o.Shim); err != nil {
		return nil, err
	}
	if _, err := c.Create(ctx); err != nil {
		return nil, err
	}
	return c, o.Progress.Do("simulated TEE: DaemonSet", func() error { return simulation.Deploy(ctx, c, archive, o.Shim) })
}

// open returns the running cluster that h describes.
func open(h Handle) (cluster.Provider, error) {
	switch h.Provider {
	case Local:
		return local.Open(h.StateRoot, h.Name)
	case Kind:
		return kind.Open(h.StateRoot, h.Name)
	case Existing:
		return existing.Open(h.Kubeconfig)
	}
	return nil, fmt.Errorf("testbed %s: unknown provider %q", h.Name, h.Provider)
}

// Clusters are the names of the clusters whose state o's cache keeps.
func Clusters(o Options) ([]string, error) { return local.List(o.ClustersDir()) }

// Down removes the cluster that o names, or what is left of it.
func Down(ctx context.Context, o Options) error {
	h, err := readHandle(o)
	// A KBS in the cluster is reached as long as that is there. One that is gone
	// does not keep the cluster.
	restored := restoreKBS(ctx, h)
	if err == nil && h != nil && h.Provider == Existing {
		return errors.Join(restored, o.Progress.Do("cluster "+o.Name+": remove what the run made", func() error { return downExisting(ctx, *h) }))
	}
	return errors.Join(restored, o.Progress.Do("cluster "+o.Name+": remove", func() error {
		c, err := whatIsLeft(o)
		if err != nil {
			return err
		}
		return c.Destroy(ctx)
	}))
}

// whatIsLeft opens a cluster for its removal, whatever state it is in.
func whatIsLeft(o Options) (cluster.Provider, error) {
	if kind.Is(o.ClustersDir(), o.Name) {
		return kind.Open(o.ClustersDir(), o.Name)
	}
	return local.New(local.Options{Name: o.Name, StateRoot: o.ClustersDir()})
}

// SaveLogs copies what the nodes of a cluster logged into dir, as far as it came up.
func SaveLogs(ctx context.Context, o Options, dir string) error {
	h := Handle{Provider: Local, StateRoot: o.ClustersDir(), Name: o.Name}
	if kind.Is(o.ClustersDir(), o.Name) {
		h.Provider = Kind
	}
	c, err := open(h)
	if err != nil {
		return err
	}
	return c.ExportLogs(ctx, dir)
}
