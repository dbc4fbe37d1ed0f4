// Package config reads the KBS simulator's configuration file, which has the form of Trustee's kbs-config.toml (Trustee
// kbs/docs/config.md). What the simulator cannot do as the file asks is an error, never silently ignored.
package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Config is the configuration, complete with defaults and valid.
type Config struct {
	HTTP        HTTP        `toml:"http_server"`
	Token       Token       `toml:"attestation_token"`
	Attestation Attestation `toml:"attestation_service"`
	Admin       Admin       `toml:"admin"`
	Storage     Storage     `toml:"storage_backend"`
	Plugins     []Plugin    `toml:"plugins"`
}

// HTTP says where and how to serve.
type HTTP struct {
	Sockets      []string `toml:"sockets"`
	InsecureHTTP bool     `toml:"insecure_http"`
	PrivateKey   string   `toml:"private_key"` // path, PEM
	Certificate  string   `toml:"certificate"` // path, PEM
	// PayloadLimit of a request, in MiB.
	PayloadLimit int64 `toml:"payload_request_size"`
}

// Token says which attestation tokens the KBS takes.
type Token struct {
	// InsecureHeaderJWK takes any token that is signed with the key in its own header.
	InsecureHeaderJWK bool `toml:"insecure_header_jwk"`
	// TrustedCerts are PEM files of authorities that may certify tokens' keys.
	TrustedCerts []string `toml:"trusted_certs_paths"`
	// TrustedJWKSets are files (file:///…) of keys that tokens may name.
	TrustedJWKSets []string `toml:"trusted_jwk_sets"`
	// ExtraTEEKeyPaths are JSON pointers to look for the TEE key at, before the usual ones.
	ExtraTEEKeyPaths []string `toml:"extra_teekey_paths"`
}

// Attestation configures the built-in attestation service.
type Attestation struct {
	Type     string   `toml:"type"`
	Broker   Broker   `toml:"attestation_token_broker"`
	RVPS     RVPS     `toml:"rvps_config"`
	Verifier Verifier `toml:"verifier_config"`
	// Timeout of a session in minutes.
	Timeout int64 `toml:"timeout"`
}

// SessionTimeout is Timeout.
func (a *Attestation) SessionTimeout() time.Duration { return time.Duration(a.Timeout) * time.Minute }

// Broker configures the tokens that the attestation service makes.
type Broker struct {
	DurationMin int64  `toml:"duration_min"`
	Issuer      string `toml:"issuer_name"`
	Developer   string `toml:"developer_name"`
	Build       string `toml:"build_name"`
	Profile     string `toml:"profile_name"`
	// Verbose puts devices' evidence into tokens; default true.
	Verbose *bool  `toml:"verbose_token"`
	Signer  Signer `toml:"signer"`
}

// Signer is the key that tokens are signed with. Without one the service makes a key of its own.
type Signer struct {
	Key         string `toml:"key_path"`  // P-256, PEM
	Certificate string `toml:"cert_path"` // PEM
	URL         string `toml:"cert_url"`
}

// Verifier configures the verification of evidence.
type Verifier struct {
	// TestRoots is a directory of test roots that certify simulated hardware; not a key of Trustee's.
	TestRoots string `toml:"test_roots"`
}

// TokenLifetime is DurationMin.
func (b *Broker) TokenLifetime() time.Duration { return time.Duration(b.DurationMin) * time.Minute }

// RVPS configures the store of reference values.
type RVPS struct {
	Type string `toml:"type"`
}

// Modes of authorising administrators.
const (
	AdminAllowAll      = "InsecureAllowAll"
	AdminDenyAll       = "DenyAll"
	AdminAuthenticated = "AuthenticatedAuthorization"
)

// Admin says who may administer.
type Admin struct {
	Mode           string `toml:"authorization_mode"`
	Authentication struct {
		BearerJWT struct {
			Providers []IdentityProvider `toml:"identity_providers"`
		} `toml:"bearer_jwt"`
	} `toml:"authentication"`
	Authorization struct {
		RegexACL struct {
			ACLs []ACL `toml:"acls"`
		} `toml:"regex_acl"`
	} `toml:"authorization"`
}

