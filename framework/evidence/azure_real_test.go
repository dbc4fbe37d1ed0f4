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

// What Trustee publishes of Azure's machines in deps/verifier/test_data: az-snp-vtpm/evidence-v0.json (a Milan processor,
// report version 2), evidence-v1.json (another, report version 3) and evidence-genoa.json (version 0; something was measured
// into its PCR 8), and az-tdx-vtpm/evidence-v1.json and evidence-v0.json, which is the same in the older form. The lists of
// az-snp-vtpm-v0.json and az-snp-vtpm-genoa.json are here without their line breaks. What is wanted was read out of the files by
// hand, by AMD's, Intel's and the TCG's layouts.
func TestAzureOfEarlierVersions(t *testing.T) {
	const mrTD = "024a32b070383331181619fa387cb4d55d1e38879f989933055ccad5bc2db795d1737b66205949d15469dc8c1ba7ab7b"
	zeros, challenge := strings.Repeat("00", 32), hex.EncodeToString([]byte("challenge"))
	for _, c := range []struct {
		file, kind string
		version    int
		nonce      string
		pcr7, pcr8 string
		claims     map[string]any // of the top level
		body       map[string]any // of a TDX quote
	}{
		{"az-snp-vtpm-v0.json", KindAzSNPVTPM, 0, challenge, "32fe42b385b47cb22c906b8a7e4f134e9f2270818f90e94072d1101ef72f1c00", zeros, map[string]any{
			"measurement":            "msSPysii2Iru/41CetTyvg45F8dIoYvfUswxfn/iAwi0WdXvGhLgwilE6zhtF8MV",
			"reported_tcb_microcode": "115", "reported_tcb_snp": "8", "reported_tcb_tee": "0", "reported_tcb_bootloader": "3",
			"policy_abi_major": "0", "policy_abi_minor": "31", "policy_debug_allowed": "false", "policy_smt_allowed": "true",
			"platform_smt_enabled": "true", "platform_tsme_enabled": "false",
		}, nil},
		{"az-snp-vtpm-v1.json", KindAzSNPVTPM, 1, challenge, "3b20e022416fdf61d72e4da32b4354781be3de0608116976d28ffdad8c341d2a", zeros, map[string]any{
			"measurement":            "agY76d159jcchC5ID43DtccllhNE5XEw6Ixa30no9/bHm3Wl63f8dplZ9K6y+UAe",
			"reported_tcb_microcode": "219", "reported_tcb_snp": "24", "reported_tcb_tee": "0", "reported_tcb_bootloader": "4",
			"policy_abi_major": "0", "policy_abi_minor": "31", "policy_debug_allowed": "false", "policy_smt_allowed": "true",
			"platform_smt_enabled": "true", "platform_tsme_enabled": "false",
		}, nil},
		{
			"az-snp-vtpm-genoa.json", KindAzSNPVTPM, 0,
			"0218488bae25d2509232bf676f1a66a30d7372add909109b36016ef136f2938ca05475f8b46094de6b64270ea35d950f",
			"3b20e022416fdf61d72e4da32b4354781be3de0608116976d28ffdad8c341d2a", "16f09f1e315b0b9bc69e654df58927aad7eaffeebd92f458f1b079b44e97207f",
			map[string]any{
				"measurement":            "9X3AmlB8bs2CNpv/tgDwADeS9Nmbwm6YXsDCZvw0+vNwb6+BTJ5hBldopv+RfImu",
				"reported_tcb_microcode": "84", "reported_tcb_snp": "23", "reported_tcb_tee": "0", "reported_tcb_bootloader": "10",
				"policy_abi_major": "0", "policy_abi_minor": "31", "policy_debug_allowed": "false", "policy_smt_allowed": "true",
				"platform_smt_enabled": "false", "platform_tsme_enabled": "false",
			},
			nil,
		},
		{"az-tdx-vtpm-v0.json", KindAzTDXVTPM, 0, challenge, "4d98d960d39753d97c718812eb4baa6c4bae9eca0365d6100393bf227d91f894", zeros, nil, map[string]any{"mr_td": mrTD}},
		{"az-tdx-vtpm-v1.json", KindAzTDXVTPM, 1, challenge, "4d98d960d39753d97c718812eb4baa6c4bae9eca0365d6100393bf227d91f894", zeros, nil, map[string]any{
			"mr_td": mrTD, "xfam": "e718060000000000", "td_attributes": "0000000000000000", "tcb_svn": "02010600000000000000000000000000",
			"mr_config_id": strings.Repeat("00", 48), "rtmr_3": strings.Repeat("00", 48),
			"mr_seam":     "360304d34a16aace0a18e09ad2d07d2b9fd3c174378e5bf108388079827f89ff62acc5f8c473dd40706324834e202946",
			"report_data": "9734504f161d104c74e3165c15f779b06a9bb40dfa71937817d7eee68e593839" + zeros,
		}},
	} {
		t.Run(c.file, func(t *testing.T) {
			raw, options := fixture(t, c.file), at(2026)
			options.AllowDebug = false
			nonce := fromHex(t, c.nonce)
			claims, err := Verify(c.kind, raw, nonce, options)
			if err != nil {
				t.Fatal(err)
			}
			if claims.TestRoot {
				t.Error("under a test root")
			}
			asMap := claims.Map()
			for name, want := range c.claims {
				if asMap[name] != want {
					t.Errorf("%s = %v, want %s", name, asMap[name], want)
				}
			}
			for name, want := range c.body {
				if got := asMap["quote"].(map[string]any)["body"].(map[string]any)[name]; got != want {
					t.Errorf("quote.body.%s = %v, want %s", name, got, want)
				}
			}
			pcrs := asMap["tpm"].(map[string]any)
			if pcrs["pcr07"] != c.pcr7 || pcrs["pcr08"] != c.pcr8 || pcrs["pcr17"] != strings.Repeat("ff", 32) || asMap["init_data"] != c.pcr8 || asMap["report_data"] != c.nonce {
				t.Errorf("PCRs %v", pcrs)
			}
			if parsed, err := parseAzure(c.kind, raw); err != nil || parsed.Version != c.version {
				t.Errorf("version %+v, %v", parsed, err)
			}
			if _, err := Verify(c.kind, raw, append(nonce[:len(nonce)-1:len(nonce)-1], nonce[len(nonce)-1]^1), options); !errors.Is(err, ErrNonce) {
				t.Errorf("another nonce: %v", err)
			}
			options.Now = at(2035).Now
			if _, err := Verify(c.kind, raw, nonce, options); !errors.Is(err, ErrChain) {
				t.Errorf("after the certificate expired: %v", err)
			}
		})
	}
}
