package tpm

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	// DefaultAKHandle is where the attestation key is persisted unless AA_TPM_AK_HANDLE says otherwise.
	DefaultAKHandle = 0x81010002
	// PCRCount is the number of PCRs that evidence has.
	PCRCount = 24
	// NonceSize is the length to which report data is cut or zero-padded before it goes into a quote, in bytes.
	NonceSize = 32

	// quoteAttempts bounds how often a quote is made again because PCRs changed between reading and quoting them.
	quoteAttempts = 5
)

// ErrDigestLength says that a PCR of the SHA-256 bank cannot be extended with a digest of this length. Its text is
// attestation-agent's.
//
//lint:ignore ST1005 the text is attestation-agent's
var ErrDigestLength = errors.New("Event digest length is not 32 bytes")

// TPM is a TPM that one process shares with others. Each method connects for itself, one at a time, as character devices
// have one user at a time. Methods are safe for concurrent use.
type TPM struct {
	// Device is the path of a unix socket or a character device.
	Device string
	// AKHandle is the persistent handle of the attestation key.
	AKHandle uint32

	turn sync.Mutex
}

// ParseHandle reads a handle as AA_TPM_AK_HANDLE has it, such as 0x81010002; the empty string is [DefaultAKHandle].
func ParseHandle(text string) (uint32, error) {
	if text == "" {
		return DefaultAKHandle, nil
	}
	handle, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("AA_TPM_AK_HANDLE %q: want a handle such as %#x: %w", text, DefaultAKHandle, err)
	}
	return uint32(handle), nil
}

// Extend extends a PCR's SHA-256 bank with digest, which must have 32 bytes ([ErrDigestLength]).
func (t *TPM) Extend(ctx context.Context, pcr uint32, digest []byte) error {
	if len(digest) != sha256.Size {
		return ErrDigestLength
	}
	return t.with(ctx, func(connection transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{
				HashAlg: tpm2.TPMAlgSHA256, Digest: digest,
			}}},
		}.Execute(connection)
		if err != nil {
			return fmt.Errorf("TPM2_PCR_Extend of PCR %d: %w", pcr, err)
		}
		return nil
	})
}

// Evidence is a plain TPM's evidence, in the form that Trustee's verifier reads (deps/verifier/src/tpm).
type Evidence struct {
	AKPublic string `json:"ak_public"` // standard base64 of the SubjectPublicKeyInfo, DER
	Quote    Quote  `json:"tpm_quote"`
}

// Quote is a signed statement of PCR values. The encodings are those of evidence of the kind tpm.
type Quote struct {
	Signature string   `json:"signature"` // standard base64 of TPMT_SIGNATURE
	Message   string   `json:"message"`   // standard base64 of TPMS_ATTEST
	PCRs      []string `json:"pcrs"`      // hex, PCR 0 to 23 of the SHA-256 bank
}

// Attest makes evidence of all PCRs of the SHA-256 bank for reportData, cut or zero-padded to [NonceSize].
func (t *TPM) Attest(ctx context.Context, reportData []byte) (*Evidence, error) {
	nonce := make([]byte, NonceSize)
	copy(nonce, reportData)
	quote, err := t.quote(ctx, nonce)
	if err != nil {
		return nil, err
	}
	return &Evidence{AKPublic: quote.key.public, Quote: Quote{
		Signature: base64.StdEncoding.EncodeToString(tpm2.Marshal(quote.response.Signature)),
		Message:   base64.StdEncoding.EncodeToString(quote.response.Quoted.Bytes()),
		PCRs:      quote.pcrs(),
	}}, nil
}

// Quote makes a quote of all PCRs of the SHA-256 bank with exactly this nonce, in the form that evidence of Azure's vTPMs
// has: everything in hex, the signature without its TPM structure.
func (t *TPM) Quote(ctx context.Context, nonce []byte) (*Quote, error) {
	quote, err := t.quote(ctx, nonce)
	if err != nil {
		return nil, err
	}
	signature, err := quote.response.Signature.Signature.RSASSA()
	if err != nil {
		return nil, fmt.Errorf("TPM2_Quote: %w", err)
	}
	return &Quote{
		Signature: hex.EncodeToString(signature.Sig.Buffer), Message: hex.EncodeToString(quote.response.Quoted.Bytes()), PCRs: quote.pcrs(),
	}, nil
}

// quoted is a quote, and what it is of.
type quoted struct {
	key      *attestationKey
	response *tpm2.QuoteResponse
	values   [PCRCount][]byte
}

func (q *quoted) pcrs() []string {
	var list []string
	for _, value := range q.values {
		list = append(list, hex.EncodeToString(value))
	}
	return list
}

func (t *TPM) quote(ctx context.Context, nonce []byte) (quote *quoted, err error) {
	err = t.with(ctx, func(connection transport.TPM) error {
		key, err := readAK(connection, t.AKHandle)
		if err != nil {
			return err
		}
		quote, err = key.attest(connection, nonce)
		return err
	})
	return quote, err
}

