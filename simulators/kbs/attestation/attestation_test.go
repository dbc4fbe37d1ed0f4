package attestation

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/simulators/kbs/message"
)

func newService(t *testing.T) *Service {
	t.Helper()
	service, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

func sampleClaims(debug bool) map[string]any {
	return map[string]any{"sample": map[string]any{
		"svn": "1", "launch_digest": "abcde", "debug": debug, "platform_version": map[string]any{"major": 1, "minor": 4},
	}}
}

// Trustee's default policy, by hand from its rules.
func TestDefaultPolicy(t *testing.T) {
	tpm := map[string]any{"tpm": map[string]any{"pcr11": "0b", "ak_public": "AK"}}
	list := func(values ...any) []any { return values }
	sampleValues := map[string]any{"svn": list("1"), "launch_digest": list("abcde"), "major_version": 1, "minimum_minor_version": 1}
	without := func(name string, value any) map[string]any {
		changed := map[string]any{}
		for k, v := range sampleValues {
			changed[k] = v
		}
		changed[name] = value
		return changed
	}
	for _, c := range []struct {
		name                                 string
		claims                               map[string]any
		references                           map[string]any
		executables, hardware, configuration int
		status                               string
	}{
		{"sample, no reference values", sampleClaims(false), nil, 33, 97, 2, "contraindicated"},
		{"sample", sampleClaims(false), sampleValues, 3, 2, 2, "affirming"},
		{"sample in debug mode", sampleClaims(true), sampleValues, 3, 2, 36, "warning"},
		{"sample, other svn", sampleClaims(false), without("svn", list("2")), 3, 97, 2, "contraindicated"},
		{"sample, other digest", sampleClaims(false), without("launch_digest", list("x")), 33, 2, 2, "warning"},
		{"sample, other major", sampleClaims(false), without("major_version", 2), 3, 97, 2, "contraindicated"},
		{"sample, minor too low", sampleClaims(false), without("minimum_minor_version", 5), 3, 97, 2, "contraindicated"},
		{"tpm, no reference values", tpm, nil, 33, 2, 0, "warning"},
		{"tpm", tpm, map[string]any{"tpm_pcr11": list("0b"), "trusted_aks": list("AK", "BK")}, 3, 2, 0, "affirming"},
		{"tpm, key not trusted", tpm, map[string]any{"tpm_pcr11": list("0b"), "trusted_aks": list("BK")}, 33, 2, 0, "warning"},
		{"tpm, other PCR 11", tpm, map[string]any{"tpm_pcr11": list("0c"), "trusted_aks": list("AK")}, 33, 2, 0, "warning"},
		{"nothing known", map[string]any{"x": map[string]any{}}, nil, 33, 97, 36, "contraindicated"},
	} {
		service := newService(t)
		if err := service.SetReferenceValues(c.references); err != nil {
			t.Fatal(err)
		}
		appraisal := &Appraisal{Claims: c.claims}
		if err := service.appraise(t.Context(), appraisal); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		v := appraisal.Vector
		if v["executables"] != c.executables || v["hardware"] != c.hardware || v["configuration"] != c.configuration || len(v) != 8 || appraisal.Status != c.status {
			t.Errorf("%s: %v %s", c.name, v, appraisal.Status)
		}
	}
}

func TestPoliciesThatSayNothingUseful(t *testing.T) {
	for rego, want := range map[string]string{
		"package policy": "none",
		"package other\ntrust_claims := {\"hardware\": 2}":                                  "none",
		"package policy\ntrust_claims := {}":                                                "error: At least one policy claim must be set.",
		"package policy\ntrust_claims := 3":                                                 "error: Policy result is not an object",
		"package policy\ntrust_claims := {\"hardware\": \"2\"}":                             "error: Policy claim value not number",
		"package policy\ntrust_claims := {\"hardware\": 300}":                               "error: hardware is 300",
		"package policy\ntrust_claims := {\"hardware\": 2.5}":                               "error: hardware is 2.5",
		"package policy\ntrust_claims := {\"gears\": 2}":                                    "error: \"gears\" is no trustworthiness claim",
		"package policy\ntrust_claims := {\"hardware\": 1 / input.zero}":                    "error: ",
		"package policy\ntrust_claims := {\"hardware\": query_reference_value(\"number\")}": "warning",
		"package policy\ntrust_claims := {\"hardware\": 2, \"storage-opaque\": 1}":          "affirming",
	} {
		service := newService(t)
		if err := service.SetReferenceValues(map[string]any{"number": 32}); err != nil {
			t.Fatal(err)
		}
		if err := service.SetPolicy(DefaultPolicyID, rego); err != nil {
			t.Fatal(err)
		}
		appraisal := &Appraisal{Claims: map[string]any{"zero": 0}}
		err := service.appraise(t.Context(), appraisal)
		text, fails := strings.CutPrefix(want, "error: ")
		if fails != (err != nil) || (fails && !strings.Contains(err.Error(), text)) || (!fails && appraisal.Status != want) {
			t.Errorf("%s: %v %v, want %s", rego, appraisal.Status, err, want)
		}
	}
}

// Other policies' ids have no effect, "default" among them.
func TestPolicyID(t *testing.T) {
	service := newService(t)
	if err := service.SetPolicy("default", "package policy\ntrust_claims := {\"hardware\": 2}"); err != nil {
		t.Fatal(err)
	}
	appraisal := &Appraisal{Claims: sampleClaims(false)}
	if err := service.appraise(t.Context(), appraisal); err != nil || appraisal.Status != "contraindicated" {
		t.Errorf("%v %v", appraisal.Status, err)
	}
}

// The limits of rust-ear's tiers.
func TestStatus(t *testing.T) {
	for claim, want := range map[int]string{
		-128: "contraindicated", -97: "contraindicated", -96: "warning", -33: "warning", -32: "affirming", -2: "affirming", -1: "none",
		0: "none", 1: "none", 2: "affirming", 31: "affirming", 32: "warning", 95: "warning", 96: "contraindicated", 127: "contraindicated",
	} {
		if got := status(map[string]int{"hardware": claim, "executables": 0}); got != want {
			t.Errorf("%d: %s, want %s", claim, got, want)
		}
	}
}

func TestIdentifiers(t *testing.T) {
	policy := `package agent_policy
policy_data := {"containers": [
 {"OCI": {"Annotations": {"io.kubernetes.cri.image-name": "nginx@sha256:00"}, "Process": {"User": {"UID": 0}}}},
 {"OCI": {"Annotations": {}, "Process": {"User": {"UID": 65535}}}}]}`
	claims := initDataClaims(map[string]string{"policy.rego": policy, "cdh.toml": "not = [toml"})
	if claims["policy.rego"] != nil || claims["cdh.toml"] != "not = [toml" {
		t.Errorf("claims: %v", claims)
	}
	for name, c := range map[string]struct {
		claims any
		policy string
		want   string // the extension, as JSON
	}{
		"measured":                  {claims, "", `{"validated":{"container_images":["nginx@sha256:00"],"container_uids":[0,65535]}}`},
		"not the end of the policy": {initDataClaims(map[string]string{"policy.rego": policy + "\n# and more"}), "", `{"validated":{}}`},
		"no init-data":              {nil, "", `{"validated":{}}`},
		"a policy without the rule": {claims, "package policy\ntrust_claims := {\"hardware\": 2}\n", `null`},
		"a policy with its own": {
			claims, `package policy
trust_claims := {"hardware": 2}
extensions := [{"name": "ear.trustee.identifiers", "key": 1, "value": input.tee}, {"name": "ear.status", "key": 2, "value": "affirming, says who"}]
`, `"sample"`,
		},
	} {
		service, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if c.policy != "" {
			if err := service.SetPolicy(DefaultPolicyID, c.policy); err != nil {
				t.Fatal(err)
			}
		}
		appraisal := &Appraisal{Claims: map[string]any{"tee": "sample", "init_data_claims": c.claims}}
		if err := service.appraise(t.Context(), appraisal); err != nil {
			t.Fatal(name, err)
		}
		module := service.ear(appraisal)["submods"].(map[string]any)["cpu0"].(map[string]any)
		if got, err := json.Marshal(module["ear.trustee.identifiers"]); err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, c.want)
		}
		if module["ear.status"] != appraisal.Status {
			t.Errorf("%s: status %v", name, module["ear.status"])
		}
	}
	for _, wrong := range []string{`"x"`, `[{"name": "x", "value": 1}]`, `[{"name": 1, "key": 1, "value": 1}]`, `[{"name": "x", "key": 1}]`, `[1]`} {
		service, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := service.SetPolicy(DefaultPolicyID, "package policy\ntrust_claims := {\"hardware\": 2}\nextensions := "+wrong); err != nil {
			t.Fatal(err)
		}
		err = service.appraise(t.Context(), &Appraisal{Claims: map[string]any{}})
		if err == nil || !strings.Contains(err.Error(), "Illegal extensions rule in policy.") {
			t.Errorf("extensions %s: %v", wrong, err)
		}
	}
}

