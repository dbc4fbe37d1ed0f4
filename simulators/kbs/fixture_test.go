package kbs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm-tools/simulator"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	client "github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/simulators/kbs"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/config"
)

const baseConfig = `
[http_server]
insecure_http = true
[attestation_token]
insecure_header_jwk = true
[[plugins]]
name = "resource"
`

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// clock is a time that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(by)
}

type running struct {
	*client.Client
	url   string
	log   *logBuffer
	clock *clock
}

// start serves a KBS with baseConfig and more.
func start(t testing.TB, more string) *running {
	t.Helper()
	configuration, err := config.Parse([]byte(baseConfig + more))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{log: &logBuffer{}, clock: &clock{at: time.Now()}}
	server, err := kbs.New(configuration, r.log, kbs.Options{Now: r.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	r.url = listening.URL
	if r.Client, err = client.New(client.Options{URL: r.url}); err != nil {
		t.Fatal(err)
	}
	return r
}

// answer is what a plain HTTP client sees.
type answer struct {
	status       int
	contentType  string
	kind, detail string // of an error's body
	body         string
	cookies      []*http.Cookie
}

// send makes a plain request; headers are name, value, name, value.
func (r *running) send(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: response.StatusCode, contentType: response.Header.Get("Content-Type"), body: string(raw), cookies: response.Cookies()}
	var information struct{ Type, Detail string }
	if json.Unmarshal(raw, &information) == nil {
		a.kind = strings.TrimPrefix(information.Type, "https://github.com/confidential-containers/kbs/errors/")
		a.detail = information.Detail
	}
	return a
}

// tpm is an attester with a TPM simulator of its own. It reads and writes what a TPM has with go-tpm, which the verifier
// does not use.
type tpm struct {
	t testing.TB
	// busy is held while evidence is made: a TPM has one queue.
	busy       sync.Mutex
	connection transport.TPM
	ak         tpm2.NamedHandle
	public     []byte
	// change, if set, makes the evidence wrong.
	change func(evidence map[string]any)
	// reportData, if set, replaces what the client asks for.
	reportData []byte
}

// newTPM starts a TPM. There can be one at a time: the reference implementation keeps its state in global variables.
func newTPM(t testing.TB) *tpm {
	t.Helper()
	running, err := simulator.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Close() })
	a := &tpm{t: t, connection: transport.FromReadWriter(running)}
	template := tpm2.RSASRKTemplate
	template.ObjectAttributes.Decrypt, template.ObjectAttributes.SignEncrypt = false, true
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Scheme: tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		KeyBits: 2048,
	})
	created, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(a.connection)
	if err != nil {
		t.Fatal(err)
	}
	a.ak = tpm2.NamedHandle{Handle: created.ObjectHandle, Name: created.Name}
	public, err := created.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	parameters, err := public.Parameters.RSADetail()
	if err != nil {
		t.Fatal(err)
	}
	modulus, err := public.Unique.RSA()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.RSAPub(parameters, modulus)
	if err != nil {
		t.Fatal(err)
	}
	if a.public, err = x509.MarshalPKIXPublicKey(key); err != nil {
		t.Fatal(err)
	}
	return a
}

// measure extends PCR 8 with a document's SHA-256.
func (a *tpm) measure(document string) {
	a.t.Helper()
	digest := sha256.Sum256([]byte(document))
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: 8, Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}.Execute(a.connection)
	if err != nil {
		a.t.Fatal(err)
	}
}

func selection(bitmap ...byte) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bitmap}}}
}

func (a *tpm) pcr(index int) string {
	a.t.Helper()
	bitmap := make([]byte, 3)
	bitmap[index/8] = 1 << (index % 8)
	read, err := tpm2.PCRRead{PCRSelectionIn: selection(bitmap...)}.Execute(a.connection)
	if err != nil {
		a.t.Fatal(err)
	}
	return hex.EncodeToString(read.PCRValues.Digests[0].Buffer)
}

func (a *tpm) TEE() string { return "tpm" }

func (a *tpm) Evidence(_ context.Context, reportData []byte) (json.RawMessage, error) {
	a.busy.Lock()
	defer a.busy.Unlock()
	if a.reportData != nil {
		reportData = a.reportData
	}
	nonce := make([]byte, 32)
	copy(nonce, reportData)
	quoted, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: a.ak.Handle, Name: a.ak.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection(0xff, 0xff, 0xff),
	}.Execute(a.connection)
	if err != nil {
		return nil, err
	}
	pcrs := make([]any, 24)
	for i := range pcrs {
		pcrs[i] = a.pcr(i)
	}
	evidence := map[string]any{
		"ak_public": base64.StdEncoding.EncodeToString(a.public),
		"tpm_quote": map[string]any{
			"signature": base64.StdEncoding.EncodeToString(tpm2.Marshal(quoted.Signature)),
			"message":   base64.StdEncoding.EncodeToString(quoted.Quoted.Bytes()),
			"pcrs":      pcrs,
		},
	}
	if a.change != nil {
		a.change(evidence)
	}
	return json.Marshal(evidence)
}

// other is an attester of some TEE that sends what it is told.
type other struct{ tee, evidence string }

func (o other) TEE() string { return o.tee }

func (o other) Evidence(context.Context, []byte) (json.RawMessage, error) {
	return json.RawMessage(o.evidence), nil
}
