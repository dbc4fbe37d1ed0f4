package evidence

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// testdata/az-snp-vtpm-v2.json is evidence that a confidential VM on Azure made (a Milan processor; AMD signed the report),
// as Trustee publishes it in deps/verifier/test_data/az-snp-vtpm/evidence-v2.json. Only a machine with that processor's
// key and that vTPM could make it, so nothing here depends on this project's idea of the formats.
const azureReportData = "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef"

func TestAzureSNPOfMicrosoftAndAMD(t *testing.T) {
	raw := fixture(t, "az-snp-vtpm-v2.json")
	claims, err := Verify(KindAzSNPVTPM, raw, fromHex(t, azureReportData), at(2026))
	if err != nil {
		t.Fatal(err)
	}
	asMap := claims.Map()
	for name, want := range map[string]string{
		"policy_debug_allowed": "false", "policy_abi_minor": "31", "platform_smt_enabled": "true", "reported_tcb_microcode": "219",
		"reported_tcb_snp": "24", "reported_tcb_bootloader": "4", "init_data": strings.Repeat("00", 32), "report_data": azureReportData,
		"measurement": "WwzmStHB9jddvaX3YLmFJsobz5G4GVCRr8KOewJCUdaP4y4FrzQEjWYHZ4zSMoP_",
	} {
		if name == "measurement" {
			want = strings.ReplaceAll(want, "_", "/")
		}
		if asMap[name] != want {
			t.Errorf("%s = %v, want %s", name, asMap[name], want)
		}
	}
	if got := asMap["tpm"].(map[string]any)["pcr14"]; got != "306f9d8b94f17d93dc6e7cf8f5c79d652eb4c6c4d13de2dddc24af416e13ecaf" {
		t.Errorf("pcr14 = %v", got)
	}
	if claims.TestRoot || claims.SNP.Product != "Milan" {
		t.Errorf("%+v", claims)
	}
	// PCR 8 of this machine is zero: init-data was never measured.
	options := at(2026)
	options.InitDataDigest = make([]byte, 32)
	if _, err := Verify(KindAzSNPVTPM, raw, fromHex(t, azureReportData), options); !errors.Is(err, ErrInitData) {
		t.Errorf("with init-data demanded: %v", err)
	}
	other, _ := hex.DecodeString("00" + azureReportData[2:])
	if _, err := Verify(KindAzSNPVTPM, raw, other, at(2026)); !errors.Is(err, ErrNonce) {
		t.Errorf("other report data: %v", err)
	}
	if _, err := Verify(KindAzTDXVTPM, raw, other, at(2026)); !errors.Is(err, ErrFormat) {
		t.Errorf("as TDX: %v", err)
	}
}

// The same machine's report in the form of plain snp evidence: putting it together from the JSON gives the bytes that AMD
// signed, and only the report data that the paravisor asked for fits.
func TestSNPDocumentOfAMD(t *testing.T) {
	azure, err := ParseAzSNP(fixture(t, "az-snp-vtpm-v2.json"))
	if err != nil {
		t.Fatal(err)
	}
	raw := asJSON(t, snpDocument(azure.hcl.hardware, azure.vcek))
	digest := azure.hcl.digest()
	claims, err := Verify(KindSNP, raw, digest[:], at(2026))
	if err != nil || claims.TestRoot || claims.SNP.Version != 3 || claims.SNP.Product != "Milan" || claims.SNP.TCB.Microcode != 219 {
		t.Errorf("%+v, %v", claims, err)
	}
	if _, err := Verify(KindSNP, raw, digest[1:], at(2026)); !errors.Is(err, ErrReportData) {
		t.Errorf("other report data: %v", err)
	}
	changed := strings.Replace(string(raw), `"guest_svn":12`, `"guest_svn":13`, 1)
	if _, err := Verify(KindSNP, []byte(changed), digest[:], at(2026)); !errors.Is(err, ErrReportSignature) {
		t.Errorf("another guest SVN: %v", err)
	}
}
