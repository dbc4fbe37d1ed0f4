package agent_test

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// directoryRequest and linkRequest ask for what is no regular file.
func directoryRequest(name string) *pb.CopyFileRequest {
	return &pb.CopyFileRequest{Path: sharedDir + name, FileMode: 0o040755, DirMode: 0o750}
}

func linkRequest(name, target string) *pb.CopyFileRequest {
	return &pb.CopyFileRequest{Path: sharedDir + name, FileMode: 0o120777, DirMode: 0o750, Data: []byte(target)}
}

// chunks are a file's two halves.
func chunks(name, text string) (first, second *pb.CopyFileRequest) {
	half := len(text) / 2
	first, second = fileRequest(name, text), fileRequest(name, text)
	first.Data, second.Data, second.Offset = first.Data[:half], second.Data[half:], int64(half)
	return first, second
}

// shows what a container finds at the shared path name.
func (t *target) shows(ctx context.Context, name string) string {
	GinkgoHelper()
	t.createSandbox(ctx)
	id := newID()
	r := containerRequest(id, t.image, "/bin/sh", "-c", "cat /shared/"+name+" 2>&1 || true")
	r.OCI.Mounts = append(r.OCI.Mounts, &pb.Mount{Destination: "/shared", Source: strings.TrimSuffix(sharedDir, "/"), Type: "bind", Options: []string{"rbind", "ro"}})
	t.createAs(ctx, r)
	t.start(ctx, id)
	out := t.read(ctx, id, id)
	t.remove(ctx, id)
	return out
}

var _ = Describe("CopyFile", func() {
	const base = `"dir_mode": 488, "uid": 0, "gid": 0`
	DescribeTable("shows the policy what it is about, not the data", func(ctx SpecContext, request *pb.CopyFileRequest, input string) {
		input = "{" + fmt.Sprintf(`"path": "%s", `, request.Path) + base + ", " + input + "}"
		t := shared(ctx, on(rules("false", "CopyFileRequest")+"CopyFileRequest if input == "+input+"\n"))
		other := fileRequest("other", "text")
		_, err := t.Agent.CopyFile(ctx, other)
		Expect(err).To(beBlocked("CopyFileRequest"))
		_, err = t.Agent.CopyFile(ctx, request)
		Expect(err).NotTo(HaveOccurred())
	},
		entry("a file", proof.Of("POLICY-INPUT-002"), fileRequest("seen", "hello\n"), `"file_type": "Regular", "symlink_target": null, "file_size": 6, "file_mode": 33188, "offset": 0`),
		entry("a directory", proof.Of("POLICY-INPUT-002"), directoryRequest("seen-dir"), `"file_type": "Directory", "symlink_target": null, "file_size": 0, "file_mode": 16877, "offset": 0`),
		entry("a link", proof.Of("POLICY-INPUT-002"), linkRequest("seen-link", "hello"), `"file_type": "Symlink", "symlink_target": "hello", "file_size": 0, "file_mode": 41471, "offset": 0`),
	)

	It("asks for each piece of a file, which is there when it is whole", proof.Of("AGENT-COPYFILE-002"), func(ctx SpecContext) {
		t := shared(ctx, except(rules("false", "CopyFileRequest")+"CopyFileRequest if input.offset == 0\n", "CopyFileRequest"))
		t.createSandbox(ctx) // which removes what was copied before it
		name := newID()
		first, second := chunks(name, "first second")
		_, err := t.Agent.CopyFile(ctx, first)
		Expect(err).NotTo(HaveOccurred())
		_, err = t.Agent.CopyFile(ctx, second)
		Expect(err).To(beBlocked("CopyFileRequest"))
		Expect(t.shows(ctx, name)).To(ContainSubstring("No such file"))

		t.setPolicy(ctx, allowAll())
		_, err = t.Agent.CopyFile(ctx, second)
		Expect(err).NotTo(HaveOccurred())
		Expect(t.shows(ctx, name)).To(Equal("first second"))
	}, SpecTimeout(specTimeout))

	It("refuses a link whose target is no text before the policy is asked", proof.Of("AGENT-COPYFILE-003"), func(ctx SpecContext) {
		t := shared(ctx, except(rules("false", "CopyFileRequest"), "CopyFileRequest"))
		_, err := t.Agent.CopyFile(ctx, linkRequest(newID(), "\xff\xfe"))
		Expect(err).To(beInternal("parsing CopyFileRequest for policy"))
		_, err = t.Agent.CopyFile(ctx, linkRequest(newID(), "text"))
		Expect(err).To(beBlocked("CopyFileRequest"))
		t.setPolicy(ctx, allowAll())
		_, err = t.Agent.CopyFile(ctx, linkRequest(newID(), "text"))
		Expect(err).NotTo(HaveOccurred())
	}, SpecTimeout(specTimeout))

	DescribeTable("keeps nothing over a new sandbox:", func(ctx SpecContext, recreate bool, shown OmegaMatcher) {
		needsLone("CreateSandbox wipes the sandbox that there is")
		t := fresh(ctx, allowAll())
		t.createSandbox(ctx)
		name := newID()
		_, err := t.Agent.CopyFile(ctx, fileRequest(name, "text"))
		Expect(err).NotTo(HaveOccurred())
		Expect(t.shows(ctx, name)).To(Equal("text"))
		if recreate {
			// With the sandbox's container and its shared memory still there.
			t.sandbox = ""
			t.createSandbox(ctx)
		}
		Expect(t.shows(ctx, name)).To(shown)
		id := t.idle(ctx)
		Expect(t.output(ctx, id, "stat -f -c %T /dev/shm")).To(Equal("tmpfs\n"))
	},
		entry("a file is gone after CreateSandbox", proof.Of("AGENT-SANDBOX-003"), true, ContainSubstring("No such file")),
		entry("a file is there without", proof.Of("AGENT-SANDBOX-003"), false, Equal("text")),
	)

	DescribeTable("writes nowhere else, whatever the policy says", proof.Of("AGENT-COPYFILE-004"), func(ctx SpecContext, path string) {
		t := shared(ctx, allowAll())
		r := fileRequest(newID(), "text")
		_, err := t.Agent.CopyFile(ctx, r)
		Expect(err).NotTo(HaveOccurred())
		r.Path = path
		_, err = t.Agent.CopyFile(ctx, r)
		Expect(err).To(haveCode(codes.Internal))
		t.expectHealthy(ctx)
	},
		entry("elsewhere", "/etc/resolv.conf"),
		entry("above", sharedDir+"../../../../etc/resolv.conf"),
		entry("beside", "/run/kata-containers/shared/containersX/file"),
		entry("relative", "file"),
		entry("nowhere", ""),
	)
})