// IdentityProvider signs administrators' tokens.
type IdentityProvider struct {
	Issuer       string `toml:"issuer"`
	Audience     string `toml:"audience"`
	PublicKeyURI string `toml:"public_key_uri"` // file://…, PEM
	JWKSetURI    string `toml:"jwk_set_uri"`    // file://…, JSON
}

// JWKSetPath is the path in JWKSetURI.
func (p *IdentityProvider) JWKSetPath() string { return strings.TrimPrefix(p.JWKSetURI, "file://") }

// PublicKeyPath is the path in PublicKeyURI.
func (p *IdentityProvider) PublicKeyPath() string {
	return strings.TrimPrefix(p.PublicKeyURI, "file://")
}

// ACL says where a role may go.
type ACL struct {
	Role             string `toml:"role"`
	AllowedEndpoints string `toml:"allowed_endpoints"` // regular expression on path and query
}

// Storage says where state is kept.
type Storage struct {
	Type string `toml:"storage_type"`
}

// Plugin is an endpoint below /kbs/v0.
type Plugin struct {
	Name string `toml:"name"`
	Type string `toml:"storage_backend_type"`
}

// Load reads the file at path. Errors name it, the field and the remedy.
func Load(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w; name a file with --config-file", err)
	}
	config, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return config, nil
}

// Parse reads the text of a file.
func Parse(text []byte) (*Config, error) {
	config := &Config{}
	config.HTTP.Sockets = []string{"127.0.0.1:8080"}
	config.HTTP.PayloadLimit = 2
	config.Attestation = Attestation{Type: "coco_as_builtin", Timeout: 5, RVPS: RVPS{"BuiltIn"}}
	config.Attestation.Broker.DurationMin = 5
	config.Admin.Mode = AdminAllowAll
	config.Storage.Type = "Memory"
	meta, err := toml.Decode(string(text), config)
	if err != nil {
		return nil, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("field %s: not known to this simulator of Trustee; remove it", unknown[0])
	}
	if err := errors.Join(config.HTTP.check(), config.checkServices(), config.Admin.check()); err != nil {
		return nil, err
	}
	return config, nil
}

func (h *HTTP) check() error {
	switch {
	case len(h.Sockets) == 0:
		return errors.New(`field http_server.sockets: empty; set it to, for example, ["0.0.0.0:8080"]`)
	case h.PayloadLimit < 1 || h.PayloadLimit > 1024:
		return fmt.Errorf("field http_server.payload_request_size: %d: want 1 to 1024 (MiB)", h.PayloadLimit)
	case !h.InsecureHTTP && (h.PrivateKey == "" || h.Certificate == ""):
		return errors.New("field http_server.insecure_http: false needs http_server.private_key and http_server.certificate, or set it to true")
	}
	return nil
}

// maxMinutes bounds times, so that they can be added to.
const maxMinutes = 365 * 24 * 60

