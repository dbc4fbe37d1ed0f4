package cdh

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/framework/sealedsecret"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// sealingHub is a data hub whose KBS has a secret and a sealing key.
func sealingHub(t *testing.T) (hub *Service, sealing *ecdsa.PrivateKey, log func() string) {
	t.Helper()
	key, keyPair := ecKey(t, elliptic.P256())
	sealing, _ = ecKey(t, elliptic.P256())
	public, err := sealedsecret.PublicKey(sealing)
	if err != nil {
		t.Fatal(err)
	}
	hub, buffer := service(t, &stubKBS{answer: func(path, _ string) (int, []byte) {
		switch path {
		case "/kbs/v0/resource/a/secret/one":
			return http.StatusOK, encryptEC(t, &key.PublicKey, []byte(secret))
		case "/kbs/v0/resource/a/key/sealing":
			return http.StatusOK, encryptEC(t, &key.PublicKey, public)
		}
		return http.StatusUnauthorized, refused("PolicyDeny", "Access denied by policy")
	}}, &stubAA{keyPair: keyPair})
	hub.Base = t.TempDir()
	return hub, sealing, buffer.String
}

func TestUnsealSecret(t *testing.T) {
	hub, sealing, log := sealingHub(t)
	stranger, _ := ecKey(t, elliptic.P256())
	seal := func(key *ecdsa.PrivateKey, kid, uri string) string {
		sealed, err := sealedsecret.Seal(sealedsecret.Vault(uri), key, kid)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	kms := sealedsecret.Vault("kbs:///a/secret/one")
	kms.Provider = "aliyun"
	other, err := sealedsecret.Seal(kms, sealing, "kbs:///a/key/sealing")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, sealed, logged string }{
		{"as sealed", seal(sealing, "kbs:///a/key/sealing", "kbs:///a/secret/one"), ""},
		{"by a stranger", seal(stranger, "kbs:///a/key/sealing", "kbs:///a/secret/one"), "is not signed by the verification key"},
		{"no such key", seal(sealing, "kbs:///a/key/none", "kbs:///a/secret/one"), "request unauthorized"},
		{"no such secret", seal(sealing, "kbs:///a/key/sealing", "kbs:///a/secret/none"), "request unauthorized"},
		{"no URI", seal(sealing, "kbs:///a/key/sealing", "a/secret"), "a/secret"},
		{"no credential", seal(sealing, "local", "kbs:///a/secret/one"), "KID is invalid. Must be a KBS URI or a credential path."},
		{"another provider", other, "has kbs only"},
		{"not sealed", "open", "does not begin with"},
	} {
		answer, err := hub.UnsealSecret(t.Context(), &guestpb.UnsealSecretInput{Secret: []byte(tc.sealed)})
		if tc.logged == "" {
			if err != nil || string(answer.GetPlaintext()) != secret {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if got := status.Convert(err); got.Code() != codes.Internal || got.Message() != "[CDH] [ERROR]: Unseal Secret failed" || !strings.Contains(log(), tc.logged) {
			t.Errorf("%s: %v, want in the log %q", tc.name, err, tc.logged)
		}
	}
	if strings.Contains(log(), secret) {
		t.Error("the log has the secret")
	}
	hub.SkipVerification = true
	if answer, err := hub.UnsealSecret(t.Context(), &guestpb.UnsealSecretInput{Secret: []byte(seal(stranger, "x", "kbs:///a/secret/one"))}); err != nil || string(answer.GetPlaintext()) != secret {
		t.Errorf("without verification: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	hub, sealing, _ := sealingHub(t)
	path := filepath.Join(hub.Base, "sealed-secret", "local")
	if err := hub.FetchCredentials(t.Context(), []Credential{{path, "kbs:///a/key/sealing"}}); err != nil {
		t.Fatal(err)
	}
	for kid, wantErr := range map[string]bool{"local": false, "../sealed-secret/local": false, "../../etc/passwd": true, "none": true} {
		sealed, err := sealedsecret.Seal(sealedsecret.Vault("kbs:///a/secret/one"), sealing, kid)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hub.UnsealSecret(t.Context(), &guestpb.UnsealSecretInput{Secret: []byte(sealed)}); (err != nil) != wantErr {
			t.Errorf("kid %s: %v", kid, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for want, credential := range map[string]Credential{
		"credentials[0]: path":           {"/etc/passwd", "kbs:///a/key/sealing"},
		"credentials[0]: resource_uri":   {path, "a/b"},
		"a/none/x: request unauthorized": {path, "kbs:///a/none/x"},
	} {
		if err := hub.FetchCredentials(t.Context(), []Credential{credential}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", credential, err, want)
		}
	}
	if err := hub.FetchCredentials(t.Context(), []Credential{{hub.Base + "/../x", "kbs:///a/key/sealing"}}); err == nil {
		t.Error("a path out of the directory was taken")
	}
}
