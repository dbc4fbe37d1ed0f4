package kbs_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	client "github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/simulators/kbs"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/config"
)

// certificate makes a self-signed one for 127.0.0.1.
func certificate(t *testing.T) (certificatePEM []byte, certificatePath, keyPath string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	mustSucceed(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	mustSucceed(t, err)
	p8, err := x509.MarshalPKCS8PrivateKey(key)
	mustSucceed(t, err)
	dir := t.TempDir()
	certificatePEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certificatePath, keyPath = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	mustSucceed(t, os.WriteFile(certificatePath, certificatePEM, 0o600),
		os.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}), 0o600))
	return certificatePEM, certificatePath, keyPath
}

func TestRunServesTLSUntilItIsTold(t *testing.T) {
	ca, certificatePath, keyPath := certificate(t)
	configuration, err := config.Parse([]byte(`
[http_server]
sockets = ["127.0.0.1:0"]
certificate = "` + certificatePath + `"
private_key = "` + keyPath + `"
[attestation_token]
insecure_header_jwk = true
[[plugins]]
name = "resource"
`))
	mustSucceed(t, err)
	log := &logBuffer{}
	server, err := kbs.New(configuration, log, kbs.Options{})
	mustSucceed(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()

	address := regexp.MustCompile(`"addresses":\["([^"]+)"\]`)
	var found []string
	for deadline := time.Now().Add(10 * time.Second); found == nil; found = address.FindStringSubmatch(log.String()) {
		if time.Now().After(deadline) {
			t.Fatal("no address in the log")
		}
		time.Sleep(time.Millisecond)
	}
	trusting, err := client.New(client.Options{URL: "https://" + found[1], CA: ca})
	mustSucceed(t, err)
	mustSucceed(t, trusting.SetResource(t.Context(), "a/b/c", []byte("x")))
	doubting, err := client.New(client.Options{URL: "https://" + found[1]})
	mustSucceed(t, err)
	expect(t, "certificate not trusted", doubting.SetResource(t.Context(), "a/b/c", []byte("x")), client.Inconclusive, "")

	cancel()
	select {
	case err := <-ended:
		mustSucceed(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("still serving")
	}
	expect(t, "stopped", trusting.SetResource(t.Context(), "a/b/c", []byte("x")), client.Inconclusive, "")
}
