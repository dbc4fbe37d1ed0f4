package aa

import (
	"context"
	"encoding/base64"
	"encoding/json"
)

// sample is the attester that proves nothing: anyone can write what it writes.
type sample struct{}

var _ Attester = sample{}

// Tee is "sample".
func (sample) Tee() string { return "sample" }

// BindInitData is [ErrUnbound].
func (sample) BindInitData(context.Context, []byte) error { return ErrUnbound }

// Evidence has the report data, and no signature.
func (sample) Evidence(_ context.Context, reportData []byte) (json.RawMessage, error) {
	return json.Marshal(map[string]string{"svn": "1", "report_data": base64.StdEncoding.EncodeToString(reportData)})
}
