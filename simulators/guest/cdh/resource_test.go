package cdh

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
	"github.com/coco-e2e/coco-e2e/simulators/guest/image"
)

const secret = "not-for-logs-3141592653"

// stubAA gives tokens token1, token2, … with a key of its own.
type stubAA struct {
	guestpb.AttestationAgentServiceService // nil: other calls panic
	keyPair                                string
	err                                    error

	mutex  sync.Mutex
	tokens int
}

func (s *stubAA) GetToken(_ context.Context, request *guestpb.GetTokenRequest) (*guestpb.GetTokenResponse, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if request.GetTokenType() != "kbs" {
		return nil, errors.New("token type")
	}
	s.tokens++
	token, err := json.Marshal(map[string]string{"token": fmt.Sprintf("token%d", s.tokens), "tee_keypair": s.keyPair})
	return &guestpb.GetTokenResponse{Token: token}, err
}

func (s *stubAA) count() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.tokens
}

func serveAA(t *testing.T, agent *stubAA) *channel.Client {
	t.Helper()
	address := "unix://" + filepath.Join(t.TempDir(), "aa.sock")
	listener, err := channel.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- channel.Serve(ctx, listener, func(server *ttrpc.Server) {
			guestpb.RegisterAttestationAgentServiceService(server, agent)
		})
	}()
	client := &channel.Client{Peer: "AA", Address: address}
	t.Cleanup(func() {
		_ = client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client
}

// stubKBS answers resource requests with what answer says.
type stubKBS struct {
	answer func(path, token string) (status int, body []byte)

	mutex    sync.Mutex
	requests []string
}

func (k *stubKBS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mutex.Lock()
	k.requests = append(k.requests, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization"))
	k.mutex.Unlock()
	status, body := k.answer(r.URL.Path, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func refused(variant, detail string) []byte {
	return fmt.Appendf(nil, `{"type":"https://github.com/confidential-containers/kbs/errors/%s","detail":"%s"}`, variant, detail)
}

func ecKey(t *testing.T, curve elliptic.Curve) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// service is a data hub whose KBS is the stub; its log goes to the buffer.
func service(t *testing.T, kbs *stubKBS, agent *stubAA) (*Service, *bytes.Buffer) {
	t.Helper()
	server := httptest.NewServer(kbs)
	t.Cleanup(server.Close)
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	resources := NewResources(KBCConfig{Name: "cc_kbc", URL: server.URL + "/"}, serveAA(t, agent), logger)
	images, err := image.NewPuller("", logger)
	if err != nil {
		t.Fatal(err)
	}
	return &Service{Resources: resources, Images: images, Log: logger}, &log
}

func (s *Service) get(t *testing.T, path string) (string, error) {
	t.Helper()
	response, err := s.GetResource(t.Context(), &guestpb.GetResourceRequest{ResourcePath: path})
	return string(response.GetResource()), err
}

func TestGetResource(t *testing.T) {
	p256, p256PEM := ecKey(t, elliptic.P256())
	p521, p521PEM := ecKey(t, elliptic.P521())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaPEM := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}))
	for _, test := range []struct {
		name, keyPair string
		encrypt       func(plaintext []byte) []byte
	}{
		{"P-256", p256PEM, func(p []byte) []byte { return encryptEC(t, &p256.PublicKey, p) }},
		{"P-521", p521PEM, func(p []byte) []byte { return encryptEC(t, &p521.PublicKey, p) }},
		{"RSA", rsaPEM, func(p []byte) []byte { return encryptRSA(t, &rsaKey.PublicKey, p) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			kbs := &stubKBS{answer: func(string, string) (int, []byte) { return 200, test.encrypt([]byte(secret)) }}
			agent := &stubAA{keyPair: test.keyPair}
			hub, log := service(t, kbs, agent)
			for range 2 {
				if got, err := hub.get(t, "kbs:///default/secret/one.txt?a=b"); got != secret || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			}
			want := "GET /kbs/v0/resource/default/secret/one.txt?a=b Bearer token1"
			if !slices.Equal(kbs.requests, []string{want, want}) || agent.count() != 1 {
				t.Errorf("requests %q, %d tokens", kbs.requests, agent.count())
			}
			assertNoSecrets(t, log, agent)
		})
	}
}

func assertNoSecrets(t *testing.T, log *bytes.Buffer, agent *stubAA) {
	t.Helper()
	for _, text := range []string{secret, "token1", "token2", strings.Split(agent.keyPair, "\n")[1]} {
		if strings.Contains(log.String(), text) {
			t.Errorf("log has %q: %s", text, log)
		}
	}
}

// TestRefusal counts what a refused resource costs: three requests, and a token before the first and after each.
func TestRefusal(t *testing.T) {
	_, keyPair := ecKey(t, elliptic.P256())
	kbs := &stubKBS{answer: func(string, string) (int, []byte) { return 401, refused("PolicyDeny", "Access denied by policy") }}
	agent := &stubAA{keyPair: keyPair}
	hub, log := service(t, kbs, agent)
	_, err := hub.get(t, "kbs:///default/secret/one")
	if got := status.Convert(err); got.Code() != codes.Internal || got.Message() != "[CDH] [ERROR]: Get Resource failed" {
		t.Errorf("error %v", err)
	}
	if want := []string{
		"GET /kbs/v0/resource/default/secret/one Bearer token1",
		"GET /kbs/v0/resource/default/secret/one Bearer token2",
		"GET /kbs/v0/resource/default/secret/one Bearer token3",
	}; !slices.Equal(kbs.requests, want) || agent.count() != 4 {
		t.Errorf("requests %q, %d tokens", kbs.requests, agent.count())
	}
	if got := log.String(); strings.Count(got, "errors/PolicyDeny") != 3 || !strings.Contains(got, `error="request unauthorized"`) {
		t.Errorf("log %s", got)
	}
}

func TestExpiredTokenIsReplaced(t *testing.T) {
	key, keyPair := ecKey(t, elliptic.P256())
	kbs := &stubKBS{answer: func(_, token string) (int, []byte) {
		if token == "token1" {
			return 401, refused("TokenVerifierError", "Token Verifier error")
		}
		return 200, encryptEC(t, &key.PublicKey, []byte(secret))
	}}
	agent := &stubAA{keyPair: keyPair}
	hub, log := service(t, kbs, agent)
	if got, err := hub.get(t, "kbs:///default/secret/one"); got != secret || err != nil || agent.count() != 2 {
		t.Errorf("%q, %v, %d tokens", got, err, agent.count())
	}
	assertNoSecrets(t, log, agent)
}

func TestFailures(t *testing.T) {
	key, keyPair := ecKey(t, elliptic.P256())
	other, _ := ecKey(t, elliptic.P256())
	good := encryptEC(t, &key.PublicKey, []byte(secret))
	for _, test := range []struct {
		name   string
		uri    string
		agent  *stubAA
		status int
		body   []byte
		want   string // in the log
	}{
		{"not found", "", nil, 404, refused("PluginNotFound", "Plugin x not found"), "KBS resource not found: KBS resource Not Found (Error 404): {type: "},
		{"internal error", "", nil, 500, []byte("oops"), "KBS internal error: KBS Server Internal Failed, Response: status 500"},
		{"other key", "", nil, 200, encryptEC(t, &other.PublicKey, []byte(secret)), "decrypt KBS response body failed"},
		{"tampered", "", nil, 200, bytes.Replace(good, []byte(`"tag":"`), []byte(`"tag":"AA`), 1), "decrypt KBS response body failed"},
		{"in the clear", "", nil, 200, []byte(secret), "deserialize http response failed"},
		{"no token", "", &stubAA{err: status.Error(codes.Internal, "[ERROR:attestation-agent] AA-KBC get token failed")}, 0, nil, "get token failed: "},
		{"token without key", "", &stubAA{keyPair: secret}, 0, nil, "field tee_keypair: not PEM"},
		{"bad URI", "kbs:///default/one", nil, 0, nil, "invalid kbs resource uri"},
	} {
		t.Run(test.name, func(t *testing.T) {
			agent := test.agent
			if agent == nil {
				agent = &stubAA{keyPair: keyPair}
			}
			uri := test.uri
			if uri == "" {
				uri = "kbs:///default/secret/one"
			}
			kbs := &stubKBS{answer: func(string, string) (int, []byte) { return test.status, test.body }}
			hub, log := service(t, kbs, agent)
			if got, err := hub.get(t, uri); err == nil || got != "" {
				t.Errorf("%q, %v", got, err)
			}
			if !strings.Contains(strings.ReplaceAll(log.String(), `\"`, `"`), test.want) {
				t.Errorf("log %s, want in it %s", log, test.want)
			}
			if strings.Contains(log.String(), secret) {
				t.Errorf("log has the secret: %s", log)
			}
		})
	}
}

func TestCancelWhileWaitingForTurn(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	kbs := &stubKBS{answer: func(string, string) (int, []byte) {
		close(entered)
		<-release
		return 500, nil
	}}
	_, keyPair := ecKey(t, elliptic.P256())
	hub, _ := service(t, kbs, &stubAA{keyPair: keyPair})
	uri := &ResourceURI{Plugin: "resource", Repository: "a", Type: "b", Tag: "c"}
	done := make(chan struct{})
	go func() {
		_, _ = hub.Resources.Get(context.Background(), uri)
		close(done)
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := hub.Resources.Get(ctx, uri); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	close(release)
	<-done
}

func TestUnimplemented(t *testing.T) {
	hub := &Service{Log: slog.New(slog.DiscardHandler)}
	_, err := hub.SecureMount(t.Context(), nil)
	if got := status.Convert(err); got.Code() != codes.Unimplemented || !strings.Contains(got.Message(), "does not implement") {
		t.Errorf("error %v", err)
	}
}

func TestPullImageNamesImageAndCause(t *testing.T) {
	images, err := image.NewPuller("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	hub := &Service{Images: images, Log: slog.New(slog.DiscardHandler)}
	_, err = hub.PullImage(t.Context(), &guestpb.ImagePullRequest{ImageUrl: "127.0.0.1:1/app:1", BundlePath: t.TempDir()})
	got := status.Convert(err)
	if got.Code() != codes.Internal || !strings.HasPrefix(got.Message(), `[CDH] [ERROR]: Pull Image failed: pull image "127.0.0.1:1/app:1": `) || !strings.Contains(got.Message(), "connection refused") {
		t.Errorf("error %v", err)
	}
}

// The rest is a KBS's side of JWE, written from RFC 7516, 7518 and 3394, so that the library is not its own judge.

func encryptRSA(t *testing.T, key *rsa.PublicKey, plaintext []byte) []byte {
	t.Helper()
	contentKey := random(t, 32)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, contentKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	return seal(t, `{"alg":"RSA-OAEP-256","enc":"A256GCM"}`, contentKey, wrapped, plaintext)
}

func encryptEC(t *testing.T, key *ecdsa.PublicKey, plaintext []byte) []byte {
	t.Helper()
	public, err := key.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	ephemeral, err := public.Curve().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := ephemeral.ECDH(public)
	if err != nil {
		t.Fatal(err)
	}
	contentKey := random(t, 32)
	return seal(t, epkHeader(ephemeral.PublicKey(), key.Curve.Params().Name), contentKey, wrap(t, derive(shared), contentKey), plaintext)
}

func epkHeader(public *ecdh.PublicKey, curve string) string {
	point := public.Bytes()[1:]
	return fmt.Sprintf(`{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"%s","kty":"EC","x":"%s","y":"%s"}}`,
		curve, b64(point[:len(point)/2]), b64(point[len(point)/2:]))
}

// derive is the Concat KDF of RFC 7518, section 4.6.2, for a key of 256 bits.
func derive(shared []byte) []byte {
	number := func(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	algorithm := "ECDH-ES+A256KW"
	sum := sha256.New()
	for _, part := range [][]byte{number(1), shared, number(len(algorithm)), []byte(algorithm), number(0), number(0), number(256)} {
		_, _ = sum.Write(part)
	}
	return sum.Sum(nil)
}

// wrap is AES key wrap, RFC 3394, section 2.2.1.
func wrap(t *testing.T, key, plaintext []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	register := bytes.Repeat([]byte{0xa6}, 8)
	blocks := bytes.Clone(plaintext)
	count := len(blocks) / 8
	for j := range 6 {
		for i := range count {
			buffer := slices.Concat(register, blocks[8*i:8*i+8])
			block.Encrypt(buffer, buffer)
			step := binary.BigEndian.Uint64(buffer) ^ uint64(count*j+i+1)
			binary.BigEndian.PutUint64(register, step)
			copy(blocks[8*i:], buffer[8:])
		}
	}
	return append(register, blocks...)
}

func seal(t *testing.T, header string, contentKey, wrapped, plaintext []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	protected, iv := b64([]byte(header)), random(t, 12)
	sealed := gcm.Seal(nil, iv, plaintext, []byte(protected))
	return fmt.Appendf(nil, `{"protected":"%s","encrypted_key":"%s","iv":"%s","ciphertext":"%s","tag":"%s"}`,
		protected, b64(wrapped), b64(iv), b64(sealed[:len(sealed)-16]), b64(sealed[len(sealed)-16:]))
}

func b64(value []byte) string { return base64.RawURLEncoding.EncodeToString(value) }

func random(t *testing.T, size int) []byte {
	t.Helper()
	value := make([]byte, size)
	if _, err := io.ReadFull(rand.Reader, value); err != nil {
		t.Fatal(err)
	}
	return value
}
