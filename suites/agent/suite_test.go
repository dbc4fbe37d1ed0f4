package agent_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/format"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/framework/guest"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// The guest comes from the environment:
//
//	AGENT_ADDRESS   the agent of a guest that runs already: unix:///path,
//	                vsock://cid:port or hvsock:///path:port. Nothing may have been
//	                created in it, and its policy has to allow everything, for a
//	                start. Unset: simulated guests are started as specs need them.
//	AGENT_IMAGE     an image that this guest can pull, with a busybox in /bin.
//	COCO_E2E_CACHE  where builds of the simulators are kept.
var (
	givenAddress = os.Getenv("AGENT_ADDRESS")
	givenImage   = os.Getenv("AGENT_IMAGE")
)

// How long things may take at most; a wait ends when what it waits for is there.
const (
	specTimeout  = 60 * time.Second
	buildTimeout = 15 * time.Minute
)

// host starts this process's guests; nil with a given guest.
var host *guest.Host

func TestAgent(t *testing.T) {
	if givenAddress == "" && os.Getuid() != 0 {
		t.Skip("SKIPPED, nothing was tested: a guest needs namespaces, mounts and cgroups; run as root or set AGENT_ADDRESS")
	}
	// A status is told by its text, not by all of protobuf's insides.
	format.RegisterCustomFormatter(func(value any) (string, bool) {
		if err, ok := value.(interface {
			error
			GRPCStatus() *status.Status
		}); ok {
			return err.Error(), true
		}
		return "", false
	})
	RegisterFailHandler(Fail)
	suite.Watched()
	RunSpecs(t, "agent")
}

var _ = SynchronizedBeforeSuite(func(ctx SpecContext) []byte {
	if givenAddress != "" {
		configuration, _ := GinkgoConfiguration()
		Expect(configuration.ParallelTotal).To(Equal(1), "AGENT_ADDRESS is one guest, whose policy specs replace: run with --procs 1")
		return nil
	}
	cache, err := guest.DefaultCache()
	Expect(err).NotTo(HaveOccurred())
	scratch, err := guest.NewScratch()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(scratch.Remove)
	// A compiled suite runs where its binary is, and is told.
	root := os.Getenv("COCO_E2E_ROOT")
	if root == "" {
		root, err = filepath.Abs("../..")
		Expect(err).NotTo(HaveOccurred())
	}
	parts, err := guest.Build(ctx, root, cache, scratch.Path)
	Expect(err).NotTo(HaveOccurred())
	text, err := json.Marshal(parts)
	Expect(err).NotTo(HaveOccurred())
	return text
}, func(ctx SpecContext, text []byte) {
	if givenAddress != "" {
		return
	}
	var parts guest.Parts
	Expect(json.Unmarshal(text, &parts)).To(Succeed())
	var err error
	host, err = guest.StartHost(ctx, parts, "tpm")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(host.Close)
}, NodeTimeout(buildTimeout))

// entry is a table's entry with the time that every spec has.
func entry(name string, args ...any) TableEntry {
	return Entry(name, append([]any{Offset(1), SpecTimeout(specTimeout)}, args...)...)
}
