package kbs_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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

// addressOf is where a server that runs listens, by its log.
func addressOf(t *testing.T, log *logBuffer) string {
	t.Helper()
	address := regexp.MustCompile(`"addresses":\["([^"]+)"\]`)
	var found []string
	for deadline := time.Now().Add(10 * time.Second); found == nil; found = address.FindStringSubmatch(log.String()) {
		if time.Now().After(deadline) {
			t.Fatal("no address in the log")
		}
		time.Sleep(time.Millisecond)
	}
	return found[1]
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

	address := addressOf(t, log)
	trusting, err := client.New(client.Options{URL: "https://" + address, CA: ca})
	mustSucceed(t, err)
	mustSucceed(t, trusting.SetResource(t.Context(), "a/b/c", []byte("x")))
	doubting, err := client.New(client.Options{URL: "https://" + address})
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

// A request that is under way when the server is told to end is answered; nobody new is let in meanwhile.
func TestRunFinishesWhatIsUnderWay(t *testing.T) {
	configuration, err := config.Parse([]byte("[http_server]\nsockets = [\"127.0.0.1:0\"]\ninsecure_http = true\n" +
		"[attestation_token]\ninsecure_header_jwk = true\n[[plugins]]\nname = \"resource\"\n"))
	mustSucceed(t, err)
	log := &logBuffer{}
	server, err := kbs.New(configuration, log, kbs.Options{})
	mustSucceed(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	address := addressOf(t, log)

	dial := func() (net.Conn, error) { return new(net.Dialer).DialContext(t.Context(), "tcp", address) }
	c, err := dial()
	mustSucceed(t, err)
	defer func() { _ = c.Close() }()
	mustSucceed(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	// The server says 100 once it waits for the rest: the request is in its hands.
	_, err = fmt.Fprint(c, "POST /kbs/v0/resource/a/b/c HTTP/1.1\r\nHost: kbs\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n")
	mustSucceed(t, err)
	answers := bufio.NewReader(c)
	going, err := http.ReadResponse(answers, nil)
	mustSucceed(t, err)
	_ = going.Body.Close()
	if going.StatusCode != http.StatusContinue {
		t.Fatalf("status %d", going.StatusCode)
	}
	cancel()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		another, err := dial()
		if err != nil {
			break
		}
		_ = another.Close()
		if time.Now().After(deadline) {
			t.Fatal("still letting people in")
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("ended with a request under way: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	_, err = fmt.Fprint(c, "secret")
	mustSucceed(t, err)
	answer, err := http.ReadResponse(answers, nil)
	mustSucceed(t, err)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("status %d", answer.StatusCode)
	}
	select {
	case err := <-ended:
		mustSucceed(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("still serving")
	}
	if text := log.String(); !strings.Contains(text, `"decision":"stored"`) || strings.Contains(text, "requests were cut off") {
		t.Errorf("the log:\n%s", text)
	}
}
