// Package admin decides who may administer a KBS (Trustee kbs/src/admin): everyone, no one, or who bears a token of a
// known identity provider with a role that a rule lets through.
//
// It must not know what is administered.
package admin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/coco-e2e/coco-e2e/simulators/kbs/config"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/token"
)

// Reasons for refusing, with Trustee's texts.
var (
	ErrDenyAll  = errors.New("Admin access denied: Admin access denied as DenyAll authorization_mode is enabled") //nolint:staticcheck // Trustee's
	ErrNoBearer = errors.New("Failed to parse HTTP Auth Bearer header")                                           //nolint:staticcheck // Trustee's
	ErrUnknown  = errors.New("Cannot verify token with any of the issuers")                                       //nolint:staticcheck // Trustee's
	ErrNoRole   = errors.New("Missing required `role` claim in JWT")                                              //nolint:staticcheck // Trustee's
)

// RoleError says that a role's rules do not let it through.
type RoleError struct{ Role, Path string }

func (e *RoleError) Error() string {
	return fmt.Sprintf("Role %s not allowed for path %s", e.Role, e.Path)
}

// Gate decides.
type Gate struct {
	mode      string
	providers []provider
	rules     []rule
	now       func() time.Time
}

type provider struct {
	issuer, audience string
	key              crypto.PublicKey
	algorithms       []jose.SignatureAlgorithm
}

type rule struct {
	role      string
	endpoints *regexp.Regexp
}

// New makes a gate. It reads the providers' public keys.
func New(configuration *config.Admin, now func() time.Time) (*Gate, error) {
	gate := &Gate{mode: configuration.Mode, now: now}
	if gate.mode != config.AdminAuthenticated {
		return gate, nil
	}
	for i, configured := range configuration.Authentication.BearerJWT.Providers {
		field := fmt.Sprintf("field admin.authentication.bearer_jwt.identity_providers[%d].", i)
		if configured.PublicKeyURI != "" {
			key, algorithms, err := readKey(configured.PublicKeyPath())
			if err != nil {
				return nil, fmt.Errorf("%spublic_key_uri: %w", field, err)
			}
			gate.providers = append(gate.providers, provider{configured.Issuer, configured.Audience, key, algorithms})
		}
		if configured.JWKSetURI == "" {
			continue
		}
		keys, err := ReadJWKSet(configured.JWKSetPath())
		if err != nil {
			return nil, fmt.Errorf("%sjwk_set_uri: %w", field, err)
		}
		for _, key := range keys {
			algorithms, err := algorithmsOf(key.Key)
			if err != nil {
				return nil, fmt.Errorf("%sjwk_set_uri: key %q: %w", field, key.KeyID, err)
			}
			gate.providers = append(gate.providers, provider{configured.Issuer, configured.Audience, key.Key, algorithms})
		}
	}
	for i, acl := range configuration.Authorization.RegexACL.ACLs {
		endpoints, err := regexp.Compile(acl.AllowedEndpoints)
		if err != nil {
			return nil, fmt.Errorf("field admin.authorization.regex_acl.acls[%d].allowed_endpoints: %w", i, err)
		}
		gate.rules = append(gate.rules, rule{acl.Role, endpoints})
	}
	return gate, nil
}

func readKey(path string) (crypto.PublicKey, []jose.SignatureAlgorithm, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, fmt.Errorf("%s: not PEM", path)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: want a public key in PEM (BEGIN PUBLIC KEY): %w", path, err)
	}
	algorithms, err := algorithmsOf(key)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, algorithms, nil
}

// ReadJWKSet reads the public keys of a JWK set (RFC 7517, section 5).
func ReadJWKSet(path string) ([]jose.JSONWebKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("%s: want a JWK set: %w", path, err)
	}
	for _, key := range set.Keys {
		if !key.IsPublic() {
			return nil, fmt.Errorf("%s: key %q is not a public key", path, key.KeyID)
		}
	}
	if len(set.Keys) == 0 {
		return nil, fmt.Errorf("%s: the JWK set has no keys", path)
	}
	return set.Keys, nil
}

func algorithmsOf(key any) ([]jose.SignatureAlgorithm, error) {
	switch key.(type) {
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	case *ecdsa.PublicKey:
		return []jose.SignatureAlgorithm{jose.ES256, jose.ES384}, nil
	case *rsa.PublicKey:
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, nil
	}
	return nil, fmt.Errorf("%T: want an Ed25519, EC or RSA key", key)
}

// Check says why the sender of a request may not administer, or nil. Errors have no part of a token but its role.
func (g *Gate) Check(r *http.Request) error {
	switch g.mode {
	case config.AdminAllowAll:
		return nil
	case config.AdminAuthenticated:
	default:
		return ErrDenyAll
	}
	bearer, ok := Bearer(r)
	if !ok {
		return ErrNoBearer
	}
	role, err := g.role(bearer)
	if err != nil {
		return err
	}
	path := r.URL.RequestURI()
	for _, rule := range g.rules {
		if rule.role == role && rule.endpoints.MatchString(path) {
			return nil
		}
	}
	return &RoleError{role, path}
}

// Bearer gives the token of a request's Authorization header.
func Bearer(r *http.Request) (string, bool) {
	scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	value = strings.TrimSpace(value)
	return value, ok && strings.EqualFold(scheme, "Bearer") && value != ""
}

type claims struct {
	jwt.Claims
	Role *string `json:"role"`
}

func (g *Gate) role(bearer string) (string, error) {
	for _, provider := range g.providers {
		parsed, err := jwt.ParseSigned(bearer, provider.algorithms)
		if err != nil {
			continue
		}
		var said claims
		if parsed.Claims(provider.key, &said) != nil || !provider.accepts(&said, g.now()) {
			continue
		}
		if said.Role == nil {
			return "", ErrNoRole
		}
		return *said.Role, nil
	}
	return "", ErrUnknown
}

func (p *provider) accepts(said *claims, now time.Time) bool {
	if said.Expiry == nil {
		return false
	}
	expected := jwt.Expected{Issuer: p.issuer, Time: now}
	if p.audience != "" {
		expected.AnyAudience = jwt.Audience{p.audience}
	}
	return said.ValidateWithLeeway(expected, token.Leeway) == nil
}
