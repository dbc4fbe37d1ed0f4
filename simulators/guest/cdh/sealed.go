package cdh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/framework/sealedsecret"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// BaseDir is confidential-data-hub's own directory; credentials are below it.
const BaseDir = "/run/confidential-containers/cdh"

// signingKeys is the directory of the credentials that verify sealed secrets, below BaseDir.
const signingKeys = "sealed-secret"

// UnsealSecret turns a sealed secret into the secret.
func (s *Service) UnsealSecret(ctx context.Context, request *guestpb.UnsealSecretInput) (*guestpb.UnsealSecretOutput, error) {
	plaintext, name, err := s.unseal(ctx, string(request.GetSecret()))
	if err != nil {
		s.Log.Error("unseal secret failed", "error", err.Error())
		return nil, status.Error(codes.Internal, "[CDH] [ERROR]: Unseal Secret failed")
	}
	s.Log.Info("secret unsealed", "resource", name)
	return &guestpb.UnsealSecretOutput{Plaintext: plaintext}, nil
}

func (s *Service) unseal(ctx context.Context, sealed string) (plaintext []byte, name string, err error) {
	fetch := func(kid string) ([]byte, error) { return s.signingKey(ctx, kid) }
	if s.SkipVerification {
		fetch = nil
	}
	secret, err := sealedsecret.Open(sealed, fetch)
	if err != nil {
		return nil, "", err
	}
	switch {
	case secret.Type != "vault":
		return nil, "", fmt.Errorf("sealed secret of type %.32q: the simulated confidential-data-hub has no KMS to open it with; seal a vault secret", secret.Type)
	case secret.Provider != "kbs":
		return nil, "", fmt.Errorf("sealed secret of provider %.32q: the simulated confidential-data-hub has kbs only", secret.Provider)
	}
	uri, err := ParseResourceURI(secret.Name)
	if err != nil {
		return nil, "", err
	}
	plaintext, err = s.Resources.Get(ctx, uri)
	return plaintext, uri.Path(), err
}

// signingKey finds the key that verifies a sealed secret: a resource of the KBS, or a credential.
func (s *Service) signingKey(ctx context.Context, kid string) ([]byte, error) {
	if strings.HasPrefix(kid, "kbs://") {
		uri, err := ParseResourceURI(kid)
		if err != nil {
			return nil, err
		}
		return s.Resources.Get(ctx, uri)
	}
	base, err := filepath.EvalSymlinks(filepath.Join(s.base(), signingKeys))
	if err != nil {
		return nil, errors.New("KID is invalid. Must be a KBS URI or a credential path.") //nolint:staticcheck // confidential-data-hub's text
	}
	path, err := filepath.EvalSymlinks(filepath.Join(base, kid))
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(path, base+"/") {
		return nil, errors.New("Invalid KID Key Path") //nolint:staticcheck // confidential-data-hub's text
	}
	return os.ReadFile(path)
}

func (s *Service) base() string {
	if s.Base != "" {
		return s.Base
	}
	return BaseDir
}

// FetchCredentials writes the resources that cdh.toml names to their files, before anybody is served.
func (s *Service) FetchCredentials(ctx context.Context, credentials []Credential) error {
	for i, c := range credentials {
		field := fmt.Sprintf("cdh.toml: credentials[%d]: ", i)
		uri, err := ParseResourceURI(c.ResourceURI)
		if err != nil {
			return fmt.Errorf("%sresource_uri: %w", field, err)
		}
		path := filepath.Clean(c.Path)
		if !strings.HasPrefix(path, s.base()+"/") {
			return fmt.Errorf("%spath %q: want a file below %s", field, c.Path, s.base())
		}
		content, err := s.Resources.Get(ctx, uri)
		if err != nil {
			return fmt.Errorf("%s%s: %w", field, uri.Path(), err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("%s%w", field, err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("%s%w", field, err)
		}
		s.Log.Info("credential written", "resource", uri.Path(), "path", path)
	}
	return nil
}
