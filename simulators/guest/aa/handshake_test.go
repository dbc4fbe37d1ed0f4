package aa

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// stubTEE gives its report data as evidence.
type stubTEE struct {
	bound []byte
	err   error
}

func (*stubTEE) Tee() string { return "tpm" }

func (s *stubTEE) BindInitData(_ context.Context, digest []byte) error {
	s.bound = digest
	return s.err
}

func (s *stubTEE) Evidence(_ context.Context, reportData []byte) (json.RawMessage, error) {
	return json.RawMessage(fmt.Sprintf(`{"report_data":"%x"}`, reportData)), s.err
}

const nonce = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// stubKBS answers as a KBS does, checks messages' bytes, and fails the test if they are not as the protocol says.
type stubKBS struct {
	*testing.T
	extraParams string // of the challenge
	newHash     func() hash.Hash
	initData    string // JSON that init-data must be

	auths, attests atomic.Int32
}

func (k *stubKBS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		k.Error(err)
	}
	if got := r.Header.Get("Content-Type"); got != "application/json" || r.Method != http.MethodPost {
		k.Errorf("%s %s with content type %q", r.Method, r.URL, got)
	}
	switch r.URL.Path {
	case "/kbs/v0/auth":
		k.auths.Add(1)
		want := `{"version":"0.4.0","tee":"tpm","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}`
		if string(body) != want {
			k.Errorf("request %s, want %s", body, want)
		}
		w.Header().Set("Set-Cookie", "kbs-session-id=0123456789abcdef0123456789abcdef; Expires="+time.Now().Add(time.Minute).UTC().Format(http.TimeFormat))
		_, _ = fmt.Fprintf(w, `{"nonce":"%s","extra-params":%s}`, nonce, k.extraParams)
	case "/kbs/v0/attest":
		k.attests.Add(1)
		if cookie, err := r.Cookie("kbs-session-id"); err != nil || cookie.Value != "0123456789abcdef0123456789abcdef" {
			k.Errorf("cookie %v, %v", cookie, err)
		}
		k.checkAttestation(body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"token":"header.claims.signature"}`)
	default:
		k.Errorf("path %s", r.URL.Path)
	}
}

func (k *stubKBS) checkAttestation(body []byte) {
	var message struct {
		InitData    json.RawMessage `json:"init-data"`
		RuntimeData struct {
			Nonce  string            `json:"nonce"`
			Pubkey map[string]string `json:"tee-pubkey"`
		} `json:"runtime-data"`
		Evidence map[string]json.RawMessage `json:"tee-evidence"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		k.Errorf("attestation %s: %v", body, err)
		return
	}
	if string(message.InitData) != k.initData {
		k.Errorf("init-data %s, want %s", message.InitData, k.initData)
	}
	if message.RuntimeData.Nonce != nonce {
		k.Errorf("nonce %q", message.RuntimeData.Nonce)
	}
	if got := string(message.Evidence["additional_evidence"]); got != `""` || len(message.Evidence) != 2 {
		k.Errorf("tee-evidence %s", message.Evidence)
	}
	// The canonical form by hand: keys in order, no blanks.
	p := message.RuntimeData.Pubkey
	var pubkey string
	if p["kty"] == "RSA" {
		pubkey = fmt.Sprintf(`{"alg":"RSA-OAEP-256","e":"AQAB","kty":"RSA","n":"%s"}`, p["n"])
	} else {
		pubkey = fmt.Sprintf(`{"alg":"ECDH-ES+A256KW","crv":"%s","kty":"EC","x":"%s","y":"%s"}`, p["crv"], p["x"], p["y"])
	}
	sum := k.newHash()
	_, _ = fmt.Fprintf(sum, `{"additional-evidence":"","nonce":"%s","tee-pubkey":%s}`, nonce, pubkey)
	if want := fmt.Sprintf(`{"report_data":"%x"}`, sum.Sum(nil)); string(message.Evidence["primary_evidence"]) != want {
		k.Errorf("primary_evidence %s, want %s", message.Evidence["primary_evidence"], want)
	}
}

