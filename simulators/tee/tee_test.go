package tee

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/simulators/tee/stream"
)

// Digest and PCR 8 of the article "Policing a Sandbox"; the latter is openssl's.
const (
	articleDigest = "bdc9a7390bb371258fb7fb8be5a8de5ced6a07dd077d1ce04ec26e06eaf68f60"
	articlePCR8   = "7aaf19294adabd752bf095e1f076baed85d4b088fa990cb575ad0f3e0569f292"
	resetPCR      = "0000000000000000000000000000000000000000000000000000000000000000"
)

// Response codes of the TPM 2.0 Library Specification, Part 2. 0x100 on top of a handle error means the first handle.
const (
	rcSuccess    = 0x000
	rcInitialize = 0x100
	rcLocality   = 0x907
	rcHierarchy1 = 0x185
	rcBadTag     = 0x01e
)

// guest is a TPM as a guest meets it: a socket.
type guest struct {
	*testing.T
	tpm  *TPM
	path string
}

func poweredOn(t *testing.T) *guest {
	t.Helper()
	tpm, err := PowerOn()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tpm.sock")
	listener, err := stream.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	server := &stream.Server{Execute: tpm.Execute, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, tpm.Close()); err != nil {
			t.Error(err)
		}
	})
	return &guest{t, tpm, path}
}

func (g *guest) connect() transport.TPM {
	g.Helper()
	connection, err := net.Dial("unix", g.path)
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { _ = connection.Close() })
	return transport.FromReadWriter(connection)
}

// send sends a raw command, hex without its header, and gives the response code.
func (g *guest) send(connection transport.TPM, tag uint16, code uint32, body string) uint32 {
	g.Helper()
	parameters, err := hex.DecodeString(body)
	if err != nil {
		g.Fatal(err)
	}
	command := binary.BigEndian.AppendUint16(nil, tag)
	command = binary.BigEndian.AppendUint32(command, uint32(10+len(parameters)))
	command = append(binary.BigEndian.AppendUint32(command, code), parameters...)
	response, err := connection.Send(command)
	if err != nil {
		g.Fatal(err)
	}
	return binary.BigEndian.Uint32(response[6:])
}

func (g *guest) extend(connection transport.TPM, pcr uint32, digest string) {
	g.Helper()
	value, err := hex.DecodeString(digest)
	if err != nil {
		g.Fatal(err)
	}
	extend := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: value}}},
	}
	if _, err := extend.Execute(connection); err != nil {
		g.Fatal(err)
	}
}

func (g *guest) pcr(connection transport.TPM, pcrs ...uint) string {
	g.Helper()
	read, err := tpm2.PCRRead{PCRSelectionIn: selection(pcrs...)}.Execute(connection)
	if err != nil {
		g.Fatal(err)
	}
	var values []byte
	for _, digest := range read.PCRValues.Digests {
		values = append(values, digest.Buffer...)
	}
	return hex.EncodeToString(values)
}

func selection(pcrs ...uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)},
	}}
}

func TestExtendPCR8(t *testing.T) {
	g := poweredOn(t)
	connection := g.connect()
	if got := g.pcr(connection, 8); got != resetPCR {
		t.Errorf("PCR 8 at power-on: %s", got)
	}
	g.extend(connection, 8, articleDigest)
	if got := g.pcr(connection, 8); got != articlePCR8 {
		t.Errorf("PCR 8 = %s, want %s", got, articlePCR8)
	}
}

func TestConnectionsShareOneTPM(t *testing.T) {
	g := poweredOn(t)
	first, second := g.connect(), g.connect()
	g.extend(first, 8, articleDigest)
	if got := g.pcr(second, 8); got != articlePCR8 {
		t.Errorf("the second connection reads %s", got)
	}
	g.extend(second, 8, articleDigest)
	// openssl dgst -sha256 over articlePCR8 ‖ articleDigest
	if got := g.pcr(first, 8); got != "8d0897ee98bdf13ed84dcc62eeeb37c1c5624af585b2a1ecded77494def783d7" {
		t.Errorf("the first connection reads %s", got)
	}
}

