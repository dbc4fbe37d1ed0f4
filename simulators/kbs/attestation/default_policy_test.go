package attestation

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
)

// hardware is evidence as [evidence.Verify] reports it, whose claims must bear the names and types that the default policy
// looks for: with its reference values it is affirmed, and with one of them away or changed, the named claim is not.
type hardware struct {
	kind   string
	claims *evidence.Claims
	// collateral is what Trustee's verifier adds from Intel's collateral, which [evidence.Verify] does not fetch.
	collateral map[string]any
	references map[string]any
	want       [3]int // executables, hardware, configuration
	without    map[string][3]int
}

func allBytes(value byte, size int) []byte { return bytes.Repeat([]byte{value}, size) }

func snpClaims() *evidence.SNPClaims {
	return &evidence.SNPClaims{
		Policy: 1<<16 | 1<<8 | 31, Platform: 3, TCB: evidence.SNPTCB{Bootloader: 4, TEE: 1, SNP: 24, Microcode: 219},
		Measurement: [48]byte(allBytes(0x77, 48)),
	}
}

func tdxClaims() *evidence.TDXClaims {
	t := &evidence.TDXClaims{MRTD: [48]byte(allBytes(0x11, 48)), XFAM: [8]byte(allBytes(0x22, 8))}
	t.RTMRs[1], t.RTMRs[2] = [48]byte(allBytes(0x33, 48)), [48]byte(allBytes(0x44, 48))
	header, err := hex.DecodeString("04000200" + "81000000" + "00000000" + "939a7233f79c4ca9940a0db3957f0607")
	if err != nil {
		panic(err)
	}
	copy(t.Header[:], header)
	return t
}

func pcr11() (pcrs [evidence.PCRCount][32]byte) {
	pcrs[11] = [32]byte(allBytes(0x0b, 32))
	return pcrs
}

