package config

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"
)

const minimal = "[http_server]\ninsecure_http = true\n[attestation_token]\ninsecure_header_jwk = true\n"

func TestSample(t *testing.T) {
	config, err := Load("../testdata/kbs-config.toml")
	if err != nil {
		t.Fatal(err)
	}
	if len(config.HTTP.Sockets) != 1 || config.HTTP.Sockets[0] != "0.0.0.0:8080" || config.HTTP.PayloadLimit != 2 || !config.HTTP.InsecureHTTP ||
		config.Attestation.SessionTimeout() != 5*time.Minute || config.Attestation.Broker.TokenLifetime() != 5*time.Minute ||
		config.Admin.Mode != "AuthenticatedAuthorization" || config.Admin.Authentication.BearerJWT.Providers[0].PublicKeyPath() != "/etc/kbs/admin.pub" ||
		config.Admin.Authorization.RegexACL.ACLs[0] != (ACL{"admin", "^/kbs/v0/.*$"}) || len(config.Plugins) != 1 {
		t.Errorf("%+v", config)
	}
}

func TestDefaults(t *testing.T) {
	config, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	if config.HTTP.Sockets[0] != "127.0.0.1:8080" || config.HTTP.PayloadLimit != 2 || config.Attestation.Timeout != 5 ||
		config.Attestation.Broker.DurationMin != 5 || config.Admin.Mode != "InsecureAllowAll" {
		t.Errorf("%+v", config)
	}
}

func TestErrorsNameFieldAndRemedy(t *testing.T) {
	authenticated := "[admin]\nauthorization_mode = \"AuthenticatedAuthorization\"\n"
	provider := "[admin.authentication.bearer_jwt]\nidentity_providers = [{ public_key_uri = \"file:///k\" }]\n"
	for text, want := range map[string]string{
		"x":                                     "toml",
		"":                                      "insecure_http",
		"[http_server]\ninsecure_http = true\n": "insecure_header_jwk",
		minimal + "[sesame]\nopen = true\n":     "field sesame",
		minimal + "[[plugins]]\nname = \"pkcs11\"\n":                                                                                          "plugins[0].name",
		minimal + "[attestation_service]\ntimeout = 0":                                                                                        "attestation_service.timeout",
		minimal + "[attestation_service]\ntype = \"coco_as_grpc\"":                                                                            "attestation_service.type",
		minimal + "[attestation_service.attestation_token_broker]\nduration_min = 0":                                                          "duration_min",
		minimal + "[attestation_service.attestation_token_broker.signer]\ncert_path = '/c'":                                                   "signer.key_path",
		minimal + "[storage_backend]\nstorage_type = \"Postgres\"":                                                                            "storage_backend.storage_type",
		minimal + "[admin]\nauthorization_mode = \"Simple\"":                                                                                  "admin.authorization_mode",
		minimal + "[admin]\ntype = \"DenyAll\"":                                                                                               "field admin.type",
		minimal + authenticated:                                                                                                               "identity_providers",
		minimal + authenticated + strings.Replace(provider, "file://", "https://", 1):                                                         "public_key_uri",
		minimal + authenticated + strings.Replace(provider, "public_key_uri = \"file:///k\"", "jwk_set_uri = \"https://x\"", 1):               "jwk_set_uri",
		minimal + authenticated + provider + "[admin.authorization.regex_acl]\nacls = [{ role = \"a\", allowed_endpoints = \"/kbs/v0/.*\" }]": "Admin Role regex must be anchored.",
		minimal + authenticated + provider + "[admin.authorization.regex_acl]\nacls = [{ role = \"a\", allowed_endpoints = \"^/kbs/(.*$\" }]": "allowed_endpoints",
		strings.Replace(minimal, "insecure_header_jwk = true", "insecure_header_jwk = true\nextra_teekey_paths = [\"tee-pubkey\"]", 1):        "extra_teekey_paths[0]",
		strings.Replace(minimal, "insecure_http = true", "insecure_http = true\nsockets = []", 1):                                             "http_server.sockets",
		strings.Replace(minimal, "insecure_http = true", "insecure_http = true\npayload_request_size = 0", 1):                                 "payload_request_size",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := Load("/nonexistent"); err == nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