// service is an agent whose KBS is at address.
func service(address string, algorithm KeyAlgorithm, initData []byte) *Service {
	config := &Config{}
	config.TokenConfigs.KBS = &KBSConfig{URL: address, KeyAlgorithm: algorithm}
	return &Service{Config: config, Attester: &stubTEE{}, InitData: &InitData{Plaintext: initData}, Log: slog.New(slog.DiscardHandler)}
}

func TestGetToken(t *testing.T) {
	for _, test := range []struct {
		name        string
		algorithm   KeyAlgorithm
		extraParams string
		newHash     func() hash.Hash
		initData    []byte
		wantInit    string
	}{
		{"as a KBS answers today", ECP256, `""`, sha512.New384, nil, "null"},
		{"with init-data", ECP256, `""`, sha512.New384, []byte("version = \"0.1.0\"\n# é\n"), `{"format":"toml","body":"version = \"0.1.0\"\n# é\n"}`},
		{"P-521", ECP521, `{}`, sha512.New384, nil, "null"},
		{"RSA", RSAOAEP, `null`, sha512.New384, nil, "null"},
		{"SHA-512 selected", ECP256, `{"selected-hash-algorithm":"SHA512"}`, sha512.New, nil, "null"},
		{"SHA-256 selected", ECP256, `{"selected-hash-algorithm":"sha256"}`, sha256.New, nil, "null"},
	} {
		t.Run(test.name, func(t *testing.T) {
			kbs := &stubKBS{T: t, extraParams: test.extraParams, newHash: test.newHash, initData: test.wantInit}
			server := httptest.NewServer(kbs)
			defer server.Close()
			agent := service(server.URL+"/", test.algorithm, test.initData)
			first := getToken(t, agent)
			second := getToken(t, agent)
			if first == second {
				t.Error("two tokens with the same key")
			}
			if kbs.auths.Load() != 2 || kbs.attests.Load() != 2 {
				t.Errorf("%d auths, %d attests", kbs.auths.Load(), kbs.attests.Load())
			}
		})
	}
}

// getToken checks GetToken's form and gives the key pair.
func getToken(t *testing.T, agent *Service) string {
	t.Helper()
	response, err := agent.GetToken(t.Context(), &guestpb.GetTokenRequest{TokenType: "kbs"})
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]string
	if err := json.Unmarshal(response.GetToken(), &answer); err != nil {
		t.Fatal(err)
	}
	if answer["token"] != "header.claims.signature" || len(answer) != 2 {
		t.Errorf("fields of the answer: %d; token %q", len(answer), answer["token"])
	}
	block, rest := pem.Decode([]byte(answer["tee_keypair"]))
	if block == nil || len(rest) > 0 {
		t.Fatal("tee_keypair is not one PEM block")
	}
	switch agent.Config.TokenConfigs.KBS.KeyAlgorithm {
	case RSAOAEP:
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if block.Type != "RSA PRIVATE KEY" || err != nil || key.N.BitLen() != 2048 {
			t.Errorf("%s: %v", block.Type, err)
		}
	default:
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if _, ok := key.(*ecdsa.PrivateKey); block.Type != "PRIVATE KEY" || err != nil || !ok {
			t.Errorf("%s: %v", block.Type, err)
		}
	}
	return answer["tee_keypair"]
}

