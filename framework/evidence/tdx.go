package evidence

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// TDX is parsed, not verified, evidence of TDX (Trustee deps/verifier/src/tdx).
type TDX struct {
	Quote []byte
	// EventLog is the CC event log, nil if the evidence has none.
	EventLog *measure.EventLog

	quote *tdxQuote
}

// ParseTDX reads evidence in the JSON form that attestation-agent's tdx attester sends. Errors are ErrFormat and
// ErrAlgorithm.
func ParseTDX(raw []byte) (*TDX, error) {
	document, err := parseDocument(raw, maxBigEvidence)
	if err != nil {
		return nil, err
	}
	var tdx TDX
	if tdx.Quote, err = document.base64("quote"); err != nil {
		return nil, err
	}
	if tdx.quote, err = parseTDXQuote("quote", tdx.Quote); err != nil {
		return nil, err
	}
	if document.absent("cc_eventlog") {
		return &tdx, nil
	}
	log, err := document.base64("cc_eventlog")
	if err != nil {
		return nil, err
	}
	if tdx.EventLog, err = measure.ParseEventLog(log); err != nil {
		return nil, &FormatError{"cc_eventlog", err.Error()}
	}
	return &tdx, nil
}

// Verify checks the chain from Intel's root to the quote (ErrChain, ErrQEReport, ErrReportSignature), that the host cannot
// debug the guest (ErrDebug), reportData, zero-padded to 64 bytes (ErrReportData), MRCONFIGID (ErrInitData), and that the
// event log, if there is one, leads to the RTMRs (ErrEventLog).
func (t *TDX) Verify(reportData []byte, options Options) (*Claims, error) {
	tdx, test, err := t.quote.verify(options)
	if err != nil {
		return nil, err
	}
	if expected := pad(reportData, len(tdx.ReportData)); !bytes.Equal(tdx.ReportData[:], expected) {
		return nil, fmt.Errorf("%w: REPORTDATA is %x, expected %x", ErrReportData, tdx.ReportData, expected)
	}
	if digest := options.InitDataDigest; digest != nil {
		if expected := measure.MRConfigID(digest); !bytes.Equal(tdx.MRConfigID[:], expected) {
			return nil, &RegisterError{"MRCONFIGID", tdx.MRConfigID[:], expected}
		}
	}
	for _, log := range []*measure.EventLog{t.EventLog, options.EventLog} {
		if err := tdx.checkEvents(log); err != nil {
			return nil, err
		}
	}
	return &Claims{
		Kind: KindTDX, TestRoot: test, TDX: tdx,
		InitData:   hex.EncodeToString(tdx.MRConfigID[:]),
		ReportData: hex.EncodeToString(tdx.ReportData[:]),
	}, nil
}

// TDXClaims are a TDX quote's header and body, version 4.
type TDXClaims struct {
	Header         [tdxHeaderSize]byte
	TCBSVN         [16]byte
	MRSeam         [48]byte
	MRSignerSeam   [48]byte
	SeamAttributes [8]byte
	TDAttributes   [8]byte
	XFAM           [8]byte
	MRTD           [48]byte
	MRConfigID     [48]byte
	MROwner        [48]byte
	MROwnerConfig  [48]byte
	RTMRs          [4][48]byte
	ReportData     [64]byte
	// EventLog led to the RTMRs; nil if the evidence had none.
	EventLog *measure.EventLog
}

// Debug says whether the host may debug the guest.
func (t *TDXClaims) Debug() bool { return t.attribute(0) }

func (t *TDXClaims) attribute(bit int) bool { return t.TDAttributes[bit/8]>>(bit%8)&1 == 1 }

// ccRegisters are the quoted RTMRs by the numbers that CC event logs give them.
func (t *TDXClaims) ccRegisters() map[uint32][]byte {
	registers := map[uint32][]byte{}
	for i := range t.RTMRs {
		registers[uint32(i)+1] = t.RTMRs[i][:]
	}
	return registers
}

// add gives Trustee's names. tcb_status and what else comes from Intel's TCB information is not there, see [Verify].
func (t *TDXClaims) add(claims map[string]any) {
	text := hex.EncodeToString
	h := t.Header[:]
	body := map[string]any{
		"tcb_svn": text(t.TCBSVN[:]), "mr_seam": text(t.MRSeam[:]), "mrsigner_seam": text(t.MRSignerSeam[:]),
		"seam_attributes": text(t.SeamAttributes[:]), "td_attributes": text(t.TDAttributes[:]), "xfam": text(t.XFAM[:]),
		"mr_td": text(t.MRTD[:]), "mr_config_id": text(t.MRConfigID[:]), "mr_owner": text(t.MROwner[:]),
		"mr_owner_config": text(t.MROwnerConfig[:]), "report_data": text(t.ReportData[:]),
	}
	for i := range t.RTMRs {
		body[fmt.Sprintf("rtmr_%d", i)] = text(t.RTMRs[i][:])
	}
	claims["quote"] = map[string]any{
		"header": map[string]any{
			"version": text(h[0:2]), "att_key_type": text(h[2:4]), "tee_type": text(h[4:8]), "reserved": text(h[8:12]),
			"vendor_id": text(h[12:28]), "user_data": text(h[28:48]),
		},
		"body": body,
	}
	claims["td_attributes"] = map[string]any{
		"debug": t.Debug(), "septve_disable": t.attribute(28), "protection_keys": t.attribute(30),
		"key_locker": t.attribute(31), "perfmon": t.attribute(63),
	}
	if t.EventLog != nil {
		claims["uefi_event_logs"] = eventClaims(t.EventLog, crypto.SHA384)
	}
}

// eventClaims are a log's events as Trustee lists them, without the details that it decodes for some types.
func eventClaims(log *measure.EventLog, bank crypto.Hash) []any {
	list := make([]any, 0, len(log.Events))
	for i := range log.Events {
		event := &log.Events[i]
		if event.Type == measure.EventNoAction {
			continue
		}
		details := map[string]any{}
		if aael, ok := event.AAEL(); ok {
			details["string"] = aael
		}
		list = append(list, map[string]any{
			"index": event.Register, "type_name": measure.EventTypeName(event.Type), "details": details,
			"event": base64.StdEncoding.EncodeToString(event.Data), "digest_matches_event": event.DigestMatchesData(bank),
			"digests": []any{map[string]any{"alg": bank.String(), "digest": hex.EncodeToString(event.Digest(bank))}},
		})
	}
	return list
}
