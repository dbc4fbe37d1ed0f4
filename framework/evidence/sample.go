package evidence

import (
	"bytes"
	"encoding/base64"
	"fmt"
)

// Sample is parsed evidence of the sample attester, which proves nothing: anyone can write it (Trustee
// deps/verifier/src/sample).
type Sample struct {
	SVN        string
	ReportData []byte
}

// ParseSample reads sample evidence. Errors are ErrFormat.
func ParseSample(raw []byte) (*Sample, error) {
	document, err := parseDocument(raw, maxEvidenceSize)
	if err != nil {
		return nil, err
	}
	var sample Sample
	if sample.SVN, err = document.string("svn"); err != nil {
		return nil, err
	}
	if sample.ReportData, err = document.base64("report_data"); err != nil {
		return nil, err
	}
	return &sample, nil
}

// Verify compares the report data (ErrReportData). Init-data is not bound to such evidence, so that demanding one is
// ErrInitData.
func (s *Sample) Verify(reportData []byte, options Options) (*Claims, error) {
	if !bytes.Equal(s.ReportData, reportData) {
		return nil, fmt.Errorf("%w: %x, expected %x", ErrReportData, s.ReportData, reportData)
	}
	if options.InitDataDigest != nil {
		return nil, fmt.Errorf("%w: kind %s binds none", ErrInitData, KindSample)
	}
	return &Claims{
		Kind: KindSample, TestRoot: true, SVN: s.SVN,
		ReportData: base64.StdEncoding.EncodeToString(s.ReportData),
	}, nil
}
