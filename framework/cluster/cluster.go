// Package cluster names what every provider of a Kubernetes cluster offers to
// the suite: e2e-framework's provider interface, and a way to reach the nodes
// where the provider has one. It must not know how a cluster is made (its
// sub-packages do) nor what is installed on it.
package cluster

import (
	"context"
	"io"

	"sigs.k8s.io/e2e-framework/support"
)

// Provider makes a cluster and takes it away again.
type Provider interface {
	support.E2EClusterProviderWithImageLoader
	// Nodes returns the nodes that the provider can reach from outside
	// Kubernetes; none on clusters that were only handed to it.
	Nodes() []Node
	// Logs is a directory of this machine that shows each node's /var/log
	// under the node's name, or "" when there is none.
	Logs() string
}

// Node is a node as its provider reaches it, past Kubernetes: what an operator
// with a root shell on it could do.
type Node interface {
	// Name is the node's name in Kubernetes.
	Name() string
	// Exec runs argv on the node and waits. A command that ends with another
	// status than 0 is an error that carries the end of its output.
	Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error
	// Start runs argv on the node detached from the caller, with its output
	// in the file log on the node (below /var/log).
	Start(ctx context.Context, log string, argv ...string) error
	// Logs is a directory of this machine that shows the node's /var/log, or
	// "" when there is none.
	Logs() string
}

// Mount shows a file or directory of this machine, read-only, on every node.
type Mount struct {
	// Source is an absolute path on this machine.
	Source string
	// Target is an absolute path on the node.
	Target string
}
