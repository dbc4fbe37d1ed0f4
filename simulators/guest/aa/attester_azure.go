package aa

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/guest/tpm"
)

// NV indices of Azure's vTPM.
const (
	hclReportIndex  = 0x01400001
	reportDataIndex = 0x01400002
)

// Layout of the HCL report. Sizes in bytes.
const (
	hclHeader     = 32
	hclHardware   = 1184
	hclReportType = hclHeader + hclHardware + 8
	hclTypeSNP    = 2
	hclTypeTDX    = 4
)

// metadataSocket is where this machine's instance metadata service is. On Azure it is at http://169.254.169.254.
const metadataSocket = "/run/imds.sock"

// Azure is the attester of Azure's confidential VMs: a vTPM whose key the hardware below vouches for.
type Azure struct {
	TPM tpm.TPM
	// SNP says that the hardware is SEV-SNP, otherwise it is TDX.
	SNP bool
	// Metadata is the socket of the metadata service.
	Metadata string
}

var (
	_ Attester = (*Azure)(nil)
	_ Extender = (*Azure)(nil)
)

// detectAzure recognises an Azure machine by its vTPM's HCL report; nil for other machines, and for those whose TPM does
// not answer, as attestation-agent does: whoever uses that TPM will say so.
func detectAzure(device string, handle uint32) (Attester, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deviceTimeout)
	defer cancel()
	azure := &Azure{TPM: tpm.TPM{Device: device, AKHandle: handle}, Metadata: metadataSocket}
	report, err := azure.TPM.ReadNV(ctx, hclReportIndex)
	if err != nil {
		return nil, nil
	}
	switch kind, err := reportType(report); {
	case err != nil:
		return nil, err
	case kind == hclTypeSNP:
		azure.SNP = true
	case kind != hclTypeTDX:
		return nil, fmt.Errorf("HCL report: report_type %d, want %d for SEV-SNP or %d for TDX", kind, hclTypeSNP, hclTypeTDX)
	}
	return azure, nil
}

func reportType(report []byte) (uint32, error) {
	if len(report) < hclReportType+4 || !bytes.HasPrefix(report, []byte("HCLA")) {
		return 0, fmt.Errorf("HCL report: %d bytes that are none", len(report))
	}
	return binary.LittleEndian.Uint32(report[hclReportType:]), nil
}

// Tee is "az-snp-vtpm" or "az-tdx-vtpm".
func (a *Azure) Tee() string {
	if a.SNP {
		return "az-snp-vtpm"
	}
	return "az-tdx-vtpm"
}

// BindInitData extends PCR 8 of the SHA-256 bank with digest, which must have 32 bytes.
func (a *Azure) BindInitData(ctx context.Context, digest []byte) error {
	if len(digest) != sha256.Size {
		return errors.New("expected sha256 digest")
	}
	if err := a.TPM.Extend(ctx, initDataPCR, digest); err != nil {
		//lint:ignore ST1005 the text is attestation-agent's
		return fmt.Errorf("Failed to extend PCR for init data: %w", err)
	}
	return nil
}

// Evidence is a quote, the report that the paravisor made for the same report data, and what the hardware's vendor needs
// to vouch for that: evidence version 2.
func (a *Azure) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	evidence, err := a.evidence(ctx, reportData)
	if err != nil {
		return nil, fmt.Errorf("%s evidence: %w", a.Tee(), err)
	}
	return json.Marshal(evidence)
}

func (a *Azure) evidence(ctx context.Context, reportData []byte) (map[string]any, error) {
	padded, err := pad64("Azure", reportData)
	if err != nil {
		return nil, err
	}
	if err := a.TPM.WriteNV(ctx, reportDataIndex, padded[:]); err != nil {
		return nil, fmt.Errorf("report data: %w", err)
	}
	report, err := a.TPM.ReadNV(ctx, hclReportIndex)
	if err != nil {
		return nil, fmt.Errorf("HCL report: %w", err)
	}
	if _, err := reportType(report); err != nil {
		return nil, err
	}
	quote, err := a.TPM.Quote(ctx, reportData)
	if err != nil {
		return nil, err
	}
	evidence := map[string]any{"version": 2, "tpm_quote": quote, "hcl_report": base64.URLEncoding.EncodeToString(report)}
	name, ask := "td_quote", a.tdQuote
	if a.SNP {
		name, ask = "vcek", a.vcek
	}
	hardware, err := ask(ctx, report[hclHeader:hclHeader+hclHardware])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	evidence[name] = base64.URLEncoding.EncodeToString(hardware)
	return evidence, nil
}

// vcek is the certificate of the key that signed the report, DER.
func (a *Azure) vcek(ctx context.Context, _ []byte) ([]byte, error) {
	var answer struct {
		VCEK string `json:"vcekCert"`
	}
	if err := a.metadata(ctx, http.MethodGet, "/metadata/THIM/amd/certification", nil, &answer); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(answer.VCEK))
	if block == nil {
		return nil, errors.New("the metadata service's vcekCert is not PEM")
	}
	return block.Bytes, nil
}

// tdQuote has the host turn the TDREPORT in the HCL report into a quote.
func (a *Azure) tdQuote(ctx context.Context, hardware []byte) ([]byte, error) {
	body, err := json.Marshal(map[string]string{"report": base64.RawURLEncoding.EncodeToString(hardware[:tdReportSize])})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Quote string `json:"quote"`
	}
	if err := a.metadata(ctx, http.MethodPost, "/acc/tdquote", body, &answer); err != nil {
		return nil, err
	}
	return base64.RawURLEncoding.DecodeString(answer.Quote)
}

// maxMetadata bounds an answer of the metadata service, in bytes.
const maxMetadata = 1 << 20

func (a *Azure) metadata(ctx context.Context, method, path string, body []byte, into any) error {
	client := &http.Client{Timeout: deviceTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dialer := net.Dialer{Timeout: 5 * time.Second}
			return dialer.DialContext(ctx, "unix", a.Metadata)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://169.254.169.254"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Metadata", "true")
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxMetadata))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("metadata service: %s: %.200s", response.Status, text)
	}
	return json.Unmarshal(text, into)
}

// Bank is SHA-256.
func (*Azure) Bank() crypto.Hash { return crypto.SHA256 }

// Register is the PCR itself.
func (*Azure) Register(pcr uint32) uint32 { return pcr }

// Extend extends a PCR.
func (a *Azure) Extend(ctx context.Context, pcr uint32, digest []byte) error {
	return a.TPM.Extend(ctx, pcr, digest)
}
