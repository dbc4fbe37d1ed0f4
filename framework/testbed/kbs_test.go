package testbed

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// The manifest is YAML, with a configuration that is TOML, whatever is asked for.
func TestKBSManifest(t *testing.T) {
	roots := t.TempDir()
	if err := os.WriteFile(filepath.Join(roots, "amd-ark.pem"), []byte("ARK\nARK2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		options KBSOptions
		roots   string
		want    map[string]any
		files   string
	}{
		"the run's own": {
			KBSOptions{Namespace: "n", NewNamespace: true},
			"",
			map[string]any{"http_server.insecure_http": true, "attestation_token.insecure_header_jwk": true, "attestation_service.attestation_token_broker.duration_min": int64(5)},
			"admin.pub kbs-config.toml",
		},
		"all else": {
			KBSOptions{Namespace: "n", TLS: true, TrustedTokens: true, TokenMinutes: -2},
			roots,
			map[string]any{
				"http_server.certificate": "/etc/kbs/tls.crt", "attestation_token.trusted_certs_paths": []any{"/etc/kbs/token.crt"},
				"attestation_service.attestation_token_broker.duration_min": int64(-2), "attestation_service.verifier_config.test_roots": "/etc/kbs-roots",
				"attestation_service.attestation_token_broker.signer.key_path": "/etc/kbs/token.key",
			},
			"admin.pub kbs-config.toml root-amd-ark.pem tls.crt tls.key token.crt token.key",
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, k, err := kbsManifest(tc.options, tc.roots)
			if err != nil {
				t.Fatal(err)
			}
			if (k.CA != "") != tc.options.TLS || strings.HasPrefix(k.URL, "https:") != tc.options.TLS {
				t.Errorf("%s, authority %q", k.URL, k.CA)
			}
			decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
			config := struct{ Data map[string]string }{}
			for kinds := ""; ; {
				var object struct {
					Kind string            `json:"kind"`
					Data map[string]string `json:"data"`
				}
				if err := decoder.Decode(&object); err != nil {
					if strings.Contains(kinds, "Namespace") != tc.options.NewNamespace || !strings.Contains(kinds, "ConfigMap Deployment Service") {
						t.Errorf("%v: %s", err, kinds)
					}
					break
				}
				kinds += object.Kind + " "
				if object.Kind == "ConfigMap" {
					config.Data = object.Data
				}
			}
			if got := strings.Join(slices.Sorted(maps.Keys(config.Data)), " "); got != tc.files {
				t.Errorf("files %s, want %s", got, tc.files)
			}
			if tc.roots != "" && config.Data["root-amd-ark.pem"] != "ARK\nARK2\n" {
				t.Errorf("root %q", config.Data["root-amd-ark.pem"])
			}
			settings := map[string]any{}
			if _, err := toml.Decode(config.Data["kbs-config.toml"], &settings); err != nil {
				t.Fatalf("%v\n%s", err, config.Data["kbs-config.toml"])
			}
			for path, want := range tc.want {
				if got := at(settings, path); !reflect.DeepEqual(got, want) {
					t.Errorf("%s = %v, want %v", path, got, want)
				}
			}
		})
	}
}

// at follows a path through tables.
func at(settings any, path string) any {
	for _, name := range strings.Split(path, ".") {
		table, _ := settings.(map[string]any)
		settings = table[name]
	}
	return settings
}
