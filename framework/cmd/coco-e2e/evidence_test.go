package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	azureEvidence   = "../../evidence/testdata/az-snp-vtpm-v2.json"
	azureReportData = "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef"
	tpmEvidence     = "../../evidence/testdata/tpm.json"
	tpmReportData   = "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c"
)

// otherKey: openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048 | openssl pkey -pubout
const otherKey = `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAxzgZVVmOYgDHlbwJSwh1
42KSB5xWca3DpVV1V2tFDopPCH+mL6PhUzrLAcd4qjf+9vkfglnKT1KdD1vgv07X
FiCGgtkMy+8SZGb85r/3mYAHbOSj/ZF9E/C3WQpiL7z6LxxejotgAz/rY4Sp/6aL
lUOZO5S2Rvh4vCNd1zJtN2AOFjA/xg8MQzAI4kPuWGL5QLgJUy19roc7x2geDtMV
bm5qI5qyqjkaV2BZ6a49sHw06+IgcZ8qRwcOAyrPb3jBkx1EFcpU4ySWYm2X6Myy
N4UAGH6vR7sZFtSUhS1fEJyhCLcUrz25m7ZM45WsAfNCRcTOiZVEUvjtOoRhFJHL
CQIDAQAB
-----END PUBLIC KEY-----
`

func runEvidence(t *testing.T, args ...string) (out, notes string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	command := evidenceCommand()
	command.SilenceUsage, command.SilenceErrors = true, true
	command.SetOut(&stdout)
	command.SetErr(&stderr)
	command.SetArgs(args)
	err = command.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func TestEvidenceVerify(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	raw, err := os.ReadFile(tpmEvidence)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		AK string `json:"ak_public"`
	}
	if err := json.Unmarshal(raw, &document); err != nil {
		t.Fatal(err)
	}
	ak := write("ak.b64", document.AK+"\n")
	other := write("other.pem", otherKey)
	otherInitData := write("initdata.toml", "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n")
	sample := write("sample.json", `{"svn":"1","report_data":"AAAA"}`)
	attest := write("attest.json", `{"init-data":null,"runtime-data":{"nonce":"AA==","tee-pubkey":{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"eA","y":"eQ"}},
		"tee-evidence":{"primary_evidence":`+string(raw)+`,"additional_evidence":""}}`)
	for name, c := range map[string]struct {
		args  string
		want  string // in the error; empty: none
		notes string
	}{
		"right":               {tpmEvidence + " --report-data " + tpmReportData, "", "any key may have signed this"},
		"trusted AK":          {tpmEvidence + " --report-data " + tpmReportData + " --trusted-ak " + ak, "", ""},
		"other AK":            {tpmEvidence + " --report-data " + tpmReportData + " --trusted-ak " + other, "broken link: trusted key", ""},
		"not a key":           {tpmEvidence + " --report-data " + tpmReportData + " --trusted-ak " + sample, "neither PEM nor base64", ""},
		"other report data":   {tpmEvidence + " --report-data text:abc", "broken link: nonce", ""},
		"other init-data":     {tpmEvidence + " --report-data " + tpmReportData + " --init-data " + otherInitData, "broken link: init-data", ""},
		"wrong kind":          {tpmEvidence + " --kind snp --report-data 00", "broken link: format", ""},
		"unknown kind":        {tpmEvidence + " --kind sgx --report-data 00", "broken link: kind", ""},
		"no report data":      {tpmEvidence, "give --report-data", ""},
		"neither hex nor …":   {tpmEvidence + " --report-data abc", "write text:", ""},
		"no roots":            {tpmEvidence + " --report-data 00 --test-roots " + dir, "has neither amd-ark.pem", ""},
		"attest message":      {attest, "broken link: nonce", "says nothing about freshness"},
		"attest message told": {attest + " --report-data " + tpmReportData, "", ""},
		"sample":              {sample + " --report-data 000000", "", "no hardware vouches"},
		"other format":        {sample + " --report-data 000000 -o yaml", "use table or json", ""},
		"empty event log":     {tpmEvidence + " --report-data " + tpmReportData + " --event-log " + write("empty", ""), "", ""},
		"not an event log":    {tpmEvidence + " --report-data 00 --event-log " + sample, "event log is malformed", ""},
		"event log of sample": {sample + " --report-data 000000 --event-log " + write("none", ""), "broken link: event log", ""},
		"no such file":        {filepath.Join(dir, "nothing"), "no such file", ""},
	} {
		t.Run(name, func(t *testing.T) {
			out, notes, err := runEvidence(t, append([]string{"verify"}, strings.Fields(c.args)...)...)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want …%s…", err, c.want)
			}
			if !strings.Contains(notes, c.notes) {
				t.Errorf("notes %q, want …%s…", notes, c.notes)
			}
			if verified := strings.Contains(out, "verified  ") && strings.Contains(out, " true\n"); verified != (err == nil) {
				t.Errorf("printed %q beside %v", out, err)
			}
		})
	}
}

func TestEvidenceAsJSON(t *testing.T) {
	out, _, err := runEvidence(t, "verify", tpmEvidence, "--report-data", "00", "-o", "json")
	var refused struct {
		Verified *bool
		Link     string `json:"broken_link"`
	}
	if parse := json.Unmarshal([]byte(out), &refused); err == nil || parse != nil || refused.Verified == nil || *refused.Verified || refused.Link != "nonce" {
		t.Errorf("%s, %v, %v", out, parse, err)
	}
	// The real machine's certificate is good until 2032.
	out, _, err = runEvidence(t, "verify", azureEvidence, "--report-data", azureReportData, "-o", "json")
	var verified struct {
		Kind     string
		Verified bool
		TestRoot *bool `json:"test_root"`
		Claims   map[string]any
	}
	if parse := json.Unmarshal([]byte(out), &verified); err != nil || parse != nil || !verified.Verified || *verified.TestRoot ||
		verified.Kind != "az-snp-vtpm" || verified.Claims["report_data"] != azureReportData {
		t.Errorf("%s, %v, %v", out, parse, err)
	}
}

func TestEvidenceShow(t *testing.T) {
	out, _, err := runEvidence(t, "show", "../../evidence/testdata/tpm-pcr8-only.json")
	if err != nil || !strings.Contains(out, "claims.pcr08") || !strings.Contains(out, "false") {
		t.Errorf("%s, %v", out, err)
	}
}
