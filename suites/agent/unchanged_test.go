package agent_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// view is what the spec can see of a guest: through a container that sees
// what the agent keeps of containers and files, and from within a second one,
// which is the one that requests are about.
type view struct {
	*target
	observer, victim string
	// exec copies its input to a file that the victim shows; probe copies its
	// own back, as long as the victim runs.
	exec, probe string
}

func (t *target) view(ctx context.Context) view {
	GinkgoHelper()
	t.createSandbox(ctx)
	id := newID()
	r := containerRequest(id, t.image, "/bin/sleep", "1000000")
	r.OCI.Mounts = append(r.OCI.Mounts, &pb.Mount{Destination: "/state", Source: strings.TrimSuffix(stateDir, "/"), Type: "bind", Options: []string{"bind", "ro"}})
	t.createAs(ctx, r)
	t.start(ctx, id)
	v := view{target: t, observer: id, victim: t.idle(ctx)}
	v.exec = t.exec(ctx, v.victim, "/bin/sh", "-c", "exec /bin/cat >/received")
	v.probe = t.exec(ctx, v.victim, "/bin/cat")
	return v
}

// look lists directories, files with their kinds, owners, sizes and times, what
// the container's process received, the hostname, and the container's processes with their arguments, but for the
// list's own. Starting that one leaves its traces in directories' times.
const look = `if [ -d /state ]; then
	find /state -xdev -type d -exec stat -c '%n %F %a %u:%g' {} +
	find /state -xdev ! -type d -exec stat -c '%n %F %a %u:%g %s %Y' {} +
fi
[ ! -f /received ] || echo "received $(cat /received)"
hostname
for p in /proc/[0-9]*; do
	[ $p = /proc/$$ ] || echo "process $p $(tr '\0' ' ' < $p/cmdline 2>/dev/null)"
done
`

// see lists it all in order, with the victim's memory limit and the policy's
// word about a request.
func (v view) see(ctx context.Context) (lines []string) {
	GinkgoHelper()
	if r, err := v.Agent.StatsContainer(ctx, &pb.StatsContainerRequest{ContainerId: v.victim}); err != nil {
		lines = append(lines, "memory limit: "+err.Error())
	} else {
		lines = append(lines, fmt.Sprint("memory limit: ", r.CgroupStats.MemoryStats.Usage.Limit))
	}
	lines = append(lines, fmt.Sprint("details: ", v.details(ctx)))
	containers := []string{v.observer}
	if err := v.answers(ctx); err != nil {
		lines = append(lines, "victim: "+err.Error())
	} else {
		containers = append(containers, v.victim)
	}
	for _, container := range containers {
		r := execRequest(container, "/bin/sh", "-c", look)
		if _, err := v.Agent.ExecProcess(ctx, r); err != nil {
			lines = append(lines, err.Error()) // a guest that is gone
			continue
		}
		lines = append(lines, strings.Split(strings.TrimSpace(v.read(ctx, container, r.ExecId)), "\n")...)
		Expect(v.wait(ctx, container, r.ExecId)).To(BeZero())
	}
	slices.Sort(lines)
	return lines
}

// answers says why the victim does not: it is paused, or gone.
func (v view) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := v.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: v.victim, ExecId: v.probe, Data: []byte("x")}); err != nil {
		return err
	}
	_, err := v.Agent.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: v.victim, ExecId: v.probe, Len: 1})
	return err
}

// difference is the lines that only one of both has.
func difference(before, after []string) (lines []string) {
	for _, l := range before {
		if !slices.Contains(after, l) {
			lines = append(lines, "no more: "+l)
		}
	}
	for _, l := range after {
		if !slices.Contains(before, l) {
			lines = append(lines, "new: "+l)
		}
	}
	return lines
}

// settled is what the observer sees again and again while nothing is asked.
func (v view) settled(ctx context.Context) (now []string) {
	GinkgoHelper()
	Eventually(ctx, func() bool {
		last := now
		now = v.see(ctx)
		return slices.Equal(last, now)
	}).WithTimeout(10 * time.Second).Should(BeTrue())
	return now
}

// changes are requests each of which would change the guest.
func (v view) changes() map[string]func(context.Context) error {
	fileName := newID()
	created := containerRequest(newID(), v.image, "/bin/sleep", "1000000")
	all := map[string]func(context.Context) error{
		"CreateContainerRequest": func(ctx context.Context) error { _, err := v.Agent.CreateContainer(ctx, created); return err },
		"CopyFileRequest": func(ctx context.Context) error {
			_, err := v.Agent.CopyFile(ctx, fileRequest(fileName, "text"))
			return err
		},
		"ExecProcessRequest": func(ctx context.Context) error {
			_, err := v.Agent.ExecProcess(ctx, execRequest(v.victim, "/bin/sleep", "1000000"))
			return err
		},
		"CreateSandboxRequest": func(ctx context.Context) error {
			r := sandboxRequest("another")
			r.Hostname = "renamed"
			_, err := v.Agent.CreateSandbox(ctx, r)
			return err
		},
		"SetPolicyRequest": func(ctx context.Context) error {
			_, err := v.Agent.SetPolicy(ctx, &pb.SetPolicyRequest{Policy: except("", "GuestDetailsRequest")})
			return err
		},
		"UpdateContainerRequest": func(ctx context.Context) error {
			_, err := v.Agent.UpdateContainer(ctx, &pb.UpdateContainerRequest{ContainerId: v.victim, Resources: &pb.LinuxResources{Memory: &pb.LinuxMemory{Limit: 48 << 20}}})
			return err
		},
		"DestroySandboxRequest": func(ctx context.Context) error {
			_, err := v.Agent.DestroySandbox(ctx, &pb.DestroySandboxRequest{})
			return err
		},
	}
	for rpc, endpoint := range map[string]string{
		"SignalProcess": "SignalProcessRequest", "WriteStdin": "WriteStreamRequest", "CloseStdin": "CloseStdinRequest",
	} {
		all[endpoint] = func(ctx context.Context) error { return byProcess[rpc](ctx, v.Agent, v.victim, v.exec) }
	}
	for rpc, endpoint := range map[string]string{
		"RemoveContainer": "RemoveContainerRequest", "PauseContainer": "PauseContainerRequest",
	} {
		all[endpoint] = func(ctx context.Context) error { return byContainer[rpc](ctx, v.Agent, v.victim, "") }
	}
	return all
}

