package kbs

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// AdminRole is the role that [MintAdminToken] claims.
const AdminRole = "admin"

// MintAdminToken makes a token for an administrator with role [AdminRole], valid from now for lifetime. privateKey is an
// Ed25519 key, PKCS #8 in PEM, whose public half the KBS's configuration names.
func MintAdminToken(privateKey []byte, lifetime time.Duration) (string, error) {
	return AdminClaims{Role: AdminRole, Expires: time.Now().Add(lifetime)}.Sign(privateKey)
}

// AdminClaims are what an administrator's token says (Trustee kbs/docs/admin.md).
type AdminClaims struct {
	Role     string // sent also when empty
	Issuer   string // empty: not sent, like all below
	Audience string
	Expires  time.Time
}

// Sign makes the token; see [MintAdminToken].
func (c AdminClaims) Sign(privateKey []byte) (string, error) {
	block, _ := pem.Decode(privateKey)
	if block == nil {
		return "", errors.New("administrator's key: not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("administrator's key: want PKCS #8: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return "", fmt.Errorf("administrator's key: %T: want Ed25519", parsed)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("administrator's token: %w", err)
	}
	claims := map[string]any{"role": c.Role, "iat": time.Now().Unix()}
	if c.Issuer != "" {
		claims["iss"] = c.Issuer
	}
	if c.Audience != "" {
		claims["aud"] = c.Audience
	}
	if !c.Expires.IsZero() {
		claims["exp"] = c.Expires.Unix()
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("administrator's token: %w", err)
	}
	return token, nil
}

// SetResourcePolicy replaces the policy that says which tokens get which resources.
func (c *Client) SetResourcePolicy(ctx context.Context, rego string) error {
	return c.postJSON(ctx, "resource-policy", map[string]string{"policy": base64url([]byte(rego))})
}

// ResourcePolicies gives the names of the resource policies that the KBS has.
func (c *Client) ResourcePolicies(ctx context.Context) ([]string, error) {
	answer, err := c.administer(ctx, call{method: http.MethodGet, path: "resource-policy"})
	if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(answer.body, &names); err != nil {
		return nil, fmt.Errorf("resource policies: %w", &ResponseError{http.StatusOK, "not a JSON list of names"})
	}
	return names, nil
}

// SetAttestationPolicy replaces the policy that appraises evidence. The id that counts for a machine's own evidence is
// default_cpu: others have no effect, default among them.
func (c *Client) SetAttestationPolicy(ctx context.Context, id, rego string) error {
	return c.postJSON(ctx, "attestation-policy",
		map[string]string{"type": "rego", "policy_id": id, "policy": base64url([]byte(rego))})
}

// SetResource stores the resource REPOSITORY/TYPE/TAG, or replaces it.
func (c *Client) SetResource(ctx context.Context, path string, content []byte) error {
	full, err := resourcePath(path)
	if err != nil {
		return err
	}
	_, err = c.administer(ctx, call{method: http.MethodPost, path: full, body: content, contentType: "application/octet-stream"})
	return err
}

// DeleteResource removes the resource REPOSITORY/TYPE/TAG.
func (c *Client) DeleteResource(ctx context.Context, path string) error {
	full, err := resourcePath(path)
	if err != nil {
		return err
	}
	_, err = c.administer(ctx, call{method: http.MethodDelete, path: full})
	return err
}

// SetReferenceValue sets what attestation policies get from query_reference_value(name): any JSON value, commonly a list
// of acceptable strings.
func (c *Client) SetReferenceValue(ctx context.Context, name string, value any) error {
	payload, err := json.Marshal(map[string]any{name: value})
	if err != nil {
		return fmt.Errorf("reference value %s: %w", name, err)
	}
	return c.postJSON(ctx, "reference-value", map[string]string{
		"version": "0.1.0", "type": "sample", "payload": base64.StdEncoding.EncodeToString(payload),
	})
}

// GetReferenceValue gives a reference value as JSON. A KBS reports one that it does not have as RvpsError.
func (c *Client) GetReferenceValue(ctx context.Context, name string) (json.RawMessage, error) {
	answer, err := c.administer(ctx, call{method: http.MethodGet, path: "reference-value/" + url.PathEscape(name)})
	if err != nil {
		return nil, err
	}
	if !json.Valid(answer.body) {
		return nil, fmt.Errorf("reference value %s: %w", name, &ResponseError{http.StatusOK, "not JSON"})
	}
	return answer.body, nil
}

func (c *Client) postJSON(ctx context.Context, path string, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = c.administer(ctx, call{method: http.MethodPost, path: path, body: body, contentType: contentJSON})
	return err
}

func (c *Client) administer(ctx context.Context, call call) (*answer, error) {
	call.bearer = c.adminToken
	answer, err := c.do(ctx, call)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", call.method, call.path, err)
	}
	return answer, nil
}
