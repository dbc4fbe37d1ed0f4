package evidence

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// agentLog is attestation-agent's log of the event "domain operation content" in a register. Its digest is
// guest-components' own vector.
func agentLog(t testing.TB, register uint32) *measure.EventLog {
	t.Helper()
	const text = "domain operation content"
	little := binary.LittleEndian
	raw := little.AppendUint32(nil, register)
	raw = little.AppendUint16(append(raw, 6, 0, 0, 0, 1, 0, 0, 0), 0x0b)
	raw = append(raw, fromHex(t, "46df8dacf00a07d34a83cdf56d7978697790787cf2ba1432ef7c38f22cd96351")...)
	raw = little.AppendUint32(raw, uint32(8+len(text)))
	raw = append(little.AppendUint32(append(raw, "LEAA"...), uint32(len(text))), text...)
	log, err := measure.ParseEventLog(raw)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestEventLogOfTPM(t *testing.T) {
	report := fromHex(t, reportData)
	// (START; printf 46df8dac… | xxd -r -p) | openssl dgst -sha256, where START is 32 bytes of 0xff or of zero
	const fromOnes, fromZeros = "44e250d1fb4db44e9beda1e872abbef471686fea881dee7d13055e912d4ba6f4", "14adddd6f695b5ea739479ff662bed8ae19b3051977f2cc16a2ee32a719e6032"
	empty := &measure.EventLog{}
	for name, c := range map[string]struct {
		pcr, other string
		log        *measure.EventLog
		want       error
		text       string
		into       uint32
	}{
		"fits":                 {fromOnes, "", agentLog(t, 17), nil, "", 0},
		"after dynamic launch": {fromZeros, "", agentLog(t, 17), nil, "", 0},
		"nothing happened":     {strings.Repeat("ff", 32), "", empty, nil, "", 0},
		"left out":             {fromOnes, "", empty, ErrEventLog, "something was measured that is not in the log", 0},
		"not measured":         {strings.Repeat("ff", 32), "", agentLog(t, 17), ErrEventLog, `event 1 (EV_EVENT_TAG, "domain operation content") and what follows`, 0},
		"in another register":  {strings.Repeat("ff", 32), fromZeros, agentLog(t, 14), nil, "", 0},
		"left out elsewhere":   {strings.Repeat("ff", 32), fromZeros, empty, ErrEventLog, "something was measured that is not in the log", 14},
		"fits elsewhere":       {strings.Repeat("ff", 32), fromZeros, agentLog(t, 14), nil, "", 14},
		"of another register":  {fromOnes, fromZeros, agentLog(t, 17), ErrEventLog, "register 14", 14},
		"anybody's register":   {strings.Repeat("ff", 32), "", empty, ErrEventLog, "event register 23: everybody in the guest may reset it", 23},
		"register 24":          {strings.Repeat("ff", 32), "", empty, ErrEventLog, "event register 24: a TPM has 0 to 23", 24},
		"no such register":     {strings.Repeat("ff", 32), "", agentLog(t, 24), ErrEventLog, "register 24, which no TPM has", 0},
	} {
		for _, kind := range []string{KindAzSNPVTPM, KindAzTDXVTPM} {
			vm := goodAzure(t, kind, report, make([]byte, 32))
			vm.pcrs[17] = fromHex(t, c.pcr)
			if c.other != "" {
				vm.pcrs[14] = fromHex(t, c.other)
			}
			options := Options{Roots: vendors().roots(), EventLog: c.log, EventPCR: c.into}
			t.Run(name+"/"+kind, func(t *testing.T) {
				claims := expect(t, kind, vm.document(t, 2), report, options, c.want, c.text)
				if claims == nil {
					return
				}
				events := claims.Map()["uefi_event_logs"].([]any)
				if len(events) != len(c.log.Events) {
					t.Fatalf("%d events", len(events))
				}
				for _, event := range events {
					details := event.(map[string]any)["details"].(map[string]any)
					if details["string"] != "domain operation content" || event.(map[string]any)["digest_matches_event"] != true {
						t.Error(event)
					}
				}
			})
		}
	}
	// The tpm fixture's PCR 17 is as the TPM started.
	if _, err := Verify(KindTPM, fixture(t, "tpm.json"), report, Options{EventLog: agentLog(t, 17)}); !errors.Is(err, ErrEventLog) {
		t.Errorf("tpm: %v", err)
	}
	if claims, err := Verify(KindTPM, fixture(t, "tpm.json"), report, Options{EventLog: empty}); err != nil || claims.PCR(17) != hex.EncodeToString(bytesOf(0xff, 32)) {
		t.Errorf("tpm, nothing happened: %v", err)
	}
	raw := signReport(t, goodReport(report, nil), vendors().vcek.key)
	expect(t, KindSNP, snpDocument(raw, vendors().vcek.cert), report, Options{Roots: vendors().roots(), EventLog: empty}, ErrEventLog, "no registers")
}
