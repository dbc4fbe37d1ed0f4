// Package aa is the guest's attestation-agent: it binds init-data to the TEE before anyone can ask it anything, and then
// gives evidence and attestation tokens (guest-components attestation-agent, KBS protocol 0.4.0).
//
// It must not know secrets' names, containers or policies.
package aa

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/BurntSushi/toml"
)

// Config is what attestation-agent takes from aa.toml. Keys that it does not have are ignored, as attestation-agent does.
type Config struct {
	// TokenConfigs says where tokens come from.
	TokenConfigs struct {
		// KBS is nil when aa.toml does not say.
		KBS *KBSConfig `toml:"kbs"`
	} `toml:"token_configs"`
	// EventLog is the log of runtime measurements.
	EventLog struct {
		Enable *bool   `toml:"enable_eventlog"`
		PCR    *uint32 `toml:"init_pcr"`
	} `toml:"eventlog_config"`
}

// KBSConfig says where the KBS is and with which kind of key to talk to it.
type KBSConfig struct {
	// URL is the KBS's, without the path /kbs/v0.
	URL string `toml:"url"`
	// Cert is a PEM certificate to trust besides the system's, empty for none.
	Cert string `toml:"cert"`
	// KeyAlgorithm is one of the KeyAlgorithm constants.
	KeyAlgorithm KeyAlgorithm `toml:"tee_key_algorithm"`
}

// LoadConfig reads aa.toml at path. Without a path, the KBS's address is that of parameters, the environment's
// AA_KBC_PARAMS of the form cc_kbc::URL; both may be empty.
func LoadConfig(path, parameters string) (*Config, error) {
	var config Config
	if path == "" {
		if parameters == "" {
			return &config, nil
		}
		address, ok := strings.CutPrefix(parameters, "cc_kbc::")
		if !ok {
			return nil, fmt.Errorf("AA_KBC_PARAMS %q: want cc_kbc::URL", parameters)
		}
		config.TokenConfigs.KBS = &KBSConfig{URL: address, KeyAlgorithm: ECP256}
		return &config, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("aa.toml: %w", err)
	}
	if err := toml.Unmarshal(raw, &config); err != nil {
		return nil, fmt.Errorf("aa.toml: %w", err)
	}
	if kbs := config.TokenConfigs.KBS; kbs != nil {
		if kbs.KeyAlgorithm == "" {
			kbs.KeyAlgorithm = ECP256
		}
		if err := kbs.KeyAlgorithm.check(); err != nil {
			return nil, fmt.Errorf("aa.toml: token_configs.kbs.tee_key_algorithm: %w", err)
		}
	}
	return &config, nil
}

// base is the prefix of the KBS's addresses.
func (c *KBSConfig) base() (string, error) {
	parsed, err := url.Parse(c.URL)
	if err != nil {
		return "", fmt.Errorf("aa.toml: token_configs.kbs.url: %w", err)
	}
	if (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
		return "", fmt.Errorf("aa.toml: token_configs.kbs.url %q: want http://host:port or https://host:port", c.URL)
	}
	return strings.TrimRight(c.URL, "/") + "/kbs/v0", nil
}

// roots are the certificates to trust, nil for the system's alone.
func (c *KBSConfig) roots() (*x509.CertPool, error) {
	if strings.TrimSpace(c.Cert) == "" {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a guest image need not have any
	}
	if !roots.AppendCertsFromPEM([]byte(c.Cert)) {
		return nil, errors.New("aa.toml: token_configs.kbs.cert: no certificate in PEM form")
	}
	return roots, nil
}
