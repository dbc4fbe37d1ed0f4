package kbs_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	client "github.com/coco-e2e/coco-e2e/framework/kbs"
)

const (
	document = "algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"aa.toml\" = '''\n[token_configs.kbs]\nurl = 'http://kbs:8080'\n'''\n\"policy.rego\" = '''\npackage agent_policy\n'''\n"
	// printf … | openssl dgst -sha256; then (32 zero bytes ‖ that) | openssl dgst -sha256.
	documentPCR8 = "0e1110ae985403fb50161963a477c28964e7c9de48dbe5a912ffe2cffe824ba9"

	pcr8Policy = `package policy
import rego.v1
default executables := 33
executables := 3 if input.tpm.pcr08 in query_reference_value("tpm.pcr08")
trust_claims := {"executables": executables, "hardware": 2}`

	pcr8Resource = `package policy
import rego.v1
default allow := false
allow if {
	data.plugin == "resource"
	data["resource-path"] == ["walkthrough", "secret", "nginx"]
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == "` + documentPCR8 + `"
}`
	path   = "walkthrough/secret/nginx"
	secret = "correct horse battery staple"
)

func mustSucceed(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, what string, err error, kind client.Kind, name string) {
	t.Helper()
	if outcome := client.Classify(err); outcome.Kind != kind || outcome.Type != name {
		t.Errorf("%s: %v %q (%v), want %v %q", what, outcome.Kind, outcome.Type, err, kind, name)
	}
}

// The walkthrough's release and refusals, with a TPM that measured the document.
func TestReleaseIsBoundToInitData(t *testing.T) {
	ctx := t.Context()
	k, a := start(t, ""), newTPM(t)
	a.measure(document)
	if pcr8 := a.pcr(8); pcr8 != documentPCR8 {
		t.Fatalf("the TPM's PCR 8 is %s, openssl says %s", pcr8, documentPCR8)
	}
	const otherPCR8 = "7aaf19294adabd752bf095e1f076baed85d4b088fa990cb575ad0f3e0569f292"
	mustSucceed(t,
		k.SetReferenceValue(ctx, "tpm.pcr08", []string{otherPCR8, documentPCR8}),
		k.SetAttestationPolicy(ctx, "default_cpu", pcr8Policy),
		k.SetResourcePolicy(ctx, pcr8Resource), k.SetResource(ctx, path, []byte(secret)))

	initData := document
	for name, initData := range map[string]*string{"init-data sent": &initData, "digest only": nil} {
		token, key, err := k.Handshake(ctx, a, initData)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := k.GetResource(ctx, path, token, key)
		expect(t, name, err, client.Released, "")
		if string(got) != secret {
			t.Errorf("%s: another secret", name)
		}
		checkToken(t, token, initData != nil)
		_, err = k.GetResource(ctx, "walkthrough/secret/other", token, key)
		expect(t, name+": what the policy does not list", err, client.Refused, "PolicyDeny")
	}

	log := k.log.String()
	for _, wanted := range []string{
		"\n        \"tpm.pcr08\": String(\"" + documentPCR8 + "\"),\n        \"tpm.pcr09\": String(\"" + strings.Repeat("0", 64) + "\"),\n",
		"\n        \"tpm.pcr08\": [\n            \"" + otherPCR8 + "\",\n            \"" + documentPCR8 + "\",\n        ],\n",
		`"event":"resource","decision":"released","method":"GET","path":"/kbs/v0/resource/walkthrough/secret/nginx","status":200`,
		`"event":"resource","decision":"PolicyDeny"`, `"ear_status":"affirming"`,
	} {
		if !strings.Contains(log, wanted) {
			t.Errorf("the log lacks %s:\n%s", wanted, log)
		}
	}
	if strings.Contains(log, secret) {
		t.Error("the secret is in the log")
	}
}

