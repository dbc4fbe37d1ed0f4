package attestation

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/message"
)

// parsedInitData is the init-data document that came with evidence; all nil when none came.
type parsedInitData struct {
	digest []byte
	claims map[string]any
}

// parseInitData reads a document and digests its raw bytes (attestation-service/src/lib.rs). Its version is not judged,
// as Trustee does not.
func parseInitData(sent *message.InitData) (*parsedInitData, error) {
	if sent == nil {
		return &parsedInitData{}, nil
	}
	if sent.Format != "toml" {
		return nil, fmt.Errorf("Unsupported initdata format: %.32s", sent.Format) //nolint:staticcheck // Trustee's text
	}
	document, err := initdata.Parse([]byte(sent.Body))
	if err != nil {
		return nil, fmt.Errorf("init-data: %w", err)
	}
	var version *initdata.UnsupportedVersionError
	if err := document.Validate(); err != nil && !errors.As(err, &version) {
		return nil, fmt.Errorf("init-data: %w", err)
	}
	digest, err := document.Digest()
	if err != nil {
		return nil, fmt.Errorf("init-data: %w", err)
	}
	return &parsedInitData{digest, initDataClaims(document.Data)}, nil
}

// initDataClaims gives the files, those parsed that a policy may want to look into.
func initDataClaims(files map[string]string) map[string]any {
	claims := make(map[string]any, len(files))
	for name, content := range files {
		claims[name] = content
	}
	for _, name := range []string{initdata.AAConfig, initdata.CDHConfig} {
		if content, ok := files[name]; ok {
			if parsed, ok := tomlClaims(content); ok {
				claims[name] = parsed
			}
		}
	}
	if content, ok := files[initdata.Policy]; ok {
		if data, ok := policyData(content); ok {
			delete(claims, initdata.Policy)
			claims["agent_policy_claims"] = data
		}
	}
	return claims
}

func tomlClaims(content string) (any, bool) {
	// Anybody may send this, and a stack that overflows ends the KBS.
	if initdata.CheckNesting([]byte(content)) != nil {
		return nil, false
	}
	var document map[string]any
	if err := toml.Unmarshal([]byte(content), &document); err != nil {
		return nil, false
	}
	// Through JSON, because TOML has values that JSON lacks.
	raw, err := json.Marshal(document)
	if err != nil {
		return nil, false
	}
	var claims any
	return claims, json.Unmarshal(raw, &claims) == nil
}

// policyData gives the JSON that genpolicy appends to an agent policy: all from policy_data := { to the end.
func policyData(rego string) (any, bool) {
	const begin = "policy_data := "
	at := strings.Index(rego, begin+"{")
	if at < 0 {
		return nil, false
	}
	var data any
	return data, json.Unmarshal([]byte(rego[at+len(begin):]), &data) == nil
}