func (c *Config) checkServices() error {
	only := func(field, value, supported string) error {
		if value == supported {
			return nil
		}
		return fmt.Errorf("field %s: %q: this simulator of Trustee has %q only", field, value, supported)
	}
	minutes := func(field string, value int64) error {
		if value >= 1 && value <= maxMinutes {
			return nil
		}
		return fmt.Errorf("field %s: %d: want 1 to %d (minutes)", field, value, maxMinutes)
	}
	err := errors.Join(
		only("attestation_service.type", c.Attestation.Type, "coco_as_builtin"),
		only("attestation_service.rvps_config.type", c.Attestation.RVPS.Type, "BuiltIn"),
		only("storage_backend.storage_type", c.Storage.Type, "Memory"),
		minutes("attestation_service.timeout", c.Attestation.Timeout),
	)
	// Negative, as in Trustee: tokens that have expired when they are issued.
	if d := c.Attestation.Broker.DurationMin; d < -maxMinutes || d > maxMinutes || d == 0 {
		err = errors.Join(err, fmt.Errorf("field attestation_service.attestation_token_broker.duration_min: %d: want 1 to %d (minutes), or a negative number", d, maxMinutes))
	}
	err = errors.Join(err, c.checkTokens())
	for i, path := range c.Token.ExtraTEEKeyPaths {
		if !strings.HasPrefix(path, "/") {
			err = errors.Join(err, fmt.Errorf("field attestation_token.extra_teekey_paths[%d]: %q: want a JSON pointer, which begins with /", i, path))
		}
	}
	for i, plugin := range c.Plugins {
		field := fmt.Sprintf("plugins[%d].", i)
		err = errors.Join(err, only(field+"name", plugin.Name, "resource"))
		if plugin.Type != "" {
			err = errors.Join(err, only(field+"storage_backend_type", plugin.Type, "kvstorage"))
		}
	}
	return err
}

// checkTokens finds configurations whose own tokens the KBS would refuse.
func (c *Config) checkTokens() error {
	signer := c.Attestation.Broker.Signer
	if signer.Key == "" && (signer.Certificate != "" || signer.URL != "") {
		return errors.New("field attestation_service.attestation_token_broker.signer.key_path: missing; name the P-256 key of the certificate")
	}
	for i, set := range c.Token.TrustedJWKSets {
		if !strings.HasPrefix(set, "file:///") {
			return fmt.Errorf("field attestation_token.trusted_jwk_sets[%d]: %q: this simulator of Trustee reads file:///PATH only", i, set)
		}
	}
	if !c.Token.InsecureHeaderJWK && (len(c.Token.TrustedCerts) == 0 || signer.Certificate == "") {
		return errors.New("field attestation_token.insecure_header_jwk: the KBS would refuse the tokens of its own attestation service; set it to true, or give " +
			"attestation_token.trusted_certs_paths and attestation_service.attestation_token_broker.signer with key_path and cert_path")
	}
	return nil
}

func (a *Admin) check() error {
	providers, acls := a.Authentication.BearerJWT.Providers, a.Authorization.RegexACL.ACLs
	switch a.Mode {
	case AdminAllowAll, AdminDenyAll:
		return nil
	case AdminAuthenticated:
	default:
		return fmt.Errorf("field admin.authorization_mode: %q: want %s, %s or %s", a.Mode, AdminAllowAll, AdminDenyAll, AdminAuthenticated)
	}
	if len(providers) == 0 {
		return errors.New("field admin.authentication.bearer_jwt.identity_providers: empty; name at least one public_key_uri")
	}
	for i, provider := range providers {
		field := fmt.Sprintf("field admin.authentication.bearer_jwt.identity_providers[%d].", i)
		if provider.PublicKeyURI == "" && provider.JWKSetURI == "" {
			return errors.New(field + "public_key_uri: missing, and jwk_set_uri too; name one of them, file:///PATH")
		}
		for name, uri := range map[string]string{"public_key_uri": provider.PublicKeyURI, "jwk_set_uri": provider.JWKSetURI} {
			if uri != "" && !strings.HasPrefix(uri, "file:///") {
				return fmt.Errorf("%s%s: %q: want file:///PATH", field, name, uri)
			}
		}
	}
	for i, acl := range acls {
		field := fmt.Sprintf("field admin.authorization.regex_acl.acls[%d].allowed_endpoints: %q: ", i, acl.AllowedEndpoints)
		if !strings.HasPrefix(acl.AllowedEndpoints, "^/kbs") || !strings.HasSuffix(acl.AllowedEndpoints, "$") {
			return errors.New(field + "Admin Role regex must be anchored. Begin it with ^/kbs and end it with $")
		}
		if _, err := regexp.Compile(acl.AllowedEndpoints); err != nil {
			return fmt.Errorf("%s%w", field, err)
		}
	}
	return nil
}
