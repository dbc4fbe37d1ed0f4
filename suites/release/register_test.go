package release_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// sendToTPM sends its standard input to the guest's TPM in one piece, and prints the answer: a TPM simulated behind a
// socket, or a device of Linux.
const sendToTPM = `cd /guest-dev || exit
[ -S tpm0 ] && exec nc -N -U tpm0
[ -c tpmrm0 ] && device=tpmrm0 || device=tpm0
exec 3<>$device && dd bs=4096 count=1 status=none >&3 && exec dd bs=4096 count=1 status=none <&3`

// podsTPM is the guest's TPM as a container drives it that has got hold of it.
type podsTPM struct {
	guest
	ctx context.Context
}

var _ transport.TPM = podsTPM{}

// Send implements [transport.TPM].
func (t podsTPM) Send(command []byte) ([]byte, error) {
	r, err := bed.Pods.ExecStdin(t.ctx, bytes.NewReader(command), t.ns, t.name, suite.Container, "sh", "-c", sendToTPM)
	if err != nil {
		return nil, err
	}
	if r.ExitCode != 0 || len(r.Stdout) == 0 {
		return nil, fmt.Errorf("%s: the container cannot talk to its guest's TPM: exit code %d, %q", pod.InconclusiveMark, r.ExitCode, r.Stderr)
	}
	return []byte(r.Stdout), nil
}

// extends extends a PCR as a container, which the TPM allows.
func (t podsTPM) extends(pcr uint, digest []byte) {
	GinkgoHelper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
	}.Execute(t)
	Expect(err).NotTo(HaveOccurred())
}

// resets is the TPM's answer to a reset of a PCR.
func (t podsTPM) resets(pcr uint) error {
	_, err := tpm2.PCRReset{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}}.Execute(t)
	return err
}

// resettablePCR is one that everybody may reset (TCG PC Client Platform TPM Profile,
// PCR attributes): what a reset looks like that works.
const resettablePCR = 23

var _ = Describe("a container that drives its guest's TPM", suite.OneKBS, func() {
	for _, tee := range []string{evidence.KindTPM, evidence.KindAzSNPVTPM, evidence.KindAzTDXVTPM} {
		It("can ruin the register of the init-data, and never mend it: "+tee, proof.Of("ATTEST-REGISTER-001"), Label("tee:"+tee), SpecTimeout(limit), func(ctx SpecContext) {
			class, ok := bed.Class(tee, false)
			if !ok {
				Skip("no RuntimeClass of this platform gives evidence of kind " + tee)
			}
			knowsRoots(tee)
			k, ns := bed.KBS(ctx), bed.Namespace(ctx, "release")
			raw := document("sha256", k.URL, ns)
			path, secret := suite.ResourcePath(ns, "secret"), leak.Secret()
			Expect(k.SetResource(ctx, path, []byte(secret))).To(Succeed())
			expected := pcr8(digest(raw))
			Expect(k.SetResourcePolicy(ctx, forRegister(expected))).To(Succeed())
			// A volume of the node's /dev is the guest's own /dev: only the policy of the init-data can forbid it.
			confidential(ctx, ns, "driver", class.Name, raw, func(p *corev1.Pod) {
				p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "dev", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/dev"}}})
				c := &p.Spec.Containers[0]
				c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "dev", MountPath: "/guest-dev"})
				c.SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
			})
			confidential(ctx, ns, "bystander", class.Name, raw)
			bed.Ready(ctx, ns, "driver")
			bed.Ready(ctx, ns, "bystander")
			driver, bystander := guest{ns, "driver", tee}, guest{ns, "bystander", tee}
			tpm := podsTPM{driver, ctx}

			By("control: the secret is released, and the TPM takes a reset of a register that is anybody's")
			releases(ctx, k, driver, text(raw), path, secret)
			Expect(tpm.resets(resettablePCR)).To(Succeed())

			By("the register of the init-data cannot be reset, nor can the TPM be started again")
			Expect(errors.Is(tpm.resets(measuredPCR), tpm2.TPMRCLocality)).To(BeTrue(), "a reset of PCR %d", measuredPCR)
			_, err := tpm2.Startup{StartupType: tpm2.TPMSUClear}.Execute(tpm)
			Expect(errors.Is(err, tpm2.TPMRCInitialize)).To(BeTrue(), "%v", err)
			releases(ctx, k, driver, text(raw), path, secret)

			By("once it is extended the evidence is refused, and every further try leads elsewhere")
			seen, sum := []string{expected}, sha256.Sum256(raw)
			for range 3 {
				tpm.extends(measuredPCR, sum[:])
				refusesEvidence(ctx, k, driver, text(raw))
				token, _ := attested(ctx, k, driver, nil)
				now := appraisal(token).InitData()
				Expect(seen).NotTo(ContainElement(now), "the register came back to a value that it had")
				seen = append(seen, now)
				deniesResource(ctx, k, driver, nil, path)
				Expect(errors.Is(tpm.resets(measuredPCR), tpm2.TPMRCLocality)).To(BeTrue(), "a reset of PCR %d", measuredPCR)
			}
			By("inside the pod the secret is gone as well")
			status, _ := driver.resource(ctx, path)
			Expect(status).To(Equal("500"))
			By("control: a pod with the same init-data whose register nobody touched still gets it")
			releases(ctx, k, bystander, text(raw), path, secret)
		})
	}
})
