// Command containerd-shim-coco-sim-v2 is the containerd shim of the simulated confidential runtime. containerd starts
// it; nobody else should.
package main

import (
	"context"

	"github.com/coco-e2e/coco-e2e/simulators/shim"
)

func main() { shim.Run(context.Background()) }
