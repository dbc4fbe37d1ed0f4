// Package cdh is the guest's confidential-data-hub: it fetches secrets from the KBS with tokens of the attestation-agent,
// and pulls images into the guest (guest-components confidential-data-hub).
//
// It must not know TEEs or evidence, nor run containers.
package cdh

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
)

// Config is what confidential-data-hub takes from cdh.toml. Keys that it does not have are ignored, but keys that ask for
// protection which is not there are errors.
type Config struct {
	// Socket to serve on, unix:///path.
	Socket string `toml:"socket"`
	// KBC says where secrets come from; its name is empty when cdh.toml does not say.
	KBC KBCConfig `toml:"kbc"`
	// Credentials are secrets to be written to files at the start.
	Credentials []Credential `toml:"credentials"`
	// SkipSealedSecretVerification takes sealed secrets whoever signed them.
	SkipSealedSecretVerification bool `toml:"skip_sealed_secret_verification"`
	// Image is how images are pulled.
	Image struct {
		SecurityPolicyURI string `toml:"image_security_policy_uri"`
		SecurityPolicy    string `toml:"image_security_policy"`
	} `toml:"image"`
}

// Credential is a KBS resource to be written to a file at the start.
type Credential struct {
	Path        string `toml:"path"` // below BaseDir
	ResourceURI string `toml:"resource_uri"`
}

// KBCConfig says where secrets come from.
type KBCConfig struct {
	Name string `toml:"name"`     // cc_kbc
	URL  string `toml:"url"`      // of the KBS, without the path /kbs/v0
	Cert string `toml:"kbs_cert"` // PEM certificate to trust besides the system's, empty for none
}

const onlyKBC = "cc_kbc"

// LoadConfig reads cdh.toml at path. Without a path, the KBS's address is that of parameters, the environment's
// AA_KBC_PARAMS of the form cc_kbc::URL; both may be empty.
func LoadConfig(path, parameters string) (*Config, error) {
	var config Config
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cdh.toml: %w", err)
		}
		if err := toml.Unmarshal(raw, &config); err != nil {
			return nil, fmt.Errorf("cdh.toml: %w", err)
		}
	} else if parameters != "" {
		name, address, ok := strings.Cut(parameters, "::")
		if !ok {
			return nil, fmt.Errorf("AA_KBC_PARAMS %q: want cc_kbc::URL", parameters)
		}
		config.KBC = KBCConfig{Name: name, URL: address}
	}
	if config.Socket == "" {
		config.Socket = channel.ConfidentialDataHub
	}
	return &config, config.check()
}

func (c *Config) check() error {
	if _, err := channel.Path(c.Socket); err != nil {
		return fmt.Errorf("cdh.toml: socket: %w", err)
	}
	if c.Image.SecurityPolicy != "" || c.Image.SecurityPolicyURI != "" {
		return errors.New("cdh.toml: image: the simulated confidential-data-hub enforces no image security policy; remove image_security_policy and image_security_policy_uri")
	}
	return nil
}

// base is the prefix of the KBS's addresses. Attestation-agent and its data hub start without a KBS; asking for a secret
// is what fails then.
func (c *KBCConfig) base() (string, error) {
	switch c.Name {
	case onlyKBC:
	case "":
		return "", errors.New("cdh.toml has no [kbc] with name and url")
	default:
		return "", fmt.Errorf("cdh.toml: kbc.name %q: only %q is supported", c.Name, onlyKBC)
	}
	parsed, err := url.Parse(c.URL)
	if err != nil {
		return "", fmt.Errorf("cdh.toml: kbc.url: %w", err)
	}
	if (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
		return "", fmt.Errorf("cdh.toml: kbc.url %q: want http://host:port or https://host:port", c.URL)
	}
	return strings.TrimRight(c.URL, "/") + "/kbs/v0", nil
}

// roots are the certificates to trust, nil for the system's alone.
func (c *KBCConfig) roots() (*x509.CertPool, error) {
	if strings.TrimSpace(c.Cert) == "" {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a guest image need not have any
	}
	if !roots.AppendCertsFromPEM([]byte(c.Cert)) {
		return nil, errors.New("cdh.toml: kbc.kbs_cert: no certificate in PEM form")
	}
	return roots, nil
}
