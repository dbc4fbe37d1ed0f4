// Package tee is the simulated TPM 2.0 (the TCG reference implementation, by way of go-tpm-tools), powered on and
// provisioned as a platform's firmware leaves it to an operating system; on Azure's confidential VMs that firmware is a
// paravisor, with hardware below it (packages snp and tdx).
//
// It runs in a process of its own, outside every guest, and guests reach it by its command stream alone (package
// stream). It must not know guests, init-data or attestation: nothing here sets a register.
//
// One process is one TPM: the reference implementation keeps its state in global variables.
package tee

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm-tools/simulator"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// AKHandle is where the attestation key is persisted: attestation-agent's default (attester/src/tpm/utils.rs).
const AKHandle tpm2.TPMHandle = 0x81010002

// akTemplate is an RSA-2048 key that signs nothing but what the TPM itself made: restricted, RSASSA with SHA-256, used
// with an empty password. It is a primary key of the endorsement hierarchy.
var akTemplate = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgRSA,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true,
		Restricted: true, SignEncrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Scheme: tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		KeyBits: 2048,
	}),
}

// TPM is a running TPM. Its methods are not safe for concurrent use.
type TPM struct {
	simulator *simulator.Simulator
	akPublic  *rsa.PublicKey
	// paravisor is behind the TPM of an Azure confidential VM, nil elsewhere.
	paravisor *paravisor
}

// PowerOn manufactures a TPM with fresh seeds, starts it, persists the attestation key at [AKHandle] and closes the
// platform hierarchy, as firmware does before it hands over. Owner, endorsement and lockout authorisations stay empty,
// as on a machine whose owner has not taken it; PCRs are in reset.
func PowerOn() (*TPM, error) {
	return powerOn(AKHandle, func(t *TPM) error {
		if err := closePlatform(transport.FromReadWriter(t.simulator), t.run); err != nil {
			return fmt.Errorf("platform hierarchy: %w", err)
		}
		return nil
	})
}

// powerOn manufactures a TPM with an attestation key, and hands it to the rest of its firmware.
func powerOn(ak tpm2.TPMHandle, firmware func(*TPM) error) (*TPM, error) {
	running, err := simulator.Get()
	if err != nil {
		return nil, fmt.Errorf("power on TPM: %w", err)
	}
	tpm := &TPM{simulator: running}
	err = tpm.persistAK(transport.FromReadWriter(running), ak)
	if err != nil {
		err = fmt.Errorf("attestation key: %w", err)
	} else {
		err = firmware(tpm)
	}
	if err != nil {
		_ = running.Close()
		return nil, fmt.Errorf("provision TPM: %w", err)
	}
	return tpm, nil
}

// Close powers the TPM off; its keys and registers are gone.
func (t *TPM) Close() error {
	if err := t.simulator.Close(); err != nil {
		return fmt.Errorf("power off TPM: %w", err)
	}
	return nil
}

// AKPublic is the public part of the attestation key.
func (t *TPM) AKPublic() *rsa.PublicKey { return t.akPublic }

// AKPublicDER is the attestation key's SubjectPublicKeyInfo, in DER.
func (t *TPM) AKPublicDER() ([]byte, error) { return x509.MarshalPKIXPublicKey(t.akPublic) }

// Execute runs one command and gives the TPM's response. An error means that the TPM has failed and answers no more.
func (t *TPM) Execute(command []byte) ([]byte, error) {
	response, err := t.run(command)
	if err == nil && t.paravisor != nil {
		err = t.paravisor.saw(command, response)
	}
	return response, err
}

func (t *TPM) run(command []byte) ([]byte, error) {
	if _, err := t.simulator.Write(command); err != nil {
		return nil, fmt.Errorf("TPM: %w", err)
	}
	response := make([]byte, 4096) // the implementation's MAX_RESPONSE_SIZE
	n, err := t.simulator.Read(response)
	if err != nil {
		return nil, fmt.Errorf("TPM: %w", err)
	}
	return response[:n], nil
}

func (t *TPM) persistAK(connection transport.TPM, handle tpm2.TPMHandle) error {
	created, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(akTemplate)}.Execute(connection)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	public, err := created.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("public area: %w", err)
	}
	if t.akPublic, err = rsaKey(public); err != nil {
		return err
	}
	persist := tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: created.ObjectHandle, Name: created.Name},
		PersistentHandle: handle,
	}
	if _, err := persist.Execute(connection); err != nil {
		return fmt.Errorf("persist at %#x: %w", handle, err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: created.ObjectHandle}).Execute(connection); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

func rsaKey(public *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	parameters, err := public.Parameters.RSADetail()
	if err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	modulus, err := public.Unique.RSA()
	if err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	key, err := tpm2.RSAPub(parameters, modulus)
	if err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	return key, nil
}

// closePlatform gives the platform hierarchy a password that nobody knows and then disables it until the next power
// cycle. Either would do; firmware does both.
func closePlatform(connection transport.TPM, execute func([]byte) ([]byte, error)) error {
	password := make([]byte, 32)
	if _, err := rand.Read(password); err != nil {
		return fmt.Errorf("random password: %w", err)
	}
	change := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.TPMRHPlatform, NewAuth: tpm2.TPM2BAuth{Buffer: password}}
	if _, err := change.Execute(connection); err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	response, err := execute(disablePlatform(password))
	if err != nil {
		return fmt.Errorf("disable: %w", err)
	}
	if code := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); code != tpm2.TPMRCSuccess {
		return fmt.Errorf("disable: %w", code)
	}
	return nil
}

// disablePlatform is TPM2_HierarchyControl(platform, platform, NO), which go-tpm lacks.
func disablePlatform(password []byte) []byte {
	session := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRSPW))
	session = binary.BigEndian.AppendUint16(session, 0) // nonce
	session = append(session, 0)                        // attributes
	session = binary.BigEndian.AppendUint16(session, uint16(len(password)))
	session = append(session, password...)

	body := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHPlatform)) // authHandle
	body = binary.BigEndian.AppendUint32(body, uint32(len(session)))
	body = append(body, session...)
	body = binary.BigEndian.AppendUint32(body, uint32(tpm2.TPMRHPlatform)) // enable
	body = append(body, 0)                                                 // state: NO

	command := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	command = binary.BigEndian.AppendUint32(command, uint32(10+len(body)))
	command = binary.BigEndian.AppendUint32(command, uint32(tpm2.TPMCCHierarchyControl))
	return append(command, body...)
}
