package kbs

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// errorTypePrefix begins the type in every error's body (Trustee kbs/src/error.rs).
const errorTypePrefix = "https://github.com/confidential-containers/kbs/errors/"

// failure is a request that was not granted, as Trustee tells it: the body has variant and detail, the cause goes to
// the log alone.
type failure struct {
	variant, detail string
	cause           error
}

// status is 401 for all but what does not exist, for a denial by policy too.
func (f *failure) status() int {
	if f.variant == "PluginNotFound" {
		return http.StatusNotFound
	}
	return http.StatusUnauthorized
}

func (f *failure) body() []byte {
	body, err := json.Marshal(map[string]string{"type": errorTypePrefix + f.variant, "detail": f.detail})
	if err != nil { // strings always marshal
		return nil
	}
	return body
}

func authFailed(cause error) *failure {
	return &failure{"AttestationError", fmt.Sprintf("Attestation error: RCAR handshake Auth failed: %v", cause), cause}
}

func attestFailed(cause error) *failure {
	return &failure{"AttestationError", "Attestation error: RCAR handshake Attest failed", cause}
}

func setPolicyFailed(cause error) *failure {
	return &failure{"AttestationError", "Attestation error: Set Attestation Policy failed", cause}
}

func tokenNotFound() *failure {
	return &failure{"TokenNotFound", "Attestation Token not found", nil}
}

func tokenRefused(cause error) *failure {
	return &failure{"TokenVerifierError", "Token Verifier error", cause}
}

func policyDenies() *failure {
	return &failure{"PolicyDeny", "Access denied by policy", nil}
}

func policyEngineFailed(cause error) *failure {
	return &failure{"PolicyEngineError", fmt.Sprintf("Policy engine error: %v", cause), cause}
}

func policyUnreadable(cause error) *failure {
	return &failure{"ParsePolicyError", fmt.Sprintf("Failed to parse policy: %v", cause), cause}
}

func pluginFailed(cause error) *failure {
	return &failure{"PluginInternalError", "Plugin internal error", cause}
}

func pluginNotFound(name string) *failure {
	return &failure{"PluginNotFound", fmt.Sprintf("Plugin %s not found", name), nil}
}

func rvpsFailed(cause error) *failure {
	return &failure{"RvpsError", fmt.Sprintf("RVPS configuration failed: %v", cause), cause}
}

func jweFailed(cause error) *failure {
	return &failure{"JweError", "JWE failed", cause}
}

// adminRefused is for policies and reference values.
func adminRefused(endpoint string, cause error) *failure {
	return &failure{"AdminAuthAccess", fmt.Sprintf("admin access denied for endpoint %s: %v", endpoint, cause), cause}
}

// adminRefusedByPlugin is for resources, where Trustee tells the same with another variant.
func adminRefusedByPlugin(cause error) *failure {
	return &failure{"AdminAuthInitialization", fmt.Sprintf("failed to initialize [admin] configuration: %v", cause), cause}
}
