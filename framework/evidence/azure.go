package evidence

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// Azure is parsed, not verified, evidence of a confidential VM on Azure: a vTPM quote, the HCL report that names the
// quote's key, and the hardware report or quote below that (Trustee deps/verifier/src/az_snp_vtpm and az_tdx_vtpm).
type Azure struct {
	Kind string // KindAzSNPVTPM or KindAzTDXVTPM
	// Version of the evidence format. From 2 on, the HCL report is made anew for each quote and has its report data.
	Version   int
	Message   []byte // TPMS_ATTEST, the bytes that are signed
	Signature []byte // RSA signature
	PCRs      [PCRCount][32]byte
	HCLReport []byte

	hcl  *hclReport
	vcek *x509.Certificate // az-snp-vtpm
	snp  *snpReport        // az-snp-vtpm
	tdx  *tdxQuote         // az-tdx-vtpm
}

// ParseAzSNP reads evidence of az-snp-vtpm in the JSON forms that attestation-agent has had: version 2 and 1 with hex and
// base64url, and version 0, which does not say its version, with lists of numbers.
func ParseAzSNP(raw []byte) (*Azure, error) { return parseAzure(KindAzSNPVTPM, raw) }

// ParseAzTDX is ParseAzSNP for az-tdx-vtpm.
func ParseAzTDX(raw []byte) (*Azure, error) { return parseAzure(KindAzTDXVTPM, raw) }

// azureFields are the names that differ between kinds and versions.
type azureFields struct{ quote, report, hardware string }

func parseAzure(kind string, raw []byte) (*Azure, error) {
	document, err := parseDocument(raw, maxBigEvidence)
	if err != nil {
		return nil, err
	}
	azure := &Azure{Kind: kind}
	names := azureFields{"tpm_quote", "hcl_report", "td_quote"}
	if kind == KindAzSNPVTPM {
		names.hardware = "vcek"
	}
	if _, ok := document.fields["version"]; ok {
		version, err := number[uint8](document, "version")
		if err != nil {
			return nil, err
		}
		if version != 1 && version != 2 {
			return nil, &FormatError{"version", fmt.Sprintf("%d, want 1 or 2 (0 does not say it)", version)}
		}
		azure.Version = int(version)
	} else if kind == KindAzSNPVTPM {
		names.quote, names.report = "quote", "report"
	}
	read := (*object).base64url
	if azure.Version == 0 {
		read = func(o *object, name string) ([]byte, error) { return o.bytes(name, 0) }
	}
	if err := azure.parseQuote(document, names.quote); err != nil {
		return nil, err
	}
	if azure.HCLReport, err = read(document, names.report); err != nil {
		return nil, err
	}
	if err := azure.parseHardware(document, names, read); err != nil {
		return nil, err
	}
	return azure, nil
}

func (a *Azure) parseQuote(document *object, name string) error {
	quote, err := document.object(name)
	if err != nil {
		return err
	}
	read := (*object).hex
	if a.Version == 0 {
		read = func(o *object, name string) ([]byte, error) { return o.bytes(name, 0) }
	}
	if a.Signature, err = read(quote, "signature"); err != nil {
		return err
	}
	if a.Message, err = read(quote, "message"); err != nil {
		return err
	}
	var pcrs []string
	if a.Version == 0 {
		pcrs, err = quote.byteLists("pcrs")
	} else {
		pcrs, err = quote.strings("pcrs")
	}
	if err != nil {
		return err
	}
	return parsePCRs(name+".pcrs", pcrs, &a.PCRs)
}

// byteLists reads a list of byte arrays, as hex.
func (o *object) byteLists(name string) ([]string, error) {
	var values []json.RawMessage
	if err := o.field(name, &values, "a list"); err != nil {
		return nil, err
	}
	list := make([]string, len(values))
	for i, value := range values {
		at := fmt.Sprintf("%s[%d]", name, i)
		item := &object{prefix: o.prefix, fields: map[string]json.RawMessage{at: value}}
		raw, err := item.bytes(at, 0)
		if err != nil {
			return nil, err
		}
		list[i] = hex.EncodeToString(raw)
	}
	return list, nil
}