// Everything that a guest might try in order to get rid of a measurement. Bodies are handles, then, with tag 8002, an
// empty password authorisation (00000009 40000009 0000 00 0000), then parameters.
func TestPCR8CannotBeReset(t *testing.T) {
	const password = "00000009" + "400000090000000000"
	g := poweredOn(t)
	connection := g.connect()
	g.extend(connection, 8, articleDigest)
	for _, attempt := range []struct {
		name string
		tag  uint16
		code uint32
		body string
		want uint32
	}{
		{"PCR_Reset(8)", 0x8002, 0x13d, "00000008" + password, rcLocality},
		{"Startup(CLEAR)", 0x8001, 0x144, "0000", rcInitialize},
		{"Startup(STATE)", 0x8001, 0x144, "0001", rcInitialize},
		{"Shutdown(CLEAR)", 0x8001, 0x145, "0000", rcSuccess},
		{"Startup(CLEAR) after Shutdown", 0x8001, 0x144, "0000", rcInitialize},
		{"Shutdown(STATE)", 0x8001, 0x145, "0001", rcSuccess},
		{"Startup(STATE) after Shutdown", 0x8001, 0x144, "0001", rcInitialize},
		{"PCR_Allocate(platform)", 0x8002, 0x12b, "4000000c" + password + "00000001000b03000000", rcHierarchy1},
		{"Clear(platform)", 0x8002, 0x126, "4000000c" + password, rcHierarchy1},
		{"Clear(lockout)", 0x8002, 0x126, "4000000a" + password, rcSuccess},
		{"a tag of TPM 1.2", 0x00c1, 0x144, "0000", rcBadTag},
	} {
		if got := g.send(connection, attempt.tag, attempt.code, attempt.body); got != attempt.want {
			t.Errorf("%s: response code %#x, want %#x", attempt.name, got, attempt.want)
		}
		if got := g.pcr(connection, 8); got != articlePCR8 {
			t.Fatalf("%s changed PCR 8 to %s", attempt.name, got)
		}
	}
}

// The debug PCR can be reset, so the refusal above is the register's and not the server's.
func TestPCR16CanBeReset(t *testing.T) {
	g := poweredOn(t)
	connection := g.connect()
	g.extend(connection, 16, articleDigest)
	if got := g.pcr(connection, 16); got != articlePCR8 {
		t.Errorf("PCR 16 = %s", got)
	}
	reset := tpm2.PCRReset{PCRHandle: tpm2.AuthHandle{Handle: 16, Auth: tpm2.PasswordAuth(nil)}}
	if _, err := reset.Execute(connection); err != nil {
		t.Error(err)
	}
	if got := g.pcr(connection, 16); got != resetPCR {
		t.Errorf("PCR 16 after its reset = %s", got)
	}
}

func TestPlatformHierarchyIsClosed(t *testing.T) {
	const password = "00000009" + "400000090000000000"
	g := poweredOn(t)
	connection := g.connect()
	for name, command := range map[string]struct {
		code uint32
		body string
	}{
		"HierarchyControl(platform)":    {0x121, "4000000c" + password + "4000000c" + "01"},
		"HierarchyControl(endorsement)": {0x121, "4000000c" + password + "4000000b" + "00"},
		"HierarchyChangeAuth":           {0x129, "4000000c" + password + "0000"},
		"ChangeEPS":                     {0x124, "4000000c" + password},
		"ChangePPS":                     {0x125, "4000000c" + password},
		"SetAlgorithmSet":               {0x13f, "4000000c" + password + "00000000"},
		"ClockSet":                      {0x128, "4000000c" + password + "0000000100000000"},
	} {
		if got := g.send(connection, 0x8002, command.code, command.body); got != rcHierarchy1 {
			t.Errorf("%s: response code %#x, want %#x", name, got, rcHierarchy1)
		}
	}
	// The positive control: the owner's hierarchy takes the same empty password.
	if got := g.send(connection, 0x8002, 0x128, "40000001"+password+"0000000100000000"); got != rcSuccess {
		t.Errorf("ClockSet(owner): response code %#x", got)
	}
}

