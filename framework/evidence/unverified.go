package evidence

import (
	"encoding/base64"
	"encoding/hex"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// Unverified parses evidence and gives the claims that it makes about itself. Nothing vouches for them: no signature was
// checked. They are for looking at what was refused.
func Unverified(kind string, raw []byte) (*Claims, error) {
	switch kind {
	case KindTPM:
		tpm, err := ParseTPM(raw)
		if err != nil {
			return nil, err
		}
		claims := &Claims{Kind: kind, AK: tpm.AK, AKPublic: tpm.AKPublic, PCRs: tpm.PCRs}
		return claims, claims.fillFromQuote(tpm.Message)
	case KindAzSNPVTPM, KindAzTDXVTPM:
		azure, err := parseAzure(kind, raw)
		if err != nil {
			return nil, err
		}
		claims := &Claims{Kind: kind, AK: azure.hcl.ak, PCRs: azure.PCRs}
		if azure.snp != nil {
			claims.SNP = &azure.snp.claims
		} else {
			claims.TDX = &azure.tdx.claims
		}
		return claims, claims.fillFromQuote(azure.Message)
	case KindSNP:
		snp, err := ParseSNP(raw)
		if err != nil {
			return nil, err
		}
		c := &snp.report.claims
		return &Claims{Kind: kind, SNP: c, InitData: hex.EncodeToString(c.HostData[:]), ReportData: hex.EncodeToString(c.ReportData[:])}, nil
	case KindTDX:
		tdx, err := ParseTDX(raw)
		if err != nil {
			return nil, err
		}
		c := &tdx.quote.claims
		c.EventLog = tdx.EventLog
		return &Claims{Kind: kind, TDX: c, InitData: hex.EncodeToString(c.MRConfigID[:]), ReportData: hex.EncodeToString(c.ReportData[:])}, nil
	case KindSample:
		sample, err := ParseSample(raw)
		if err != nil {
			return nil, err
		}
		return &Claims{Kind: kind, SVN: sample.SVN, ReportData: base64.StdEncoding.EncodeToString(sample.ReportData)}, nil
	}
	return nil, &UnsupportedKindError{kind}
}

func (c *Claims) fillFromQuote(message []byte) error {
	quote, err := parseQuote("tpm_quote.message", message)
	if err != nil {
		return err
	}
	c.ReportData = hex.EncodeToString(quote.extraData)
	c.InitData = hex.EncodeToString(c.PCRs[measure.InitDataPCR][:])
	return nil
}