func checkToken(t *testing.T, token client.Token, plaintext bool) {
	t.Helper()
	claims, err := client.ParseToken(token, client.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cpu := claims.CPU()
	if cpu == nil || cpu.Status != "affirming" || cpu.TrustVector["executables"] != 3 || cpu.TrustVector["hardware"] != 2 || len(cpu.TrustVector) != 2 ||
		cpu.PolicyID != "default" || cpu.InitData() != documentPCR8 || len(cpu.ReportData()) != 64 {
		t.Errorf("appraisal: %+v", cpu)
	}
	tee := cpu.TEE("tpm")
	if tee["pcr08"] != documentPCR8 || tee["pcr17"] != strings.Repeat("f", 64) || tee["ak_public"] == nil || len(tee) != 25 {
		t.Errorf("claims of tpm: %v", tee)
	}
	if !strings.Contains(claims.Issuer, "simulator") || claims.ExpiresAt.Sub(claims.IssuedAt) != 5*time.Minute {
		t.Errorf("claims: %v %v %v", claims.Issuer, claims.IssuedAt, claims.ExpiresAt)
	}
	files := cpu.InitDataClaims()
	if !plaintext {
		if _, there := cpu.Evidence["init_data_claims"]; !there || files != nil {
			t.Errorf("init_data_claims: %v", files)
		}
		return
	}
	if got := fmt.Sprint(files); got != "map[aa.toml:map[token_configs:map[kbs:map[url:http://kbs:8080]]] policy.rego:package agent_policy\n]" {
		t.Errorf("init_data_claims: %v", got)
	}
}

// Every negative has its positive control: the same TPM and client with nothing changed.
func TestAttestationRefusals(t *testing.T) {
	ctx := t.Context()
	k, a := start(t, ""), newTPM(t)
	a.measure(document)
	same, sha384 := document, strings.Replace(document, `"sha256"`, `"sha384"`, 1)
	newline, wrong, missing := document+"\n", strings.Replace(document, "sha256", "sha-256", 1), strings.Replace(document, "version", "versions", 1)
	quote := func(evidence map[string]any) map[string]any { return evidence["tpm_quote"].(map[string]any) }
	pcrs := func(evidence map[string]any) []any { return quote(evidence)["pcrs"].([]any) }
	for _, c := range []struct {
		name     string
		initData *string
		change   func(map[string]any)
		report   []byte
		cause    string // in the log; empty: succeeds
	}{
		{name: "control", initData: &same},
		{name: "one PCR changed", change: func(e map[string]any) { pcrs(e)[8] = strings.Repeat("0", 64) }, cause: "Digest of PCRs does not match digest in Quote"},
		{name: "PCRs swapped", change: func(e map[string]any) { p := pcrs(e); p[8], p[9] = p[9], p[8] }, cause: "Digest of PCRs does not match digest in Quote"},
		{name: "PCR list short", change: func(e map[string]any) { quote(e)["pcrs"] = pcrs(e)[:9] }, cause: "exactly the 24 SHA-256 PCRs"},
		{name: "PCR cut", change: func(e map[string]any) { pcrs(e)[8] = "00" }, cause: "PCR should be 64 hex characters (32 bytes), got 2"},
		{name: "quote of other report data", report: make([]byte, 48), cause: "TPM quote nonce doesn't match expected report_data"},
		{name: "message changed", change: func(e map[string]any) {
			m := quote(e)["message"].(string)
			quote(e)["message"] = m[:80] + map[bool]string{true: "B", false: "A"}[m[80] == 'A'] + m[81:]
		}, cause: "TPM quote signature verification failed"},
		{name: "init-data with one newline more", initData: &newline, cause: "TPM PCR[8] doesn't match expected initdata hash"},
		{name: "sha384", initData: &sha384, cause: "TPM PCR[8] doesn't match expected initdata hash"},
		{name: "unknown algorithm", initData: &wrong, cause: "unsupported algorithm: sha-256"},
		{name: "version missing", initData: &missing, cause: "missing field `version`"},
		{name: "control again", initData: &same},
	} {
		before := len(k.log.String())
		a.change, a.reportData = c.change, c.report
		_, _, err := k.Handshake(ctx, a, c.initData)
		if c.cause == "" {
			expect(t, c.name, err, client.Released, "")
			continue
		}
		expect(t, c.name, err, client.Refused, "AttestationError")
		if reported := new(client.Error); !errors.As(err, &reported) || reported.Detail != "Attestation error: RCAR handshake Attest failed" || reported.Status != 401 {
			t.Errorf("%s: %v", c.name, err)
		}
		if log := unescaped(k.log.String()[before:]); !strings.Contains(log, c.cause) {
			t.Errorf("%s: the log lacks %q:\n%s", c.name, c.cause, log)
		}
	}
}

// The log tells the register of the init-data, expected and actual; the answer does not.
func TestRegisterInTheLog(t *testing.T) {
	k, a := start(t, ""), newTPM(t)
	a.measure(document)
	presented := document + "\n"
	_, _, err := k.Handshake(t.Context(), a, &presented)
	expect(t, "another document", err, client.Refused, "AttestationError")
	if strings.Contains(err.Error(), documentPCR8) {
		t.Errorf("the answer tells too much: %v", err)
	}
	requests, err := client.ReadJournal(strings.NewReader(k.log.String()))
	if err != nil {
		t.Fatal(err)
	}
	last := requests[len(requests)-1]
	// As documentPCR8, of the document and one newline more.
	const expected = "70f2ac74177bb4bc42299379ca7dd78854f5d29b4b48ee3f991884535120cff6"
	if last.Register != "PCR 8" || last.Expected != expected || last.Actual != documentPCR8 {
		t.Errorf("%q, expected %s, actual %s", last.Register, last.Expected, last.Actual)
	}
}

func unescaped(log string) string {
	return strings.NewReplacer(`\u0026`, "&", `\"`, `"`).Replace(log)
}

func TestOtherEvidenceIsRefused(t *testing.T) {
	k := start(t, "")
	for tee, wanted := range map[string]string{
		"sample": "field report_data", "snp": "field attestation_report", "tdx": "field quote", "az-snp-vtpm": "field quote", "az-tdx-vtpm": "field tpm_quote",
		"cca": "evidence kind is not supported",
	} {
		_, _, err := k.Handshake(t.Context(), other{tee, `{"svn":"1"}`}, nil)
		expect(t, tee, err, client.Refused, "AttestationError")
		if !strings.Contains(k.log.String(), wanted) {
			t.Errorf("%s: the log lacks %q", tee, wanted)
		}
	}
	_, _, err := k.Handshake(t.Context(), other{"enclave", "{}"}, nil)
	expect(t, "unknown TEE", err, client.Refused, "AttestationError")
}

// recorded attests by hand, so that messages can be replayed.
type recorded struct {
	nonce, cookie, body string
}

func (k *running) record(t *testing.T, a *tpm) recorded {
	t.Helper()
	begun := k.send(t, "POST", "/kbs/v0/auth", `{"version":"0.4.0","tee":"tpm","extra-params":""}`)
	var challenge struct {
		Nonce string          `json:"nonce"`
		Extra json.RawMessage `json:"extra-params"`
	}
	mustSucceed(t, json.Unmarshal([]byte(begun.body), &challenge))
	if begun.status != 200 || len(challenge.Nonce) != 44 || string(challenge.Extra) != `""` || len(begun.cookies) != 1 {
		t.Fatalf("auth: %+v", begun)
	}
	cookie := begun.cookies[0]
	if cookie.Name != "kbs-session-id" || len(cookie.Value) != 32 || cookie.Path != "" || cookie.HttpOnly || cookie.Secure || cookie.Expires.IsZero() {
		t.Errorf("cookie: %v", cookie)
	}
	body := attestationFor(t, a, challenge.Nonce)
	return recorded{challenge.Nonce, "kbs-session-id=" + cookie.Value, body}
}

// attestationFor lets the client's own code answer a nonce, on a stand-in for a KBS that hands it out.
func attestationFor(t *testing.T, a *tpm, nonce string) string {
	t.Helper()
	var body string
	stand := standIn(t, func(path, sent string) string {
		if path == "/kbs/v0/auth" {
			return fmt.Sprintf(`{"nonce":%q,"extra-params":""}`, nonce)
		}
		body = sent
		return `{"token":"none"}`
	})
	c, err := client.New(client.Options{URL: stand})
	mustSucceed(t, err)
	_, _, err = c.Handshake(t.Context(), a, nil)
	mustSucceed(t, err)
	return body
}

func TestSessions(t *testing.T) {
	k, a := start(t, ""), newTPM(t)
	attest := func(what string, r recorded, body string, status int, cause string) string {
		t.Helper()
		var headers []string
		if r.cookie != "" {
			headers = []string{"Cookie", r.cookie}
		}
		before := len(k.log.String())
		got := k.send(t, http.MethodPost, "/kbs/v0/attest", body, headers...)
		if log := k.log.String()[before:]; got.status != status || !strings.Contains(log, cause) {
			t.Errorf("%s: %+v, want %d and in the log %q:\n%s", what, got, status, cause, log)
		}
		if status == 401 && (got.kind != "AttestationError" || got.detail != "Attestation error: RCAR handshake Attest failed" || got.contentType != "") {
			t.Errorf("%s: %+v", what, got)
		}
		var response struct{ Token string }
		_ = json.Unmarshal([]byte(got.body), &response)
		return response.Token
	}
	first, second := k.record(t, a), k.record(t, a)
	attest("no cookie", recorded{}, first.body, 401, "cookie not found")
	attest("no JSON", first, "{", 401, "deserialize Attestation")
	attest("unknown session", recorded{cookie: "kbs-session-id=" + strings.Repeat("0", 32)}, first.body, 401, "session not found")
	attest("other session's evidence", second, first.body, 401, "the nonce in the handshake session is different from the client side")
	forged := strings.Replace(first.body, first.nonce, second.nonce, 1)
	attest("other session's evidence under this nonce", second, forged, 401, "TPM quote nonce doesn't match expected report_data")
	token := attest("control", first, first.body, 200, `"decision":"attested"`)
	bad := strings.Replace(first.body, first.nonce, "AAAA", 1)
	if again := attest("attested before", first, bad, 200, `"decision":"attested before"`); again != token || token == "" {
		t.Error("another token than at first")
	}
	devices := strings.Replace(second.body, `"additional_evidence":""`, `"additional_evidence":"{\"nvidia\":{}}"`, 1)
	attest("devices", second, devices, 401, "verifies no devices")

	got := k.send(t, "GET", "/kbs/v0/resource/a/b/c", "", "Cookie", first.cookie)
	if got.kind != "PluginInternalError" {
		t.Errorf("resource with the session's cookie: %+v", got)
	}
	if got = k.send(t, "GET", "/kbs/v0/resource/a/b/c", "", "Cookie", second.cookie); got.kind != "TokenNotFound" {
		t.Errorf("resource with the cookie of a session without token: %+v", got)
	}
	k.clock.advance(5*time.Minute + time.Second)
	attest("expired session", second, second.body, 401, "session not found")
	if got = k.send(t, "GET", "/kbs/v0/resource/a/b/c", "", "Cookie", first.cookie); got.kind != "TokenNotFound" {
		t.Errorf("resource with an expired session's cookie: %+v", got)
	}
	if strings.Contains(k.log.String(), strings.TrimPrefix(first.cookie, "kbs-session-id=")) || strings.Contains(k.log.String(), token) {
		t.Error("session or token in the log")
	}
}

// The cookie of a session that has attested counts, whatever token comes with it; another cookie leaves the token to count
// (Trustee kbs/src/api_server.rs, get_attestation_token).
func TestCookieGoesBeforeBearer(t *testing.T) {
	ctx := t.Context()
	k, a := start(t, ""), newTPM(t)
	mustSucceed(t, k.SetResource(ctx, "a/b/c", []byte("x")), k.SetResourcePolicy(ctx, "package policy\ndefault allow := true\n"))
	attest := func(r recorded) string {
		t.Helper()
		var answer struct{ Token string }
		mustSucceed(t, json.Unmarshal([]byte(k.send(t, "POST", "/kbs/v0/attest", r.body, "Cookie", r.cookie).body), &answer))
		if answer.Token == "" {
			t.Fatal("no token")
		}
		return answer.Token
	}
	old, other, challenged := k.record(t, a), k.record(t, a), k.record(t, a)
	oldToken, token := attest(old), attest(other)
	get := func(what, cookie, bearer, kind, log string) {
		t.Helper()
		headers := []string{"Authorization", "Bearer " + bearer}
		if cookie != "" {
			headers = append(headers, "Cookie", cookie)
		}
		before := len(k.log.String())
		got := k.send(t, "GET", "/kbs/v0/resource/a/b/c", "", headers...)
		if (got.status == 200) != (kind == "") || got.kind != kind {
			t.Errorf("%s: %+v, want %q", what, got, kind)
		}
		if line := k.log.String()[before:]; !strings.Contains(line, log) {
			t.Errorf("%s: the log lacks %q:\n%s", what, log, line)
		}
	}
	// What the log has of the token that counted: the beginning of its hash.
	field := func(token string) string {
		sum := sha256.Sum256([]byte(token))
		return fmt.Sprintf(`"token":"sha256:%x"`, sum[:8])
	}
	get("both", old.cookie, token, "", field(oldToken))
	get("cookie, and a token of nobody's", old.cookie, "x", "", field(oldToken))
	get("control: that token alone", "", "x", "TokenVerifierError", field("x"))
	get("the token alone", "", token, "", field(token))
	get("cookie of a session that has not attested", challenged.cookie, token, "", field(token))
	get("cookie of no session", "kbs-session-id="+strings.Repeat("0", 32), token, "", field(token))
	get("neither counts", challenged.cookie, "x", "TokenVerifierError", field("x"))
	mustSucceed(t, k.SetResourcePolicy(ctx, "package policy\ndefault allow := false\n"))
	get("a policy of later is asked all the same", old.cookie, token, "PolicyDeny", field(oldToken))
}

// All kinds of TEE keys, by token and by session.
func TestResourceIsEncryptedToTEEKey(t *testing.T) {
	ctx := t.Context()
	k, a := start(t, ""), newTPM(t)
	mustSucceed(t, k.SetResource(ctx, path, []byte(secret)))
	for _, algorithm := range []client.KeyAlgorithm{client.ECP256, client.ECP521, client.RSAOAEP} {
		key, err := client.GenerateTEEKey(algorithm)
		mustSucceed(t, err)
		session := k.NewSession(key)
		token, err := session.Attest(ctx, a, nil)
		mustSucceed(t, err)
		bySession, err := session.GetResource(ctx, path)
		mustSucceed(t, err)
		byToken, err := k.GetResource(ctx, "kbs:///"+path, token, key)
		mustSucceed(t, err)
		if string(bySession) != secret || string(byToken) != secret {
			t.Errorf("%s: another secret", algorithm)
		}
		stranger, err := client.GenerateTEEKey(algorithm)
		mustSucceed(t, err)
		_, err = k.GetResource(ctx, path, token, stranger)
		expect(t, string(algorithm)+" with another key", err, client.Inconclusive, "")
		mustSucceed(t, k.SetResource(ctx, "other/secret/empty", nil))
		if empty, err := k.GetResource(ctx, "other/secret/empty", token, key); err != nil || len(empty) != 0 {
			t.Errorf("empty resource: %q %v", empty, err)
		}
	}
}

func TestConcurrentHandshakes(t *testing.T) {
	k, a := start(t, ""), newTPM(t)
	mustSucceed(t, k.SetResource(t.Context(), path, []byte(secret)))
	const clients = 16
	results := make(chan error, clients)
	for i := range clients {
		go func() {
			ctx := context.WithoutCancel(t.Context())
			if i%4 == 0 {
				results <- k.SetResourcePolicy(ctx, "package policy\nallow := data.plugin == \"resource\"")
				return
			}
			token, key, err := k.Handshake(ctx, a, nil)
			if err != nil {
				results <- err
				return
			}
			got, err := k.GetResource(ctx, path, token, key)
			if err == nil && string(got) != secret {
				err = fmt.Errorf("got %q", got)
			}
			results <- err
		}()
	}
	for range clients {
		mustSucceed(t, <-results)
	}
}