// An attester that sends brackets gets them back unread; parsing them would end the process.
func TestInitDataClaimsOfBrackets(t *testing.T) {
	brackets := "x = " + strings.Repeat("[", 3_000_000)
	if got := initDataClaims(map[string]string{"aa.toml": brackets})["aa.toml"]; got != brackets {
		t.Error("brackets became something else")
	}
}

func TestParseInitData(t *testing.T) {
	for _, c := range []struct{ format, body, want string }{
		{"toml", "algorithm = \"sha256\"\nversion = \"9.9.9\"\n[data]\n", ""}, // versions are not judged
		{"toml", "algorithm = \"sha512\"\nversion = \"0.1.0\"\n[data]\n", ""},
		{"json", "{}", "Unsupported initdata format: json"},
		{"toml", "algorithm = ", "init-data: "},
		{"toml", "algorithm = \"sha256\"\nversion = \"0.1.0\"\n", "missing field `data`"},
		{"toml", "algorithm = \"sha-256\"\nversion = \"0.1.0\"\n[data]\n", "unsupported algorithm: sha-256"},
		{"toml", "algorithm = \"sha-256\"\nversion = \"9.9.9\"\n[data]\n", "unsupported algorithm: sha-256"},
	} {
		got, err := parseInitData(&message.InitData{Format: c.format, Body: c.body})
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) || (err == nil && got.digest == nil) {
			t.Errorf("%q: %v, want %q", c.body, err, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	appraisal := &Appraisal{TEE: "tpm", Claims: map[string]any{
		"init_data": "88", "report_data": "77", "tpm": map[string]any{"pcr08": "88", "pcr07": "77"},
	}}
	service := newService(t)
	if err := service.SetReferenceValues(map[string]any{"tpm.pcr08": []any{"11", "88"}, "tpm.pcr10": []any{}, "svn": 3}); err != nil {
		t.Fatal(err)
	}
	rego := `package policy
trust_claims := {"hardware": 2} if {
	input.tpm.pcr08 in query_reference_value("tpm.pcr08")
	query_reference_value("tpm.pcr10") == []
	query_reference_value("svn") == 3
	query_reference_value("tpm.pcr08")
	not query_reference_value("missing")
}
trust_claims := {"hardware": 3} if not input.tpm`
	if err := service.SetPolicy(DefaultPolicyID, rego); err != nil {
		t.Fatal(err)
	}
	if err := service.appraise(t.Context(), appraisal); err != nil {
		t.Fatal(err)
	}
	const want = `claims of the verified tpm evidence:
    {
        "init_data": String("88"),
        "report_data": String("77"),
        "tpm.pcr07": String("77"),
        "tpm.pcr08": String("88"),
    }
acceptable reference values that the attestation policy consulted:
    {
        "tpm.pcr08": [
            "11",
            "88",
        ],
        "tpm.pcr10": [],
        "svn": 3,
        "missing": null,
    }
`
	if got := appraisal.Report(); got != want {
		t.Errorf("report:\n%s\nwant:\n%s", got, want)
	}
}
