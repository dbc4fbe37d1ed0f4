package agent

import (
	"fmt"
	"slices"
	"strings"
)

// class is what the guest's agent does with a request that the policy allows.
type class string

const (
	// implemented: what Kata's agent does, done.
	implemented class = "implemented"
	// noDevice: answered as Kata's agent does in a guest that lacks what the
	// request is about.
	noDevice class = "no-device"
	// notGated: implemented, and no business of the policy.
	notGated class = "not gated"
)

// rpc is one that the guest's agent answers.
type rpc struct {
	service, method string
	// endpoint is the policy's rule; it is named after the request's message,
	// not after the method (Kata src/agent/src/policy.rs).
	endpoint string
	class    class
	// waits: the answer comes long after the request, which is therefore
	// logged when it is decided, so that the log has it in its place.
	waits bool
	// changes: it changes the sandbox, so that it is measured where events are.
	changes bool
	// note says what is particular, for who reads the table.
	note string
}

const (
	agentService  = "grpc.AgentService"
	healthService = "grpc.Health"
)

// gated is an RPC whose endpoint is named after the method, as most are.
func gated(method string, c class, note string) rpc { return named(method, method+"Request", c, note) }

func named(method, endpoint string, c class, note string) rpc {
	return rpc{service: agentService, method: method, endpoint: endpoint, class: c, note: note}
}

// waiting is a gated RPC whose answer may take as long as a container runs.
func waiting(method, note string) rpc {
	r := gated(method, implemented, note)
	r.waits = true
	return r
}

// rpcs are all that the agent answers, in the order of the protocol. The
// server takes the policy's endpoints from here.
var rpcs = []rpc{
	gated("CreateContainer", implemented, "guest pull, emptyDir and memory storages; no block devices"),
	gated("StartContainer", implemented, ""),
	gated("RemoveContainer", implemented, ""),
	gated("ExecProcess", implemented, ""),
	gated("SignalProcess", implemented, ""),
	waiting("WaitProcess", "a second one answers NOT_FOUND"),
	gated("UpdateContainer", implemented, ""),
	gated("UpdateEphemeralMounts", implemented, ""),
	gated("StatsContainer", implemented, "no network and block I/O figures"),
	gated("PauseContainer", implemented, ""),
	gated("ResumeContainer", implemented, ""),
	gated("RemoveStaleVirtiofsShareMounts", implemented, "the guest shares no file system: nothing to do"),
	gated("GetDiagnosticData", implemented, "the termination log"),
	named("WriteStdin", "WriteStreamRequest", implemented, ""),
	named("ReadStdout", "ReadStreamRequest", implemented, "a refusal empties the answer"),
	named("ReadStderr", "ReadStreamRequest", implemented, "a refusal empties the answer"),
	gated("CloseStdin", implemented, ""),
	gated("TtyWinResize", implemented, ""),
	gated("UpdateInterface", implemented, "no PCI paths"),
	gated("UpdateRoutes", implemented, ""),
	gated("ListInterfaces", implemented, ""),
	gated("ListRoutes", implemented, ""),
	gated("AddARPNeighbors", implemented, ""),
	gated("GetIPTables", implemented, "runs iptables-save, where the guest image has it"),
	gated("SetIPTables", implemented, "runs iptables-restore, where the guest image has it"),
	gated("GetMetrics", implemented, "some of Kata's gauges"),
	named("MemAgentMemcgSet", "MemAgentMemcgConfig", noDevice, "mem-agent is disabled"),
	named("MemAgentCompactSet", "MemAgentCompactConfig", noDevice, "mem-agent is disabled"),
	gated("CreateSandbox", implemented, "no kernel modules, no guest hooks"),
	gated("DestroySandbox", implemented, "the guest ends"),
	gated("OnlineCPUMem", noDevice, "what the guest has is online; there is no more"),
	gated("ReseedRandomDev", implemented, "mixed in, but not credited: the generator is the machine's"),
	named("GetGuestDetails", "GuestDetailsRequest", implemented, ""),
	gated("MemHotplugByProbe", noDevice, "no probe file"),
	gated("SetGuestDateTime", noDevice, "EPERM: the clock is the machine's"),
	gated("CopyFile", implemented, "the policy sees no data, but a link's target"),
	waiting("GetOOMEvent", ""),
	gated("AddSwap", noDevice, "no PCI bus"),
	gated("AddSwapPath", noDevice, "EPERM: swap is the machine's"),
	named("GetVolumeStats", "VolumeStatsRequest", implemented, ""),
	gated("ResizeVolume", implemented, "UNIMPLEMENTED, as in Kata's agent"),
	gated("SetPolicy", implemented, ""),
	{service: healthService, method: "Check", class: notGated},
	{service: healthService, method: "Version", class: notGated},
}

// readers are the RPCs that only look, or wait.
var readers = []string{
	"WaitProcess", "StatsContainer", "GetDiagnosticData", "ReadStdout", "ReadStderr", "ListInterfaces", "ListRoutes", "GetIPTables",
	"GetMetrics", "GetGuestDetails", "GetOOMEvent", "GetVolumeStats",
}

func init() {
	for i := range rpcs {
		rpcs[i].changes = rpcs[i].service == agentService && !slices.Contains(readers, rpcs[i].method)
	}
}

// byMethod finds an RPC of the agent's service.
var byMethod = func() map[string]*rpc {
	m := map[string]*rpc{}
	for i := range rpcs {
		if rpcs[i].service == agentService {
			m[rpcs[i].method] = &rpcs[i]
		}
	}
	return m
}()

// table renders the RPCs in Markdown.
func table() string {
	var b strings.Builder
	b.WriteString("| RPC | Policy endpoint | In the guest | |\n|---|---|---|---|\n")
	for _, r := range rpcs {
		endpoint := "–"
		if r.endpoint != "" {
			endpoint = "`" + r.endpoint + "`"
		}
		method := r.method
		if r.service == healthService {
			method = "Health." + method
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", method, endpoint, r.class, r.note)
	}
	return b.String()
}
