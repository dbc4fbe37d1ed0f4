package aa

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/measure"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// registers are a TEE's, which tests read and break.
type registers struct {
	bank   crypto.Hash
	values map[uint32][]byte
	broken error
}

func (r *registers) Bank() crypto.Hash          { return r.bank }
func (r *registers) Register(pcr uint32) uint32 { return pcr }

func (r *registers) Extend(_ context.Context, pcr uint32, digest []byte) error {
	if r.broken != nil {
		return r.broken
	}
	if r.values[pcr] == nil {
		r.values[pcr] = make([]byte, r.bank.Size())
	}
	var err error
	r.values[pcr], err = measure.Extend(r.bank, r.values[pcr], digest)
	return err
}

func newRegisters(bank crypto.Hash) *registers {
	return &registers{bank: bank, values: map[uint32][]byte{}}
}

// The digests that guest-components' own tests have for the event "domain operation content".
func TestEventDigests(t *testing.T) {
	for bank, want := range map[crypto.Hash]string{
		crypto.SHA256: "46df8dacf00a07d34a83cdf56d7978697790787cf2ba1432ef7c38f22cd96351",
		crypto.SHA384: "dad5f0e2",
	} {
		_, digest := event(bank, 17, "domain operation content")
		if got := hex.EncodeToString(digest); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", bank, got, want)
		}
	}
}

// What is recorded leads to the registers, and what could not be measured is not in the log.
func TestEventLog(t *testing.T) {
	for _, bank := range []crypto.Hash{crypto.SHA256, crypto.SHA384} {
		path := filepath.Join(t.TempDir(), "sub", "eventlog")
		tee := newRegisters(bank)
		log, err := OpenEventLog(path, 15, tee, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		other := uint32(13)
		record := func(pcr *uint32, content string) error {
			return log.Record(t.Context(), pcr, "example.org", "do", content)
		}
		if err := errors.Join(record(nil, "one"), record(&other, "two words"), record(nil, "")); err != nil {
			t.Fatal(err)
		}
		tee.broken = errors.New("no hardware")
		if err := record(nil, "lost"); !errors.Is(err, tee.broken) {
			t.Errorf("broken hardware: %v", err)
		}
		tee.broken = nil
		if err := record(nil, "last"); err != nil {
			t.Fatal(err)
		}
		for name, bad := range map[string][3]string{
			"newline": {"d", "o", "a\nb"}, "no domain": {"", "o", "c"}, "two words": {"d", "o p", "c"}, "long": {"d", "o", strings.Repeat("x", maxEvent)},
		} {
			if err := log.Record(t.Context(), nil, bad[0], bad[1], bad[2]); !errors.Is(err, ErrEvent) {
				t.Errorf("%s: %v", name, err)
			}
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := measure.ParseEventLog(raw)
		if err != nil {
			t.Fatal(err)
		}
		texts := []string{}
		for i := range parsed.Events {
			text, _ := parsed.Events[i].AAEL()
			texts = append(texts, text)
		}
		if got := strings.Join(texts, "|"); got != "example.org do one|example.org do two words|example.org do |example.org do last" {
			t.Errorf("events: %s", got)
		}
		if err := parsed.Compare(bank, nil, tee.values); err != nil {
			t.Error(err)
		}
	}
}

func TestEventPCR(t *testing.T) {
	for _, tc := range []struct {
		toml, environment string
		pcr               uint32
		enabled           bool
		wantErr           string
	}{
		{"", "", 17, false, ""},
		{"", "15", 15, true, ""},
		{"enable_eventlog = true", "", 17, true, ""},
		{"enable_eventlog = true\ninit_pcr = 8", "15", 8, true, ""},
		{"enable_eventlog = false", "15", 15, false, ""},
		{"init_pcr = 24", "", 0, false, "init_pcr = 24"},
		{"", "on", 0, false, `COCO_EVENTLOG="on"`},
	} {
		config, err := LoadConfig(write(t, "aa.toml", "[eventlog_config]\n"+tc.toml), "")
		if err != nil {
			t.Fatal(err)
		}
		pcr, enabled, err := config.EventPCR(tc.environment)
		if tc.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("%+v: %v", tc, err)
			}
			continue
		}
		if err != nil || pcr != tc.pcr || enabled != tc.enabled {
			t.Errorf("%+v: %d %t %v", tc, pcr, enabled, err)
		}
	}
}

func TestExtendRuntimeMeasurement(t *testing.T) {
	agent := service("http://127.0.0.1:1", ECP256, nil)
	request := &guestpb.ExtendRuntimeMeasurementRequest{Domain: "d", Operation: "o", Content: "c"}
	expect := func(want guestpb.RuntimeMeasurementResult) {
		t.Helper()
		if response, err := agent.ExtendRuntimeMeasurement(t.Context(), request); err != nil || response.GetResult() != want {
			t.Errorf("%v, %v, want %s", response, err, want)
		}
	}
	expect(guestpb.RuntimeMeasurementResult_NOT_ENABLED)
	agent.EventsEnabled = true
	expect(guestpb.RuntimeMeasurementResult_NOT_SUPPORTED)
	tee := newRegisters(crypto.SHA256)
	var err error
	if agent.Events, err = OpenEventLog(filepath.Join(t.TempDir(), "log"), 17, tee, agent.Log); err != nil {
		t.Fatal(err)
	}
	expect(guestpb.RuntimeMeasurementResult_OK)
	index := uint64(9)
	request.RegisterIndex = &index
	expect(guestpb.RuntimeMeasurementResult_OK)
	if len(tee.values) != 2 || tee.values[9] == nil || tee.values[17] == nil {
		t.Errorf("registers %v, want 9 and 17", tee.values)
	}
	request.Content = "a\nb"
	if _, err := agent.ExtendRuntimeMeasurement(t.Context(), request); err == nil || !strings.Contains(err.Error(), "extend runtime measurement failed") {
		t.Errorf("a newline: %v", err)
	}
}
