// Package agent has specs of a guest that is driven directly, RPC by RPC, as
// whoever controls the host can: no cluster, no container runtime. What the
// guest answers is Kata's (src/agent/src/rpc.rs, src/agent/policy); see
// suite_test.go for where the guest comes from.
//
// The specs must not know how the guest is made: what they learn of it, they
// learn by its protocol.
package agent
