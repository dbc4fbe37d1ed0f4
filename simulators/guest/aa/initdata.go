package aa

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
)

// InitData is the init-data that attestation-agent was started with.
type InitData struct {
	// Digest is what is bound to the TEE, nil when there is no init-data.
	Digest []byte
	// Plaintext is the document that the KBS is sent, nil when only a digest was given.
	Plaintext []byte
}

// LoadInitData reads the init-data of the options --initdata-toml, a path, and --initdata-digest, standard base64. The
// document wins, as in attestation-agent; both may be empty.
func LoadInitData(path, digest string) (*InitData, error) {
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--initdata-toml: %w", err)
		}
		document, err := initdata.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("--initdata-toml %s: %w", path, err)
		}
		sum, err := document.Digest()
		if err != nil {
			return nil, fmt.Errorf("--initdata-toml %s: %w", path, err)
		}
		return &InitData{Digest: sum, Plaintext: raw}, nil
	}
	if digest == "" {
		return &InitData{}, nil
	}
	sum, err := base64.StdEncoding.DecodeString(digest)
	if err != nil {
		return nil, fmt.Errorf("--initdata-digest: want standard base64: %w", err)
	}
	if len(sum) == 0 {
		return nil, errors.New("--initdata-digest: empty")
	}
	return &InitData{Digest: sum}, nil
}

// Bind binds the digest to the TEE, if there is one to bind. Without a TEE that is an error: init-data that nothing
// measures would be believed without reason.
func (i *InitData) Bind(ctx context.Context, attester Attester) error {
	if i.Digest == nil {
		return nil
	}
	if attester == nil {
		return fmt.Errorf("bind init-data: %w", ErrNoTEE)
	}
	if err := attester.BindInitData(ctx, i.Digest); err != nil && !errors.Is(err, ErrUnbound) {
		return fmt.Errorf("bind init-data: %w", err)
	}
	return nil
}
