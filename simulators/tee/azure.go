package tee

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// What Azure's vTPM has for attestation (azure-cvm-tooling az-cvm-vtpm, and Microsoft's documents on guest attestation of
// confidential VMs).
const (
	// AzureAKHandle is where the attestation key is persisted.
	AzureAKHandle tpm2.TPMHandle = 0x81000003
	// HCLReportIndex is the NV index with the paravisor's report, which guests can only read.
	HCLReportIndex tpm2.TPMHandle = 0x01400001
	// ReportDataIndex is the NV index that guests write report data to; the paravisor then makes a new report.
	ReportDataIndex tpm2.TPMHandle = 0x01400002
)

// reportDataSize is the size of that, in bytes.
const reportDataSize = 64

// Layout of the HCL report: header, hardware report, variable data. Sizes in bytes.
const (
	hclHeaderSize  = 32
	hardwareSize   = 1184
	varHeaderSize  = 20
	hclSize        = 2048 // Azure's index has 2600, the reference implementation's at most 2048
	requestReport  = 2
	hashSHA256     = 1
	nvChunk        = 1024 // MAX_NV_BUFFER_SIZE
	commandNVWrite = 0x137
)

// Hardware is what the paravisor runs on.
type Hardware struct {
	// Type is the HCL report's report_type: 2 for SEV-SNP, 4 for TDX.
	Type uint32
	// Report makes a report with report data, at most 1184 bytes.
	Report func(reportData [64]byte) ([]byte, error)
}

// paravisor is Azure's host compatibility layer: more privileged than the guest, less than the hardware.
type paravisor struct {
	tpm      *TPM
	hardware Hardware
	password []byte // of the platform hierarchy, which it keeps to itself
}

// PowerOnAzure starts the TPM of a confidential VM on Azure, with its paravisor on hardware. The platform hierarchy
// stays with the paravisor.
func PowerOnAzure(hardware Hardware) (*TPM, error) {
	return powerOn(AzureAKHandle, func(t *TPM) error {
		p := &paravisor{tpm: t, hardware: hardware, password: make([]byte, 32)}
		_, _ = rand.Read(p.password) // never fails
		if err := p.takePlatform(); err != nil {
			return fmt.Errorf("paravisor: %w", err)
		}
		t.paravisor = p
		return nil
	})
}

func (p *paravisor) connection() transport.TPM { return transport.FromReadWriter(p.tpm.simulator) }

func (p *paravisor) platform() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(p.password)}
}

// takePlatform gives the platform hierarchy a password, and makes the NV indices.
func (p *paravisor) takePlatform() error {
	change := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.TPMRHPlatform, NewAuth: tpm2.TPM2BAuth{Buffer: p.password}}
	if _, err := change.Execute(p.connection()); err != nil {
		return fmt.Errorf("set the platform's password: %w", err)
	}
	report := tpm2.TPMANV{PPWrite: true, PPRead: true, AuthRead: true, OwnerRead: true, NoDA: true, PlatformCreate: true}
	input := report
	input.AuthWrite, input.OwnerWrite = true, true
	for _, index := range []struct {
		handle     tpm2.TPMHandle
		size       uint16
		attributes tpm2.TPMANV
	}{{HCLReportIndex, hclSize, report}, {ReportDataIndex, reportDataSize, input}} {
		_, err := tpm2.NVDefineSpace{
			AuthHandle: p.platform(),
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
				NVIndex: index.handle, NameAlg: tpm2.TPMAlgSHA256, Attributes: index.attributes, DataSize: index.size,
			}),
		}.Execute(p.connection())
		if err != nil {
			return fmt.Errorf("define NV index %#x: %w", index.handle, err)
		}
		if err := p.write(index.handle, make([]byte, index.size)); err != nil {
			return err
		}
	}
	return p.refresh()
}

// name is what a password session needs of an NV index: where it is, and its name.
func (p *paravisor) name(index tpm2.TPMHandle) (tpm2.NamedHandle, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(p.connection())
	if err != nil {
		return tpm2.NamedHandle{}, fmt.Errorf("NV index %#x: %w", index, err)
	}
	return tpm2.NamedHandle{Handle: index, Name: public.NVName}, nil
}