func (t *TPM) with(ctx context.Context, use func(transport.TPM) error) error {
	t.turn.Lock()
	defer t.turn.Unlock()
	connection, err := open(ctx, t.Device)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	if err := use(connection); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("%w (%w)", cause, err)
		}
		return err
	}
	return nil
}

// attestationKey is an RSA key in the TPM.
type attestationKey struct {
	handle tpm2.NamedHandle
	public string // standard base64 of the SubjectPublicKeyInfo
}

func readAK(connection transport.TPM, handle uint32) (*attestationKey, error) {
	response, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(connection)
	if err != nil {
		return nil, fmt.Errorf("attestation key %#x: TPM2_ReadPublic: %w", handle, err)
	}
	public, err := response.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("attestation key %#x: %w", handle, err)
	}
	key, err := rsaKey(public)
	if err != nil {
		return nil, fmt.Errorf("attestation key %#x: want RSA: %w", handle, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("attestation key %#x: %w", handle, err)
	}
	return &attestationKey{
		handle: tpm2.NamedHandle{Handle: tpm2.TPMHandle(handle), Name: response.Name},
		public: base64.StdEncoding.EncodeToString(der),
	}, nil
}

func rsaKey(public *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	parameters, err := public.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	modulus, err := public.Unique.RSA()
	if err != nil {
		return nil, err
	}
	return tpm2.RSAPub(parameters, modulus)
}

// attest reads all PCRs and quotes them. Others may extend a PCR in between: then values and quote disagree, and both
// are taken again.
func (k *attestationKey) attest(connection transport.TPM, nonce []byte) (*quoted, error) {
	for range quoteAttempts {
		values, err := readPCRs(connection)
		if err != nil {
			return nil, err
		}
		response, err := tpm2.Quote{
			SignHandle: tpm2.AuthHandle{
				Handle: k.handle.Handle, Name: k.handle.Name, Auth: tpm2.PasswordAuth(nil),
			},
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme: tpm2.TPMTSigScheme{
				Scheme: tpm2.TPMAlgRSASSA,
				Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgRSASSA,
					&tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256}),
			},
			PCRSelect: selection(allPCRs),
		}.Execute(connection)
		if err != nil {
			return nil, fmt.Errorf("TPM2_Quote: %w", err)
		}
		consistent, err := quotes(&response.Quoted, values)
		if err != nil {
			return nil, err
		}
		if !consistent {
			continue
		}
		return &quoted{k, response, values}, nil
	}
	return nil, fmt.Errorf("TPM2_Quote: PCRs changed during each of %d attempts", quoteAttempts)
}

// quotes says whether a quote is of these values.
func quotes(quoted *tpm2.TPM2BAttest, values [PCRCount][]byte) (bool, error) {
	attest, err := quoted.Contents()
	if err != nil {
		return false, fmt.Errorf("TPM2_Quote: %w", err)
	}
	quote, err := attest.Attested.Quote()
	if err != nil {
		return false, fmt.Errorf("TPM2_Quote: %w", err)
	}
	digest := sha256.Sum256(bytes.Join(values[:], nil))
	return bytes.Equal(quote.PCRDigest.Buffer, digest[:]), nil
}

// allPCRs is the selection's bit map of PCR 0 to 23, as TPMS_PCR_SELECTION has it.
var allPCRs = []byte{0xff, 0xff, 0xff}

func selection(bits []byte) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits}}}
}

// readPCRs reads the SHA-256 bank. A TPM gives some PCRs at a time, the first of those asked for, and says which.
func readPCRs(connection transport.TPM) ([PCRCount][]byte, error) {
	var values [PCRCount][]byte
	wanted := bytes.Clone(allPCRs)
	for !bytes.Equal(wanted, []byte{0, 0, 0}) {
		response, err := tpm2.PCRRead{PCRSelectionIn: selection(wanted)}.Execute(connection)
		if err != nil {
			return values, fmt.Errorf("TPM2_PCR_Read: %w", err)
		}
		before := bytes.Clone(wanted)
		if err := take(response, wanted, &values); err != nil {
			return values, fmt.Errorf("TPM2_PCR_Read: %w", err)
		}
		if bytes.Equal(before, wanted) {
			return values, errors.New("TPM2_PCR_Read: the TPM has no SHA-256 bank with 24 PCRs")
		}
	}
	return values, nil
}

// take puts what a response gives into values and clears it from the bit map of what is wanted.
func take(response *tpm2.PCRReadResponse, wanted []byte, values *[PCRCount][]byte) error {
	digests := response.PCRValues.Digests
	for _, given := range response.PCRSelectionOut.PCRSelections {
		for pcr := range values {
			octet, bit := pcr/8, byte(1)<<(pcr%8)
			if given.Hash != tpm2.TPMAlgSHA256 || octet >= len(given.PCRSelect) || given.PCRSelect[octet]&bit == 0 {
				continue
			}
			if len(digests) == 0 || len(digests[0].Buffer) != sha256.Size {
				return errors.New("values do not match the selection given")
			}
			values[pcr], digests = digests[0].Buffer, digests[1:]
			wanted[octet] &^= bit
		}
	}
	return nil
}