var _ = Describe("A refused request", func() {
	It("changes neither containers nor files nor processes", proof.Of("POLICY-REFUSED-001"), func(ctx SpecContext) {
		needsLone("its policy must not be replaceable")
		t := fresh(ctx, header+rules("true", "CreateSandboxRequest", "CreateContainerRequest", "StartContainerRequest", "ExecProcessRequest", "ReadStreamRequest", "WaitProcessRequest", "SetPolicyRequest"))
		v := t.view(ctx)
		changes := v.changes()
		policy := header + rules("true", "ReadStreamRequest", "WaitProcessRequest", "StatsContainerRequest", "GuestDetailsRequest")
		for endpoint := range changes {
			policy += rules("false", endpoint)
		}
		policy += "ExecProcessRequest if input.process.Args[1] == \"-c\"\n" +
			fmt.Sprintf("WriteStreamRequest if input.exec_id == %q\n", v.probe)
		t.setPolicy(ctx, policy)
		before := v.settled(ctx)
		Expect(before).To(ContainElement(HavePrefix("/state/"+v.victim)), "the observer sees containers")
		Expect(before).To(ContainElement(MatchRegexp(`^process \S+ /bin/cat`)), "and processes")
		Expect(before).To(ContainElements("details: <nil>", "received "), "and the policy, and what a process received")
		for endpoint, change := range changes {
			Expect(change(ctx)).To(beBlocked(endpoint))
		}
		// What ran a process for the observer may take a moment to end.
		Eventually(ctx, func() []string { return difference(before, v.see(ctx)) }).WithTimeout(10 * time.Second).Should(BeEmpty())
	}, SpecTimeout(specTimeout))

	DescribeTable("would have changed, when allowed:", proof.Of("POLICY-REFUSED-001"), func(ctx SpecContext, endpoint, line string) {
		if endpoint == "CreateSandboxRequest" || endpoint == "DestroySandboxRequest" {
			needsLone("it is the end of the sandbox that there is")
		}
		t := fresh(ctx, allowAll())
		v := t.view(ctx)
		before := v.settled(ctx)
		Expect(before).NotTo(ContainElement(HavePrefix("victim: ")), "it answers")
		Expect(v.changes()[endpoint](ctx)).To(Succeed())
		Eventually(ctx, func() []string { return difference(before, v.see(ctx)) }).WithTimeout(10 * time.Second).Should(ContainElement(HavePrefix(line)))
	},
		entry("a container", "CreateContainerRequest", "new: /state/"),
		entry("a container's absence", "RemoveContainerRequest", "new: victim: "),
		entry("a file", "CopyFileRequest", "new: /state/shared/containers/"),
		entry("a process", "ExecProcessRequest", "new: process "),
		entry("a process's absence", "SignalProcessRequest", "no more: process "),
		entry("a process's input", "WriteStreamRequest", "new: received x"),
		entry("the end of a process's input", "CloseStdinRequest", "no more: process "),
		entry("a container that stands still", "PauseContainerRequest", "new: victim: "),
		entry("a container's memory limit", "UpdateContainerRequest", "new: memory limit: 50331648"),
		entry("the policy", "SetPolicyRequest", "new: details: "),
		entry("the guest's absence", "DestroySandboxRequest", "new: victim: "),
		entry("the sandbox", "CreateSandboxRequest", "no more: /state/"),
	)

	It("leaves the id that it names free", proof.Of("POLICY-REFUSED-002"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		r := containerRequest(newID(), t.image, "/bin/sleep", "1000000")
		t.setPolicy(ctx, except(rules("false", "CreateContainerRequest"), "CreateContainerRequest"))
		_, err := t.Agent.CreateContainer(ctx, r)
		Expect(err).To(beBlocked("CreateContainerRequest"))
		for _, rpc := range []string{"StartContainer", "ExecProcess", "RemoveContainer"} {
			Expect(byContainer[rpc](ctx, t.Agent, r.ContainerId, "")).To(noContainer(), rpc)
		}
		Expect(byProcess["WaitProcess"](ctx, t.Agent, r.ContainerId, "")).To(unknownContainer("WaitProcess", r.ContainerId))
		t.setPolicy(ctx, allowAll())
		_, err = t.Agent.CreateContainer(ctx, r)
		Expect(err).NotTo(HaveOccurred())
		t.start(ctx, r.ContainerId)
		w.testify(ctx)
	}, SpecTimeout(specTimeout))
})
