// Package tdx is a simulated processor's TDX module and its host's quoting enclave: it measures one guest, reports what
// it measured, and signs quotes with a key that a test root certifies.
//
// The host sets MRCONFIGID when it launches the guest, and nothing sets it afterwards. The package must not know init-data.
package tdx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/coco-e2e/coco-e2e/simulators/tee/authority"
	"github.com/coco-e2e/coco-e2e/simulators/tee/message"
)

const digestSize = sha512.Size384

// Layout of TDREPORT_STRUCT (Intel TDX Module Base Architecture Specification, 348549): REPORTMACSTRUCT, TEE_TCB_INFO,
// TDINFO. Sizes and offsets in bytes.
const (
	ReportSize  = 1024
	macSize     = 32
	macOffset   = 224
	tcbInfo     = 256
	tcbInfoSize = 239
	tdInfo      = 512
	reportData  = 128 // offset in REPORTMACSTRUCT
	infoRTMRs   = 208 // offset in TDINFO: attributes 8, XFAM 8, MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG
	teeTypeTDX  = 0x81
	guestRTMR   = 2 // the first register that belongs to a guest's operating system
	numRTMRs    = 4
	septDisable = 0x10 // TDATTRIBUTES byte 3: SEPT_VE_DISABLE
)

// What all simulated guests are: the same firmware under the same module.
var (
	launchDigest = sha512.Sum384([]byte("coco-e2e simulated TDX guest firmware"))
	moduleDigest = sha512.Sum384([]byte("coco-e2e simulated TDX module"))
	tcbSVN       = [16]byte{7, 1, 3}
	xfam         = [8]byte{0xe7, 0x02, 0x06}
)

// Module measures one guest. It is not safe for concurrent use.
type Module struct {
	configID [digestSize]byte
	rtmrs    [numRTMRs][digestSize]byte
	log      []byte
	macKey   [32]byte
	quoting  *enclave
}

// Launch starts a guest and measures its boot. digest becomes MRCONFIGID: cut or zero-padded to 48 bytes.
func Launch(a *authority.Authority, digest []byte) (*Module, error) {
	m := &Module{}
	copy(m.configID[:], digest)
	_, _ = rand.Read(m.macKey[:]) // never fails
	m.log = logHeader()
	for _, e := range boot {
		sum := sha512.Sum384(e.data)
		m.extend(e.rtmr, sum[:])
		m.log = append(m.log, e.record(sum[:])...)
	}
	var err error
	m.quoting, err = newEnclave(a)
	return m, err
}

// Handle answers the guest's requests.
func (m *Module) Handle(code uint32, body []byte) ([]byte, error) {
	wrong := func(want int) error { return fmt.Errorf("request %#x has %d bytes, want %d", code, len(body), want) }
	switch code {
	case message.TDXReport:
		if len(body) != 64 {
			return nil, wrong(64)
		}
		return m.Report([64]byte(body)), nil
	case message.TDXQuote:
		if len(body) != ReportSize {
			return nil, wrong(ReportSize)
		}
		return m.Quote(body)
	case message.TDXExtend:
		if len(body) != 4+digestSize {
			return nil, wrong(4 + digestSize)
		}
		return nil, m.Extend(binary.LittleEndian.Uint32(body), body[4:])
	case message.TDXEventLog:
		return slices.Clone(m.log), nil
	}
	return nil, fmt.Errorf("the TDX module has no request %#x", code)
}

// Extend extends a register that belongs to the guest's operating system: RTMR 2 or 3. Firmware has the others.
func (m *Module) Extend(index uint32, digest []byte) error {
	if index < guestRTMR || index >= numRTMRs {
		return fmt.Errorf("RTMR %d is not the guest's to extend, only 2 and 3 are", index)
	}
	m.extend(int(index), digest)
	return nil
}

func (m *Module) extend(index int, digest []byte) {
	m.rtmrs[index] = sha512.Sum384(append(m.rtmrs[index][:], digest...))
}

// Report is a TDREPORT: the guest's measurements and its data, with a MAC by which this platform's quoting enclave
// knows it.
func (m *Module) Report(data [64]byte) []byte {
	raw := make([]byte, ReportSize)
	raw[0] = teeTypeTDX
	copy(raw[reportData:], data[:])
	copy(raw[tcbInfo+8:], tcbSVN[:])
	copy(raw[tcbInfo+24:], moduleDigest[:])
	info := raw[tdInfo:]
	info[3] = septDisable
	copy(info[8:], xfam[:])
	copy(info[16:], launchDigest[:])
	copy(info[64:], m.configID[:])
	for i, register := range m.rtmrs {
		copy(info[infoRTMRs+i*digestSize:], register[:])
	}
	tcb, td := sha512.Sum384(raw[tcbInfo:tcbInfo+tcbInfoSize]), sha512.Sum384(info)
	copy(raw[32:], tcb[:])
	copy(raw[80:], td[:])
	copy(raw[macOffset:], m.mac(raw))
	return raw
}