func (p *paravisor) write(index tpm2.TPMHandle, content []byte) error {
	named, err := p.name(index)
	if err != nil {
		return err
	}
	for offset := 0; offset < len(content); offset += nvChunk {
		_, err := tpm2.NVWrite{
			AuthHandle: p.platform(), NVIndex: named, Offset: uint16(offset),
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: content[offset:min(offset+nvChunk, len(content))]},
		}.Execute(p.connection())
		if err != nil {
			return fmt.Errorf("write NV index %#x: %w", index, err)
		}
	}
	return nil
}

// saw looks at what the guest did: once it has written report data, there is a new report.
func (p *paravisor) saw(command, response []byte) error {
	const nvIndexAt = 14 // after the header and the handle of the authorisation
	if len(command) < nvIndexAt+4 || len(response) < 10 || binary.BigEndian.Uint32(command[6:]) != commandNVWrite ||
		binary.BigEndian.Uint32(response[6:]) != uint32(tpm2.TPMRCSuccess) ||
		tpm2.TPMHandle(binary.BigEndian.Uint32(command[nvIndexAt:])) != ReportDataIndex {
		return nil
	}
	if err := p.refresh(); err != nil {
		return fmt.Errorf("paravisor: %w", err)
	}
	return nil
}

// refresh makes a report about the report data that is there.
func (p *paravisor) refresh() error {
	named, err := p.name(ReportDataIndex)
	if err != nil {
		return err
	}
	data, err := tpm2.NVRead{AuthHandle: p.platform(), NVIndex: named, Size: reportDataSize}.Execute(p.connection())
	if err != nil {
		return fmt.Errorf("read NV index %#x: %w", ReportDataIndex, err)
	}
	report, err := p.report(data.Data.Buffer)
	if err != nil {
		return err
	}
	return p.write(HCLReportIndex, report)
}

// report is an HCL report: what the guest wrote and the attestation key are in its variable data, and the digest of
// those in the hardware's report.
func (p *paravisor) report(userData []byte) ([]byte, error) {
	variable, err := json.Marshal(map[string]any{
		"keys": []any{map[string]any{
			"kid": "HCLAkPub", "key_ops": []string{"sign"}, "kty": "RSA",
			"e": exponent(p.tpm.akPublic), "n": base64.RawURLEncoding.EncodeToString(p.tpm.akPublic.N.Bytes()),
		}},
		"vm-configuration": map[string]any{"secure-boot": false, "tpm-enabled": true, "vmUniqueId": "coco-e2e simulator"},
		"user-data":        strings.ToUpper(hex.EncodeToString(userData)),
	})
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(variable)
	var reportData [64]byte
	copy(reportData[:], digest[:])
	hardware, err := p.hardware.Report(reportData)
	if err != nil {
		return nil, fmt.Errorf("hardware report: %w", err)
	}
	used := hclHeaderSize + hardwareSize + varHeaderSize + len(variable)
	if len(hardware) > hardwareSize || used > hclSize {
		return nil, fmt.Errorf("HCL report has %d bytes, limit %d", used, hclSize)
	}
	little := binary.LittleEndian
	raw := make([]byte, hclHeaderSize+hardwareSize, hclSize)
	copy(raw, "HCLA")
	little.PutUint32(raw[4:], 2) // version
	little.PutUint32(raw[8:], uint32(used))
	little.PutUint32(raw[12:], requestReport)
	copy(raw[hclHeaderSize:], hardware)
	for _, number := range []int{varHeaderSize + len(variable), 1, int(p.hardware.Type), hashSHA256, len(variable)} {
		raw = little.AppendUint32(raw, uint32(number))
	}
	raw = append(raw, variable...)
	return append(raw, make([]byte, hclSize-len(raw))...), nil
}

func exponent(key *rsa.PublicKey) string {
	return base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())
}