func TestAttestationKey(t *testing.T) {
	g := poweredOn(t)
	connection := g.connect()
	read, err := tpm2.ReadPublic{ObjectHandle: AKHandle}.Execute(connection)
	if err != nil {
		t.Fatal(err)
	}
	public, err := read.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	attributes := public.ObjectAttributes
	if !attributes.Restricted || !attributes.SignEncrypt || attributes.Decrypt || !attributes.FixedTPM || !attributes.SensitiveDataOrigin {
		t.Errorf("attributes: %+v", attributes)
	}
	key, err := rsaKey(public)
	if err != nil || !key.Equal(g.tpm.AKPublic()) || key.N.BitLen() != 2048 || key.E != 65537 {
		t.Errorf("key: %v, %v", key, err)
	}
	// A restricted key signs no digest that the TPM did not make: an empty ticket is refused.
	digest := bytes.Repeat([]byte{1}, 32)
	_, err = tpm2.Sign{
		KeyHandle:  tpm2.AuthHandle{Handle: AKHandle, Name: read.Name, Auth: tpm2.PasswordAuth(nil)},
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(connection)
	if !errors.Is(err, tpm2.TPMRCTicket) {
		t.Errorf("Sign with the attestation key: %v, want TPM_RC_TICKET", err)
	}
}

func TestTwoTPMsDiffer(t *testing.T) {
	var moduli []string
	for range 2 {
		tpm, err := PowerOn()
		if err != nil {
			t.Fatal(err)
		}
		moduli = append(moduli, tpm.AKPublic().N.String())
		if err := tpm.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if moduli[0] == moduli[1] {
		t.Error("two TPMs have the same attestation key")
	}
}

// The quote goes through the verifier that real evidence goes through, which shares no code with the TPM.
func TestQuoteVerifies(t *testing.T) {
	g := poweredOn(t)
	connection := g.connect()
	g.extend(connection, 8, articleDigest)
	nonce := bytes.Repeat([]byte{7}, 32)
	raw := g.quote(connection, nonce)
	digest, err := hex.DecodeString(articleDigest)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := evidence.Verify("tpm", raw, nonce, evidence.Options{InitDataDigest: digest})
	if err != nil {
		t.Fatal(err)
	}
	if claims.InitData != articlePCR8 || !claims.AK.Equal(g.tpm.AKPublic()) {
		t.Errorf("claims: %+v", claims)
	}
	if _, err := evidence.Verify("tpm", raw, bytes.Repeat([]byte{8}, 32), evidence.Options{}); !errors.Is(err, evidence.ErrNonce) {
		t.Errorf("a replay: %v", err)
	}
}

func (g *guest) quote(connection transport.TPM, nonce []byte) []byte {
	g.Helper()
	all := make([]uint, 24)
	for i := range all {
		all[i] = uint(i)
	}
	ak, err := tpm2.ReadPublic{ObjectHandle: AKHandle}.Execute(connection)
	if err != nil {
		g.Fatal(err)
	}
	quote, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: AKHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection(all...),
	}.Execute(connection)
	if err != nil {
		g.Fatal(err)
	}
	der, err := g.tpm.AKPublicDER()
	if err != nil {
		g.Fatal(err)
	}
	// A TPM reads out at most eight digests at a time.
	values := g.pcr(connection, all[:8]...) + g.pcr(connection, all[8:16]...) + g.pcr(connection, all[16:]...)
	pcrs := make([]string, 0, 24)
	for ; values != ""; values = values[64:] {
		pcrs = append(pcrs, values[:64])
	}
	raw, err := json.Marshal(map[string]any{
		"ak_public": base64.StdEncoding.EncodeToString(der),
		"tpm_quote": map[string]any{
			"signature": base64.StdEncoding.EncodeToString(tpm2.Marshal(quote.Signature)),
			"message":   base64.StdEncoding.EncodeToString(quote.Quoted.Bytes()),
			"pcrs":      pcrs,
		},
	})
	if err != nil {
		g.Fatal(err)
	}
	return raw
}
