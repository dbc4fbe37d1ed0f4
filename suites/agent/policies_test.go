package agent_test

import (
	"slices"
	"strings"
)

// endpoints are the names that a policy knows requests by (Kata 4.1: each is
// the name of the request's message, which is not always the RPC's).
var endpoints = strings.Fields(`
	AddARPNeighborsRequest AddSwapPathRequest AddSwapRequest CloseStdinRequest CopyFileRequest CreateContainerRequest
	CreateSandboxRequest DestroySandboxRequest ExecProcessRequest GetDiagnosticDataRequest GetIPTablesRequest GetMetricsRequest
	GetOOMEventRequest GuestDetailsRequest ListInterfacesRequest ListRoutesRequest MemAgentCompactConfig MemAgentMemcgConfig
	MemHotplugByProbeRequest OnlineCPUMemRequest PauseContainerRequest ReadStreamRequest RemoveContainerRequest
	RemoveStaleVirtiofsShareMountsRequest ReseedRandomDevRequest ResizeVolumeRequest ResumeContainerRequest
	SetGuestDateTimeRequest SetIPTablesRequest SetPolicyRequest SignalProcessRequest StartContainerRequest StatsContainerRequest
	TtyWinResizeRequest UpdateContainerRequest UpdateEphemeralMountsRequest UpdateInterfaceRequest UpdateRoutesRequest
	VolumeStatsRequest WaitProcessRequest WriteStreamRequest`)

const header = "package agent_policy\n"

// rules is a policy in which each of the endpoints has one rule.
func rules(value string, endpoints ...string) string {
	text := ""
	for _, e := range endpoints {
		text += "default " + e + " := " + value + "\n"
	}
	return text
}

// allowAll allows everything.
func allowAll() string { return header + rules("true", endpoints...) }

// except allows everything but for the endpoints, about which more decides.
func except(more string, but ...string) string {
	text := header
	for _, e := range endpoints {
		if !slices.Contains(but, e) {
			text += rules("true", e)
		}
	}
	return text + more
}