// TestCanonicalHash is the vector of guest-components' rcar_client tests, with SHA-384.
func TestCanonicalHash(t *testing.T) {
	sum, err := canonicalHash([]byte(`{"b":1,"a":"test","c":{"d":"e"}}`), sha512.New384)
	want := "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
	if got := hex.EncodeToString(sum); got != want || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

// TestPublicKeys checks that coordinates are padded: a KBS takes exactly 32 and 66 bytes.
func TestPublicKeys(t *testing.T) {
	for _, test := range []struct {
		algorithm KeyAlgorithm
		curve     string
		size      int
	}{{ECP256, "P-256", 32}, {ECP521, "P-521", 66}} {
		for range 300 { // one in 256 x coordinates begins with a zero byte
			key, err := newTEEKey(test.algorithm)
			if err != nil {
				t.Fatal(err)
			}
			public, err := key.public()
			if err != nil {
				t.Fatal(err)
			}
			private := key.private.(*ecdsa.PrivateKey)
			point, err := private.PublicKey.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			x, errX := base64.RawURLEncoding.DecodeString(public["x"])
			y, errY := base64.RawURLEncoding.DecodeString(public["y"])
			if errX != nil || errY != nil || len(x) != test.size || string(append(x, y...)) != string(point[1:]) || public["crv"] != test.curve {
				t.Fatalf("%v", public)
			}
		}
	}
	key, err := newTEEKey(RSAOAEP)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.public()
	if err != nil {
		t.Fatal(err)
	}
	n, err := base64.RawURLEncoding.DecodeString(public["n"])
	if err != nil || new(big.Int).SetBytes(n).Cmp(key.private.(*rsa.PrivateKey).N) != 0 || public["e"] != "AQAB" {
		t.Errorf("%v, %v", public, err)
	}
}

const refusal = `{"type":"https://github.com/confidential-containers/kbs/errors/AttestationError","detail":"Attestation error: RCAR handshake Attest failed"}`

func TestHandshakeGivesUpAfterFiveTries(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"refused at auth", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, refusal)
		}, `KBS request unauthorized, ErrorInformation: {type: "https://github.com/confidential-containers/kbs/errors/AttestationError", detail: "Attestation error: RCAR handshake Attest failed"}`},
		{"refused at attest", func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/auth") {
				_, _ = fmt.Fprintf(w, `{"nonce":"%s","extra-params":""}`, nonce)
				return
			}
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, refusal)
		}, "KBS attest unauthorized, Error Info: {type: "},
		{"internal error", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "oops\nagain")
		}, `KBS Server Internal Failed, Response: status 500: "oops\nagain"`},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "deserialize http response failed: auth"},
		{"no nonce", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }, "challenge: missing field nonce"},
		{"no token", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"nonce":"%s","extra-params":""}`, nonce)
		}, "attest response: missing field token"},
		{"hash not supported", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"nonce":"%s","extra-params":{"selected-hash-algorithm":"sm3"}}`, nonce)
		}, `selected-hash-algorithm "sm3": not supported`},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "http request failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var tries atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/auth") {
					tries.Add(1)
				}
				test.answer(w, r)
			}))
			defer server.Close()
			client := client(t, server.URL)
			client.interval = time.Microsecond
			_, err := client.token(t.Context())
			prefix := "Unable to get token. RCAR handshake retried 5 times. Final attempt failed with: RCAR handshake failed: "
			if err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %s…%s", err, prefix, test.want)
			}
			if tries.Load() != 5 {
				t.Errorf("%d tries", tries.Load())
			}
		})
	}
}

func client(t *testing.T, address string) *handshake {
	t.Helper()
	client, err := newHandshake(&KBSConfig{URL: address, KeyAlgorithm: ECP256}, &stubTEE{}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestCancelEndsTheWaitBetweenTries(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the test")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, refusal)
	}))
	defer server.Close()
	client := client(t, server.URL)
	client.interval = time.Hour
	client.log = slog.New(slog.NewTextHandler(writerFunc(func(line string) {
		if strings.Contains(line, "RCAR handshake failed") {
			cancel(stopped) // the wait follows the log
		}
	}), nil))
	if _, err := client.token(ctx); !errors.Is(err, stopped) || !strings.Contains(err.Error(), "KBS request unauthorized") {
		t.Errorf("error %v", err)
	}
}

type writerFunc func(string)

func (w writerFunc) Write(line []byte) (int, error) {
	w(string(line))
	return len(line), nil
}

func TestTLS(t *testing.T) {
	kbs := &stubKBS{T: t, extraParams: `""`, newHash: sha512.New384, initData: "null"}
	server := httptest.NewTLSServer(kbs)
	defer server.Close()
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	agent := service(server.URL, ECP256, nil)
	agent.Config.TokenConfigs.KBS.Cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	getToken(t, agent)

	untrusting := client(t, server.URL)
	untrusting.interval = time.Microsecond
	if _, err := untrusting.token(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("without the certificate: %v", err)
	}
}