func (m *Module) mac(report []byte) []byte {
	h := hmac.New(sha256.New, m.macKey[:])
	h.Write(report[:macOffset])
	return h.Sum(nil)
}

// ErrForeignReport says that a TDREPORT is not this platform's, or was changed.
var ErrForeignReport = errors.New("the quoting enclave does not take this TDREPORT: its MAC or a digest in it is wrong")

// Quote has the quoting enclave sign what a TDREPORT says.
func (m *Module) Quote(report []byte) ([]byte, error) {
	tcb, td := sha512.Sum384(report[tcbInfo:tcbInfo+tcbInfoSize]), sha512.Sum384(report[tdInfo:])
	if !hmac.Equal(report[macOffset:macOffset+macSize], m.mac(report)) || [48]byte(report[32:80]) != tcb || [48]byte(report[80:128]) != td {
		return nil, ErrForeignReport
	}
	info := report[tdInfo:]
	body := slices.Concat(
		report[tcbInfo+8:tcbInfo+24],         // TEE_TCB_SVN
		report[tcbInfo+24:tcbInfo+72],        // MRSEAM
		make([]byte, digestSize+8),           // MRSIGNERSEAM and SEAMATTRIBUTES: Intel's module has zeros
		info[:infoRTMRs+numRTMRs*digestSize], // TDATTRIBUTES to RTMR 3
		report[reportData:reportData+64],     // REPORTDATA
	)
	return m.quoting.quote(body)
}

// enclave is a platform's quoting enclave.
type enclave struct {
	key, pck *ecdsa.PrivateKey
	chain    []byte // PEM: PCK, its CA, the root
}

func newEnclave(a *authority.Authority) (*enclave, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	pck, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	chain, err := a.PCK(&pck.PublicKey)
	if err != nil {
		return nil, err
	}
	e := &enclave{key: key, pck: pck}
	for _, certificate := range chain {
		e.chain = append(e.chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})...)
	}
	return e, nil
}

// Layout of a quote (Intel TDX DCAP Quoting Library API, "Quote Format", version 4).
const (
	quoteVersion  = 4
	keyECDSAP256  = 2
	qeReportSize  = 384
	qeReportData  = 320
	certPCKChain  = 5
	certQEReport  = 6
	authDataSize  = 32
	quoteHeadSize = 48
)

var intelVendorID = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// quote signs a body of version 4.
func (e *enclave) quote(body []byte) ([]byte, error) {
	little := binary.LittleEndian
	point, err := e.key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	public := point[1:] // without the 04 of an uncompressed point
	authData := make([]byte, authDataSize)
	for i := range authData {
		authData[i] = byte(i)
	}
	report := make([]byte, qeReportSize)
	names := sha256.Sum256(slices.Concat(public, authData))
	copy(report[qeReportData:], names[:])
	reportSignature, err := sign(e.pck, report)
	if err != nil {
		return nil, err
	}
	certification := append(report, reportSignature...)
	certification = append(little.AppendUint16(certification, authDataSize), authData...)
	certification = little.AppendUint32(little.AppendUint16(certification, certPCKChain), uint32(len(e.chain)))
	certification = append(certification, e.chain...)

	signed := make([]byte, quoteHeadSize, quoteHeadSize+len(body))
	little.PutUint16(signed, quoteVersion)
	little.PutUint16(signed[2:], keyECDSAP256)
	little.PutUint32(signed[4:], teeTypeTDX)
	copy(signed[12:], intelVendorID[:])
	signed = append(signed, body...)
	signature, err := sign(e.key, signed)
	if err != nil {
		return nil, err
	}
	data := append(signature, public...)
	data = little.AppendUint32(little.AppendUint16(data, certQEReport), uint32(len(certification)))
	data = append(data, certification...)
	return append(little.AppendUint32(signed, uint32(len(data))), data...), nil
}

func sign(key *ecdsa.PrivateKey, text []byte) ([]byte, error) {
	digest := sha256.Sum256(text)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
}
