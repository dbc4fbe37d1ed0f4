package aa

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
	"github.com/coco-e2e/coco-e2e/simulators/guest/tpm"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig(t *testing.T) {
	for _, test := range []struct {
		name, toml, environment string
		want                    *KBSConfig
		wantErr                 string
	}{
		{"whole", "[token_configs.kbs]\nurl = 'http://kbs:8080'\ncert = 'C'\ntee_key_algorithm = 'RSA-OAEP-256'", "", &KBSConfig{"http://kbs:8080", "C", RSAOAEP}, ""},
		{"default key", "[token_configs]\n[token_configs.kbs]\nurl = 'http://kbs:8080'", "", &KBSConfig{"http://kbs:8080", "", ECP256}, ""},
		{"what is not known is ignored", "[log]\nlevel = 'debug'\n[token_configs.coco_as]\nurl = 'x'", "", nil, ""},
		{"file before environment", "[log]", "cc_kbc::http://kbs", nil, ""},
		{"environment", "", "cc_kbc::http://kbs:1", &KBSConfig{"http://kbs:1", "", ECP256}, ""},
		{"neither", "", "", nil, ""},
		{"bad environment", "", "offline_fs_kbc::null", nil, "want cc_kbc::URL"},
		{"broken", "[token_configs", "", nil, "aa.toml: "},
		{"wrong type", "[token_configs.kbs]\nurl = 3", "", nil, "aa.toml: "},
		{"unknown key", "[token_configs.kbs]\ntee_key_algorithm = 'ML-KEM'", "", nil, `aa.toml: token_configs.kbs.tee_key_algorithm: "ML-KEM": want "ECDH-ES+A256KW-P256"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := ""
			if test.toml != "" {
				path = write(t, "aa.toml", test.toml)
			}
			config, err := LoadConfig(path, test.environment)
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error %v, want in it %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := config.TokenConfigs.KBS; (got == nil) != (test.want == nil) || (got != nil && *got != *test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

func TestLoadInitData(t *testing.T) {
	const document = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n"
	// printf 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n' | openssl dgst -sha256
	const digest = "af398df379eb475aff9f02cd056d0d1f5d496b7a073927cb3ea92407d8ad61a3"
	path := write(t, "initdata.toml", document)
	given := base64.StdEncoding.EncodeToString([]byte("other"))
	got, err := LoadInitData(path, given)
	if err != nil || hex.EncodeToString(got.Digest) != digest || string(got.Plaintext) != document {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = LoadInitData("", given); err != nil || string(got.Digest) != "other" || got.Plaintext != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = LoadInitData("", ""); err != nil || got.Digest != nil || got.Plaintext != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, test := range []struct{ path, digest, want string }{
		{"/nonexistent", "", "--initdata-toml"},
		{write(t, "a", "version ="), "", "--initdata-toml"},
		{write(t, "a", "algorithm = 'md5'"), "", "unsupported algorithm: md5"},
		{"", "%", "--initdata-digest"},
	} {
		if _, err := LoadInitData(test.path, test.digest); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want in it %q", err, test.want)
		}
	}
}

func TestBind(t *testing.T) {
	tee := &stubTEE{}
	if err := (&InitData{}).Bind(t.Context(), nil); err != nil {
		t.Errorf("nothing to bind, no TEE: %v", err)
	}
	if err := (&InitData{Digest: []byte("d")}).Bind(t.Context(), tee); err != nil || string(tee.bound) != "d" {
		t.Errorf("bound %q, %v", tee.bound, err)
	}
	if err := (&InitData{Digest: []byte("d")}).Bind(t.Context(), nil); !errors.Is(err, ErrNoTEE) {
		t.Errorf("no TEE: %v", err)
	}
	err := (&InitData{Digest: make([]byte, 48)}).Bind(t.Context(), &TPM{TPM: tpm.TPM{Device: "/nonexistent"}})
	if err == nil || err.Error() != "bind init-data: Failed to extend PCR for init data: Event digest length is not 32 bytes" {
		t.Errorf("48 bytes: %v", err)
	}
}

func TestDetect(t *testing.T) {
	present := write(t, "tpm", "")
	for _, test := range []struct {
		name, device, handle string
		wantErr              string
		want                 uint32
	}{
		{"default handle", present, "", "", 0x81010002},
		{"handle", present, "0x81000003", "", 0x81000003},
		{"bad handle", present, "x", "AA_TPM_AK_HANDLE", 0},
		{"missing device", "/nonexistent", "", "AA_TPM_DEVICE", 0},
	} {
		attester, err := Detect(func(name string) string {
			return map[string]string{"AA_TPM_DEVICE": test.device, "AA_TPM_AK_HANDLE": test.handle}[name]
		})
		if test.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err != nil || attester.Tee() != "tpm" || attester.(*TPM).TPM.AKHandle != test.want || attester.(*TPM).TPM.Device != test.device {
			t.Errorf("%s: %v, %v", test.name, attester, err)
		}
	}
}

// TestWithoutTEE checks that nothing pretends to be evidence, and that callers and log are told what.
func TestWithoutTEE(t *testing.T) {
	var log bytes.Buffer
	agent := service("http://127.0.0.1:1", ECP256, nil)
	agent.Attester, agent.Log = nil, slog.New(slog.NewTextHandler(&log, nil))
	_, evidence := agent.GetEvidence(t.Context(), &guestpb.GetEvidenceRequest{RuntimeData: []byte("x")})
	_, token := agent.GetToken(t.Context(), &guestpb.GetTokenRequest{TokenType: "kbs"})
	_, tee := agent.GetTeeType(t.Context(), &guestpb.GetTeeTypeRequest{})
	for _, test := range []struct {
		err  error
		want string
	}{
		{evidence, "[ERROR:attestation-agent] AA-KBC get evidence failed"},
		{token, "[ERROR:attestation-agent] AA-KBC get token failed"},
		{tee, "[ERROR:attestation-agent] AA-KBC get tee type failed"},
	} {
		if got := status.Convert(test.err); got.Code() != codes.Internal || got.Message() != test.want {
			t.Errorf("error %v, want %s", test.err, test.want)
		}
	}
	if got := strings.Count(log.String(), "no TEE found"); got != 3 {
		t.Errorf("log %s", &log)
	}
}

func TestService(t *testing.T) {
	agent := service("http://127.0.0.1:1", ECP256, nil)
	if response, err := agent.GetTeeType(t.Context(), nil); err != nil || response.GetTee() != "tpm" {
		t.Errorf("TEE type %v, %v", response, err)
	}
	if response, err := agent.GetAdditionalTees(t.Context(), nil); err != nil || len(response.GetAdditionalTees()) > 0 {
		t.Errorf("additional TEEs %v, %v", response, err)
	}
	if response, err := agent.GetAdditionalEvidence(t.Context(), nil); err != nil || len(response.GetEvidence()) > 0 {
		t.Errorf("additional evidence %v, %v", response, err)
	}
	// Runtime data reaches the TEE as it is.
	if response, err := agent.GetEvidence(t.Context(), &guestpb.GetEvidenceRequest{RuntimeData: []byte("test")}); err != nil || string(response.GetEvidence()) != `{"report_data":"74657374"}` {
		t.Errorf("evidence %v, %v", response, err)
	}
	if response, err := agent.ExtendRuntimeMeasurement(t.Context(), nil); err != nil || response.GetResult() != guestpb.RuntimeMeasurementResult_NOT_ENABLED {
		t.Errorf("extend %v, %v", response, err)
	}
	for _, kind := range []string{"", "coco_as", "KBS"} {
		if _, err := agent.GetToken(t.Context(), &guestpb.GetTokenRequest{TokenType: kind}); err == nil {
			t.Errorf("token of type %q", kind)
		}
	}
	agent.Config.TokenConfigs.KBS = nil
	if _, err := agent.token(t.Context(), "kbs"); err == nil || !strings.Contains(err.Error(), "kbs token config not configured") {
		t.Errorf("without a KBS: %v", err)
	}
	for _, address := range []string{"", "kbs:8080", "http://", "ftp://kbs", "http://[::1"} {
		agent.Config.TokenConfigs.KBS = &KBSConfig{URL: address, KeyAlgorithm: ECP256}
		if _, err := agent.token(t.Context(), "kbs"); err == nil || !strings.Contains(err.Error(), "aa.toml: token_configs.kbs.url") {
			t.Errorf("url %q: %v", address, err)
		}
	}
	agent.Config.TokenConfigs.KBS = &KBSConfig{URL: "https://kbs", Cert: "nonsense", KeyAlgorithm: ECP256}
	if _, err := agent.token(t.Context(), "kbs"); err == nil || !strings.Contains(err.Error(), "aa.toml: token_configs.kbs.cert") {
		t.Errorf("certificate: %v", err)
	}
}
