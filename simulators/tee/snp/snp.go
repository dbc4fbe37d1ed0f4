// Package snp is a simulated processor's SEV-SNP firmware as far as attestation goes: it signs attestation reports about
// one guest with an endorsement key that a test root certifies.
//
// The host sets HOST_DATA when it launches the guest, and nothing sets it afterwards. The package must not know init-data.
package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/uuid"

	"github.com/coco-e2e/coco-e2e/simulators/tee/authority"
	"github.com/coco-e2e/coco-e2e/simulators/tee/message"
)

// Layout of ATTESTATION_REPORT (AMD document 56860) and of the structures around it. Sizes in bytes.
const (
	ReportSize  = 1184
	signedSize  = 0x2a0
	hostData    = 32
	requestSize = 96 // struct snp_report_req: user_data 64, vmpl 4, reserved 28
	answerSize  = 32 // struct snp_report_resp's head: status 4, report_size 4, reserved 24
)

// What all simulated guests are: a Milan processor's, launched from the same firmware.
const (
	version  = 3
	policy   = 0x3001f // SMT allowed, ABI 0.31; reserved bit 17 is one; no DEBUG, no MIGRATE_MA
	platform = 0x25    // SMT and TSME enabled, ALIAS_CHECK_COMPLETE
	// milan is family 19h, model 01h, stepping 1.
	milanFamily, milanModel, milanStepping = 0x19, 1, 1
	firmwareBuild, firmwareMinor           = 0x1d, 0x37
)

// TCB are the patch levels of all simulated processors.
var TCB = authority.TCB{Bootloader: 4, TEE: 0, SNP: 24, Microcode: 219}

// launchDigest is MEASUREMENT: what SHA-384 gives for the name of the simulated guest's firmware.
var launchDigest = sha512.Sum384([]byte("coco-e2e simulated SEV-SNP guest firmware"))

// Firmware reports about one guest.
type Firmware struct {
	key      *ecdsa.PrivateKey
	vcek     *x509.Certificate
	chain    []*x509.Certificate
	chipID   [64]byte
	reportID [32]byte
	hostData [hostData]byte
}

// Launch starts a guest on a processor of its own. digest becomes HOST_DATA: cut or zero-padded to 32 bytes.
func Launch(a *authority.Authority, digest []byte) (*Firmware, error) {
	f := &Firmware{chain: a.AMDChain()}
	copy(f.hostData[:], digest)
	_, _ = rand.Read(f.chipID[:]) // never fails
	_, _ = rand.Read(f.reportID[:])
	var err error
	if f.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return nil, err
	}
	f.vcek, err = a.VCEK(&f.key.PublicKey, f.chipID, TCB)
	return f, err
}

// Handle answers the guest's requests.
func (f *Firmware) Handle(code uint32, body []byte) ([]byte, error) {
	if code != message.SNPReport {
		return nil, fmt.Errorf("SEV-SNP firmware has no request %#x", code)
	}
	if len(body) != requestSize {
		return nil, fmt.Errorf("report request has %d bytes, want %d", len(body), requestSize)
	}
	vmpl := binary.LittleEndian.Uint32(body[64:])
	if vmpl > 3 {
		return nil, fmt.Errorf("VMPL %d, want 0 to 3", vmpl)
	}
	report, err := f.Report([64]byte(body[:64]), vmpl)
	if err != nil {
		return nil, err
	}
	answer := make([]byte, answerSize, answerSize+ReportSize)
	binary.LittleEndian.PutUint32(answer[4:], ReportSize)
	return append(append(answer, report...), f.Certificates()...), nil
}

// Report is a signed ATTESTATION_REPORT with the guest's data in it.
func (f *Firmware) Report(reportData [64]byte, vmpl uint32) ([]byte, error) {
	raw := make([]byte, ReportSize)
	little := binary.LittleEndian
	little.PutUint32(raw[0x00:], version)
	little.PutUint64(raw[0x08:], policy)
	little.PutUint32(raw[0x30:], vmpl)
	little.PutUint32(raw[0x34:], 1) // ECDSA P-384 with SHA-384
	little.PutUint64(raw[0x40:], platform)
	copy(raw[0x50:], reportData[:])
	copy(raw[0x90:], launchDigest[:])
	copy(raw[0xc0:], f.hostData[:])
	copy(raw[0x140:], f.reportID[:])
	copy(raw[0x160:], slices.Repeat([]byte{0xff}, 32)) // no migration agent
	for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		copy(raw[at:], []byte{TCB.Bootloader, TCB.TEE, 0, 0, 0, 0, TCB.SNP, TCB.Microcode})
	}
	copy(raw[0x188:], []byte{milanFamily, milanModel, milanStepping})
	copy(raw[0x1a0:], f.chipID[:])
	for _, at := range []int{0x1e8, 0x1ec} {
		copy(raw[at:], []byte{firmwareBuild, firmwareMinor, 1})
	}
	digest := sha512.Sum384(raw[:signedSize])
	r, s, err := ecdsa.Sign(rand.Reader, f.key, digest[:])
	if err != nil {
		return nil, err
	}
	for i, number := range [][]byte{r.FillBytes(make([]byte, 72)), s.FillBytes(make([]byte, 72))} {
		slices.Reverse(number)
		copy(raw[signedSize+72*i:], number)
	}
	return raw, nil
}

// VCEK is the certificate of the key that signs reports.
func (f *Firmware) VCEK() *x509.Certificate { return f.vcek }

// Chain is the rest of the chain: ASK and ARK.
func (f *Firmware) Chain() []*x509.Certificate { return f.chain }

// Certificates is the table that hosts give guests with extended reports: VCEK, ASK, ARK.
func (f *Firmware) Certificates() []byte {
	table := abi.CertTable{}
	for i, id := range []string{abi.VcekGUID, abi.AskGUID, abi.ArkGUID} {
		certificate := append([]*x509.Certificate{f.vcek}, f.chain...)[i]
		table.Entries = append(table.Entries, abi.CertTableEntry{GUID: uuid.MustParse(id), RawCert: certificate.Raw})
	}
	return table.Marshal()
}
