package kbs

import (
	"strings"
	"testing"
)

const journal = `{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"serving","address":":8080"}
{"time":"2026-01-02T03:04:06Z","level":"INFO","msg":"request","event":"auth","decision":"challenged","method":"POST","path":"/kbs/v0/auth","status":200,"tee":"tpm"}
[2026-01-02T03:04:07Z INFO attestation_service] session sha256:0: claims of the verified tpm evidence:
    {
        "tpm.pcr08": "00",
    }
{"time":"2026-01-02T03:04:07Z","level":"INFO","msg":"request","event":"attest","decision":"attested","method":"POST","path":"/kbs/v0/attest","status":200,"tee":"tpm","ear_status":"warning","why":"trust claim executables is 33, which does not affirm\n\n  ✗ line 9: executables := 3 if\n"}
{"time":"2026-01-02T03:04:08Z","level":"INFO","msg":"request","event":"attest","decision":"AttestationError","method":"POST","path":"/kbs/v0/attest","status":401,"tee":"tpm","register":"PCR 8","expected":"bb","actual":"aa","cause":"TPM PCR[8] doesn't match expected initdata hash"}
{"time":"2026-01-02T03:04:09Z","level":"INFO","msg":"request","event":"attest","decision":"AttestationError","method":"POST","path":"/kbs/v0/attest","status":401,"tee":"tpm","register":"PCR 8","expected":"bb","actual":"aa","cause":"TPM PCR[8] doesn't match expected initdata hash"}
{"time":"2026-01-02T03:04:09Z","level":"INFO","msg":"request","event":"resource","decision":"PolicyDeny","method":"GET","path":"/kbs/v0/resource/a/b/c","status":401,"why":"\n  ✗ line 5: allow if\n    line 7 is not true: x == y\n"}
{"time":"2026-01-02T03:04:10Z","level":"INFO","msg":"request","event":"resource-policy","decision":"AdminAuth","method":"POST","path":"/kbs/v0/resource-policy","status":401}
not of the log
{"broken
`

func TestExplainJournal(t *testing.T) {
	requests, err := ReadJournal(strings.NewReader(journal))
	if err != nil || len(requests) != 6 {
		t.Fatalf("%v: %d requests", err, len(requests))
	}
	text, err := Explain(requests)
	if err != nil {
		t.Fatal(err)
	}
	want := `03:04:07  POST /kbs/v0/attest: the evidence of kind tpm was verified, and its appraisal is warning
  trust claim executables is 33, which does not affirm
    ✗ line 9: executables := 3 if
03:04:08  POST /kbs/v0/attest: stopped at attestation with AttestationError (401)
  reason: TPM PCR[8] doesn't match expected initdata hash
  PCR 8, expected: bb
  PCR 8, actual:   aa
  the same 2 times, until 03:04:09
03:04:09  GET /kbs/v0/resource/a/b/c: stopped at the release of the resource with PolicyDeny (401)
    ✗ line 5: allow if
      line 7 is not true: x == y
`
	if text != want {
		t.Errorf("%s\nwant\n%s", text, want)
	}
	if _, err := Explain(requests[:1]); err == nil || !strings.Contains(err.Error(), "refused nothing") {
		t.Error(err)
	}
	// Long lines are passed over whole, what looks like a request in their middle too.
	request := strings.SplitAfter(journal, "\n")[1]
	for _, long := range []string{
		strings.Repeat("x", maxJournalLine+1), strings.Repeat("x", maxJournalLine) + strings.TrimSpace(request), strings.Repeat("x", 3*maxJournalLine),
	} {
		if got, err := ReadJournal(strings.NewReader(request + long + "\n" + request)); err != nil || len(got) != 2 {
			t.Errorf("with a line of %d bytes: %v: %d requests", len(long), err, len(got))
		}
	}
}

// Logs come from whoever runs a KBS.
func FuzzReadJournal(f *testing.F) {
	f.Add(journal)
	f.Fuzz(func(_ *testing.T, text string) {
		requests, err := ReadJournal(strings.NewReader(text))
		if err == nil {
			_, _ = Explain(requests)
		}
	})
}
