package aa

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/abi"

	"github.com/coco-e2e/coco-e2e/simulators/tee/message"
)

// snpDevice is Linux's.
const snpDevice = "/dev/sev-guest"

// Layout of struct snp_report_req and of the answer's head. Sizes in bytes.
const (
	snpRequestSize = 96
	snpAnswerHead  = 32
	snpReportSize  = 1184
	snpHostData    = 0xc0
)

// SNP is the attester of SEV-SNP guests.
type SNP struct {
	// Device is the path of the firmware's device.
	Device string
}

var _ Attester = (*SNP)(nil)

// Tee is "snp".
func (*SNP) Tee() string { return "snp" }

// report asks the firmware, at VMPL 0.
func (s *SNP) report(ctx context.Context, reportData []byte) (report, certificates []byte, err error) {
	data, err := pad64("SNP", reportData)
	if err != nil {
		return nil, nil, err
	}
	request := make([]byte, snpRequestSize)
	copy(request, data[:])
	answer, err := ask(ctx, s.Device, message.SNPReport, request)
	if err != nil {
		return nil, nil, err
	}
	if len(answer) < snpAnswerHead+snpReportSize || binary.LittleEndian.Uint32(answer) != 0 {
		return nil, nil, fmt.Errorf("%s: %d bytes that are no report", s.Device, len(answer))
	}
	rest := answer[snpAnswerHead:]
	return rest[:snpReportSize], rest[snpReportSize:], nil
}

// BindInitData compares HOST_DATA, which the host set at launch, with digest cut or zero-padded to 32 bytes.
func (s *SNP) BindInitData(ctx context.Context, digest []byte) error {
	report, _, err := s.report(ctx, nil)
	if err != nil {
		return fmt.Errorf("SNP report: %w", err)
	}
	if !bytes.Equal(report[snpHostData:snpHostData+32], fitted(digest, 32)) {
		return errors.New("HOSTDATA does not match.") //nolint:staticcheck // attestation-agent's text
	}
	return nil
}

// Evidence is a report with the certificates that the host has for it.
func (s *SNP) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	report, raw, err := s.report(ctx, reportData)
	if err != nil {
		return nil, fmt.Errorf("SNP evidence: %w", err)
	}
	var table abi.CertTable
	if err := table.Unmarshal(raw); err != nil {
		return nil, fmt.Errorf("SNP evidence: certificates: %w", err)
	}
	chain := []any{}
	for _, kind := range []struct{ name, id string }{{"VCEK", abi.VcekGUID}, {"ASK", abi.AskGUID}, {"ARK", abi.ArkGUID}} {
		der, err := table.GetByGUIDString(kind.id)
		if err != nil {
			return nil, fmt.Errorf("SNP evidence: certificates: no %s: %w", kind.name, err)
		}
		chain = append(chain, map[string]any{"cert_type": kind.name, "data": numbers(der)})
	}
	evidence, err := json.Marshal(map[string]any{"attestation_report": snpFields(report), "cert_chain": chain})
	if err != nil {
		return nil, fmt.Errorf("SNP evidence: %w", err)
	}
	return evidence, nil
}

// numbers are bytes as serde writes arrays.
func numbers(raw []byte) []int {
	list := make([]int, len(raw))
	for i, value := range raw {
		list[i] = int(value)
	}
	return list
}

// snpFields writes a report of a processor before Turin as serde writes the sev crate's AttestationReport.
func snpFields(raw []byte) map[string]any {
	little := binary.LittleEndian
	tcb := func(at int) map[string]any {
		return map[string]any{"fmc": nil, "bootloader": raw[at], "tee": raw[at+1], "snp": raw[at+6], "microcode": raw[at+7]}
	}
	version := func(at int) map[string]any {
		return map[string]any{"build": raw[at], "minor": raw[at+1], "major": raw[at+2]}
	}
	return map[string]any{
		"version": little.Uint32(raw), "guest_svn": little.Uint32(raw[0x04:]), "policy": little.Uint64(raw[0x08:]),
		"family_id": numbers(raw[0x10:0x20]), "image_id": numbers(raw[0x20:0x30]), "vmpl": little.Uint32(raw[0x30:]),
		"sig_algo": little.Uint32(raw[0x34:]), "current_tcb": tcb(0x38), "plat_info": little.Uint64(raw[0x40:]),
		"key_info": little.Uint32(raw[0x48:]), "report_data": numbers(raw[0x50:0x90]), "measurement": numbers(raw[0x90:0xc0]),
		"host_data": numbers(raw[0xc0:0xe0]), "id_key_digest": numbers(raw[0xe0:0x110]),
		"author_key_digest": numbers(raw[0x110:0x140]), "report_id": numbers(raw[0x140:0x160]), "report_id_ma": numbers(raw[0x160:0x180]),
		"reported_tcb": tcb(0x180), "cpuid_fam_id": raw[0x188], "cpuid_mod_id": raw[0x189], "cpuid_step": raw[0x18a],
		"chip_id": numbers(raw[0x1a0:0x1e0]), "committed_tcb": tcb(0x1e0), "current": version(0x1e8), "committed": version(0x1ec),
		"launch_tcb": tcb(0x1f0), "launch_mit_vector": nil, "current_mit_vector": nil,
		"signature": map[string]any{"r": numbers(raw[0x2a0:0x2e8]), "s": numbers(raw[0x2e8:0x330])},
	}
}
