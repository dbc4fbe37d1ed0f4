// Package pod_test asks whether a confidential pod behaves as a pod: what
// Kubernetes promises a user of pods, and where a pod in a VM cannot keep it,
// how it says so.
//
// It must not know what makes a pod confidential: no init-data, no policy, no
// attestation.
package pod_test

import (
	"context"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	"k8s.io/apimachinery/pkg/util/runtime"

	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// bed is what this process's specs run against.
var bed = suite.Testbed()

func TestPod(t *testing.T) {
	// What client-go says of connections that specs cut is the specs' own.
	runtime.ErrorHandlers = []runtime.ErrorHandler{func(_ context.Context, err error, message string, _ ...any) {
		GinkgoWriter.Println("client-go:", message, err)
	}}
	suite.Run(t, "pod")
}