func TestDefaultPolicyOfHardware(t *testing.T) {
	list := func(values ...any) []any { return values }
	mrtd, xfam := strings.Repeat("11", 48), strings.Repeat("22", 8)
	for _, h := range []hardware{
		{
			kind: evidence.KindSNP, claims: &evidence.Claims{Kind: evidence.KindSNP, SNP: snpClaims()},
			references: map[string]any{
				"snp_launch_measurement": list(strings.Repeat("77", 48)), "snp_bootloader": list(4), "snp_microcode": list(219),
				"snp_snp_svn": list(24), "snp_tee_svn": list(1), "snp_smt_enabled": true, "snp_tsme_enabled": true,
				"snp_guest_abi_major": 1, "snp_guest_abi_minor": 31, "snp_single_socket": false, "snp_smt_allowed": true,
			},
			want: [3]int{3, 2, 2},
			without: map[string][3]int{
				"snp_launch_measurement": {33, 2, 2}, "snp_bootloader": {3, 97, 2}, "snp_microcode": {3, 97, 2}, "snp_snp_svn": {3, 97, 2},
				"snp_tee_svn": {3, 97, 2}, "snp_smt_enabled": {3, 2, 3}, "snp_tsme_enabled": {3, 2, 3}, "snp_guest_abi_major": {3, 2, 3},
				"snp_guest_abi_minor": {3, 2, 3}, "snp_single_socket": {3, 2, 3}, "snp_smt_allowed": {3, 2, 3},
			},
		},
		{
			kind: evidence.KindAzSNPVTPM, claims: &evidence.Claims{Kind: evidence.KindAzSNPVTPM, SNP: snpClaims(), PCRs: pcr11()},
			references: map[string]any{
				"measurement": list(base64.StdEncoding.EncodeToString(allBytes(0x77, 48))), "snp_pcr11": list(strings.Repeat("0b", 32)),
				"tcb_bootloader": list("4"), "tcb_microcode": list("219"), "tcb_snp": list("24"), "tcb_tee": list("1"),
				"smt_enabled": list("true"), "tsme_enabled": list("true"), "abi_major": list("1"), "abi_minor": list("31"),
				"single_socket": list("false"), "smt_allowed": list("true"),
			},
			want: [3]int{3, 2, 2},
			without: map[string][3]int{
				"measurement": {33, 2, 2}, "snp_pcr11": {33, 2, 2}, "tcb_bootloader": {3, 97, 2}, "tcb_microcode": {3, 97, 2}, "tcb_snp": {3, 97, 2},
				"tcb_tee": {3, 97, 2}, "smt_enabled": {3, 2, 36}, "tsme_enabled": {3, 2, 36}, "abi_major": {3, 2, 36}, "abi_minor": {3, 2, 36},
				"single_socket": {3, 2, 36}, "smt_allowed": {3, 2, 36},
			},
		},
		{
			kind: evidence.KindTDX, claims: &evidence.Claims{Kind: evidence.KindTDX, TDX: tdxClaims()},
			collateral: map[string]any{"tcb_status": "UpToDate", "collateral_expiration_status": "0"},
			references: map[string]any{
				"rtmr_1": list(strings.Repeat("33", 48)), "rtmr_2": list(strings.Repeat("44", 48)), "mr_td": list(mrtd), "xfam": list(xfam),
			},
			want:    [3]int{4, 2, 2},
			without: map[string][3]int{"rtmr_1": {33, 2, 2}, "rtmr_2": {33, 2, 2}, "mr_td": {4, 97, 2}, "xfam": {4, 2, 36}},
		},
		{
			kind: evidence.KindAzTDXVTPM, claims: &evidence.Claims{Kind: evidence.KindAzTDXVTPM, TDX: tdxClaims(), PCRs: pcr11()},
			collateral: map[string]any{"tcb_status": "UpToDate"},
			references: map[string]any{"tdx_pcr11": list(strings.Repeat("0b", 32)), "mr_td": list(mrtd), "xfam": list(xfam)},
			want:       [3]int{3, 2, 2},
			without:    map[string][3]int{"tdx_pcr11": {33, 2, 2}, "mr_td": {3, 97, 2}, "xfam": {3, 2, 36}},
		},
	} {
		claims := h.claims.Map()
		maps.Copy(claims, h.collateral)
		check := func(name string, references map[string]any, want [3]int) {
			t.Helper()
			service := newService(t)
			if err := service.SetReferenceValues(references); err != nil {
				t.Fatal(err)
			}
			appraisal := &Appraisal{Claims: map[string]any{h.kind: claims}}
			if err := service.appraise(t.Context(), appraisal); err != nil {
				t.Fatalf("%s, %s: %v", h.kind, name, err)
			}
			v := appraisal.Vector
			if got := [3]int{v["executables"], v["hardware"], v["configuration"]}; got != want {
				t.Errorf("%s, %s: %v, want %v", h.kind, name, got, want)
			}
			if affirmed := max(want[0], want[1], want[2]) < 32; affirmed != (appraisal.Status == "affirming") {
				t.Errorf("%s, %s: %s", h.kind, name, appraisal.Status)
			}
		}
		check("as listed", h.references, h.want)
		for name := range h.references {
			want, known := h.without[name]
			if !known {
				t.Fatalf("%s: nothing expected without %s", h.kind, name)
			}
			missing := maps.Clone(h.references)
			delete(missing, name)
			check("without "+name, missing, want)
			changed := maps.Clone(h.references)
			switch value := changed[name].(type) {
			case []any:
				changed[name] = list("other")
			case bool:
				changed[name] = !value
			default:
				changed[name] = 99
			}
			check("other "+name, changed, want)
		}
		for name := range h.collateral {
			was := claims[name]
			claims[name] = "OutOfDate"
			check("other "+name, h.references, [3]int{h.want[0], 97, h.want[2]})
			delete(claims, name)
			check("without "+name, h.references, [3]int{h.want[0], 97, h.want[2]})
			claims[name] = was
		}
		if h.kind == evidence.KindTDX {
			event := func(kind, digest, name string, detail any) map[string]any {
				return map[string]any{
					"type_name": kind, "digests": list(map[string]any{"alg": "SHA-384", "digest": digest}),
					"details": map[string]any{name: detail},
				}
			}
			kernel := event("EV_EFI_BOOT_SERVICES_APPLICATION", "aa", "device_paths", list("VenMedia(1428f772)", "File(kernel)"))
			parameters := event("EV_EVENT_TAG", "bb", "string", "LOADED_IMAGE::LoadOptions")
			booted := maps.Clone(h.references)
			booted["tdvfkernel"], booted["tdvfkernelparams"] = "aa", "bb"
			claims["uefi_event_logs"] = list(kernel, parameters)
			check("kernel booted directly", booted, [3]int{3, 2, 2})
			claims["uefi_event_logs"] = list(kernel)
			check("without the kernel's parameters", booted, [3]int{4, 2, 2})
			claims["uefi_event_logs"] = list(parameters)
			check("without the kernel", booted, [3]int{4, 2, 2})
			claims["uefi_event_logs"] = list(event("EV_EFI_BOOT_SERVICES_APPLICATION", "aa", "device_paths", list("File(shimx64.efi)")), parameters)
			check("another program's digest", booted, [3]int{4, 2, 2})
			claims["uefi_event_logs"] = list(kernel, event("EV_EVENT_TAG", "bb", "string", "Linux initrd"))
			check("another tag's digest", booted, [3]int{4, 2, 2})
		}
	}
}