func (a *Azure) parseHardware(document *object, names azureFields, read func(*object, string) ([]byte, error)) (err error) {
	if a.Kind == KindAzTDXVTPM {
		if a.hcl, err = parseHCL(names.report, a.HCLReport, hclTypeTDX); err != nil {
			return err
		}
		quote, err := read(document, names.hardware)
		if err != nil {
			return err
		}
		a.tdx, err = parseTDXQuote(names.hardware, quote)
		return err
	}
	if a.hcl, err = parseHCL(names.report, a.HCLReport, hclTypeSNP); err != nil {
		return err
	}
	if a.snp, err = parseSNPReport(names.report+".hw_report", a.hcl.hardware, snpVersionAzure); err != nil {
		return err
	}
	if a.Version == 0 {
		text, err := document.string(names.hardware)
		if err != nil {
			return err
		}
		// AMD's intermediate and root are behind it in Azure's evidence. They are not asked: roots come from the verifier.
		if a.vcek, _, err = cutPEM([]byte(text)); err != nil {
			return &FormatError{names.hardware, err.Error()}
		}
		return nil
	}
	der, err := read(document, names.hardware)
	if err != nil {
		return err
	}
	if a.vcek, err = x509.ParseCertificate(der); err != nil {
		return &FormatError{names.hardware, err.Error()}
	}
	return nil
}

// Verify checks, in this order: the key that the HCL report names is trusted (ErrUntrustedKey) and signed the quote
// (ErrSignature); the quote was made by a TPM (ErrFormat) over all SHA-256 PCRs (ErrPCRSelection) with these values (ErrPCRDigest),
// for exactly this report data (ErrNonce); the hardware report was made for this HCL report (ErrHCLBinding), and
// from version 2 on the HCL report for this report data (ErrUserData); the hardware report is genuine (ErrChain,
// ErrReportSignature or ErrQEReport, ErrTCB), of the paravisor (ErrVMPL) of a guest that the host cannot debug (ErrDebug);
// PCR 8 holds the expected init-data (ErrInitData); the expected event log fits (ErrEventLog). In versions 0 and 1, nothing but the quote is fresh.
func (a *Azure) Verify(reportData []byte, options Options) (*Claims, error) {
	if len(reportData) == 0 {
		return nil, fmt.Errorf("%w: no report data is expected, but kind %s cannot be verified without", ErrNonce, a.Kind)
	}
	if options.TrustedAKs != nil && !slices.ContainsFunc(options.TrustedAKs, func(k *rsa.PublicKey) bool { return k.Equal(a.hcl.ak) }) {
		return nil, ErrUntrustedKey
	}
	if _, err := verifyQuote(a.hcl.ak, a.Message, a.Signature, &a.PCRs, reportData); err != nil {
		return nil, err
	}
	hardware := a.hardwareReportData()
	if digest := a.hcl.digest(); !bytes.Equal(hardware[:len(digest)], digest[:]) {
		return nil, fmt.Errorf("%w: REPORT_DATA begins with %x, digest is %x", ErrHCLBinding, hardware[:len(digest)], digest)
	}
	if a.Version >= 2 {
		if expected := pad(reportData, hclUserDataSize); !bytes.Equal(a.hcl.userData, expected) {
			return nil, fmt.Errorf("%w: user-data %x, expected %x", ErrUserData, a.hcl.userData, expected)
		}
	}
	claims := &Claims{
		Kind: a.Kind, EventLog: options.EventLog, PCRs: a.PCRs, AK: a.hcl.ak,
		InitData: hex.EncodeToString(a.PCRs[measure.InitDataPCR][:]), ReportData: hex.EncodeToString(reportData),
	}
	var err error
	if a.snp != nil {
		claims.SNP, claims.TestRoot, err = a.snp.verify(a.vcek, options)
	} else {
		claims.TDX, claims.TestRoot, err = a.tdx.verify(options)
	}
	if err != nil {
		return nil, err
	}
	if err := checkPCR8(&a.PCRs, options.InitDataDigest); err != nil {
		return nil, err
	}
	if err := checkEvents(&a.PCRs, options); err != nil {
		return nil, err
	}
	return claims, nil
}

func (a *Azure) hardwareReportData() []byte {
	if a.snp != nil {
		return a.snp.claims.ReportData[:]
	}
	return a.tdx.claims.ReportData[:]
}
