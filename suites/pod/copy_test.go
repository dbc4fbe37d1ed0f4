package pod_test

import (
	"io/fs"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

func readFile(path string) string {
	GinkgoHelper()
	b, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	return string(b)
}

// tree makes a directory with what copies get wrong: nothing in a file, too
// much for one message, bytes that are no text, names with blanks, links.
func tree() string {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	Expect(os.MkdirAll(filepath.Join(dir, "deep/er and er"), 0o755)).To(Succeed())
	for name, content := range map[string][]byte{"empty": nil, "big": random(2_500_001), "deep/er and er/small": random(300)} {
		Expect(os.WriteFile(filepath.Join(dir, name), content, 0o640)).To(Succeed())
	}
	Expect(os.WriteFile(filepath.Join(dir, "deep/run"), []byte("#!/bin/sh\necho it runs\n"), 0o755)).To(Succeed())
	Expect(os.Symlink("../big", filepath.Join(dir, "deep/link"))).To(Succeed())
	return dir
}

// contents tells a tree's files by name: modes and sums, and where links lead.
func contents(dir string) map[string]string {
	GinkgoHelper()
	out := map[string]string{}
	Expect(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		Expect(err).NotTo(HaveOccurred())
		if d.Type() == fs.ModeSymlink {
			out[name], err = os.Readlink(path)
			return err
		}
		i, err := d.Info()
		Expect(err).NotTo(HaveOccurred())
		out[name] = i.Mode().String() + " " + sum([]byte(readFile(path)))
		return nil
	})).To(Succeed())
	return out
}

var _ = Describe("cp", Label("pod"), func() {
	It("copies files and directories into the pod and out of it, intact", proof.Of("POD-COPY-001"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "copy")
		src := tree()
		Expect(bed.Pods.CopyTo(ctx, os.DirFS(src), ns, "copy", "", "/tmp/in/side")).To(Succeed())
		Expect(shell(ctx, ns, "copy", "/tmp/in/side/deep/run; sha256sum </tmp/in/side/deep/link")).To(HavePrefix("it runs\n" + sum([]byte(readFile(filepath.Join(src, "big"))))))
		By("a directory comes back")
		dst := GinkgoT().TempDir()
		Expect(bed.Pods.CopyFrom(ctx, ns, "copy", "", "/tmp/in/side", dst)).To(Succeed())
		Expect(contents(filepath.Join(dst, "side"))).To(Equal(contents(src)))
		By("one file comes back")
		Expect(bed.Pods.CopyFrom(ctx, ns, "copy", "", "/tmp/in/side/big", dst)).To(Succeed())
		Expect(contents(dst)).To(HaveKeyWithValue("big", contents(src)["big"]))
		By("what is not there is an error")
		Expect(bed.Pods.CopyFrom(ctx, ns, "copy", "", "/tmp/nothing", dst)).To(MatchError(ContainSubstring("exit code 2")))
	})
})
