package measure

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	tdx "github.com/google/go-tdx-guest/abi"
	pb "github.com/google/go-tdx-guest/proto/tdx"
)

// aaelRecord is attestation-agent's record as its source lays it out, written down here by hand.
func aaelRecord(register uint32, algorithm uint16, digest []byte, text string) []byte {
	data := binary.LittleEndian.AppendUint32(nil, 0x4141454c)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(text)))
	data = append(data, text...)
	return record(register, 6, algorithm, digest, data)
}

func record(register, kind uint32, algorithm uint16, digest, data []byte) []byte {
	raw := binary.LittleEndian.AppendUint32(nil, register)
	raw = binary.LittleEndian.AppendUint32(raw, kind)
	raw = binary.LittleEndian.AppendUint32(raw, 1)
	raw = binary.LittleEndian.AppendUint16(raw, algorithm)
	raw = append(raw, digest...)
	raw = binary.LittleEndian.AppendUint32(raw, uint32(len(data)))
	return append(raw, data...)
}

// Digests of the event "domain operation content" that guest-components' own tests expect of attestation-agent.
var aaelVectors = []struct {
	bank      crypto.Hash
	algorithm uint16
	digest    string
}{
	{crypto.SHA256, 0x000b, "46df8dacf00a07d34a83cdf56d7978697790787cf2ba1432ef7c38f22cd96351"},
	{crypto.SHA384, 0x000c, "dad5f0e226318ffa9839b75a472c6aa7fdb5834949d0a0a22990cf04d5692440fb00f3aa0609db7e49cd8d793f670d02"},
	{crypto.SHA512, 0x000d, "b708d222ca8bd44dfe6ba0c4ca2cbb72379276fba8091025217064be45a813e5d6124ccf073219edb617d1faf007d55061465bdf34b7437dbdc9a7405bd4e9c0"},
}

func TestAAELVectors(t *testing.T) {
	for _, v := range aaelVectors {
		t.Run(v.bank.String(), func(t *testing.T) {
			log, err := ParseEventLog(aaelRecord(17, v.algorithm, fromHex(t, v.digest), "domain operation content"))
			if err != nil || len(log.Events) != 1 {
				t.Fatalf("%+v, %v", log, err)
			}
			event := log.Events[0]
			if text, ok := event.AAEL(); !ok || text != "domain operation content" || event.Register != 17 || event.Number != 1 {
				t.Errorf("%+v: %q, %v", event, text, ok)
			}
			if !event.DigestMatchesData(v.bank) {
				t.Error("the digest is not of the data")
			}
		})
	}
}

func digestOf(bank crypto.Hash, text string) []byte {
	data := binary.LittleEndian.AppendUint32(nil, 0x4141454c)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(text)))
	hash := bank.New()
	hash.Write(append(data, text...))
	return hash.Sum(nil)
}

// One log with one thing wrong each: which event is named?
func TestCompareNamesTheEvent(t *testing.T) {
	texts := []string{"a CreateContainerRequest 1", "a ExecProcessRequest 2", "a StartContainerRequest 3", "a RemoveContainerRequest 4"}
	register := make([]byte, 32)
	for i := range register {
		register[i] = 0xff // as PCR 17 before a dynamic launch
	}
	initial := map[uint32][]byte{17: bytes.Clone(register)}
	records := make([][]byte, len(texts))
	for i, text := range texts {
		digest := digestOf(crypto.SHA256, text)
		records[i] = aaelRecord(17, 0x000b, digest, text)
		hash := crypto.SHA256.New()
		hash.Write(append(bytes.Clone(register), digest...))
		register = hash.Sum(nil)
	}
	extra := aaelRecord(17, 0x000b, digestOf(crypto.SHA256, "x y z"), "x y z")
	forged := aaelRecord(17, 0x000b, digestOf(crypto.SHA256, texts[1]), "a ExecProcessRequest 0")
	for name, c := range map[string]struct {
		records [][]byte
		event   int // 0: none named
		want    string
	}{
		"as measured":       {records, 0, ""},
		"text changed":      {[][]byte{records[0], forged, records[2], records[3]}, 2, "has data that its digest is not of"},
		"one too many":      {[][]byte{records[0], records[1], extra, records[2], records[3]}, 3, "was logged but not measured"},
		"more at the end":   {append(append([][]byte{}, records...), extra, extra), 5, "and what follows was logged but not measured"},
		"two swapped":       {[][]byte{records[0], records[2], records[1], records[3]}, 2, "was measured after the one"},
		"one left out":      {[][]byte{records[0], records[2], records[3]}, 0, "something was measured that is not in the log"},
		"the first cut off": {records[1:], 0, "something was measured that is not in the log"},
		"nothing logged":    {nil, 0, "something was measured that is not in the log"},
	} {
		t.Run(name, func(t *testing.T) {
			log, err := ParseEventLog(bytes.Join(c.records, nil))
			if err != nil {
				t.Fatal(err)
			}
			err = log.Compare(crypto.SHA256, initial, map[uint32][]byte{17: register})
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var mismatch *ReplayError
			if !errors.Is(err, ErrReplay) || !errors.As(err, &mismatch) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Compare: %v, want …%s…", err, c.want)
			}
			named := 0
			if mismatch.Event != nil {
				named = mismatch.Event.Number
			}
			if named != c.event || mismatch.Register != 17 {
				t.Errorf("names event %d of register %d: %v", named, mismatch.Register, err)
			}
		})
	}
}

// tdxTestdata is a log and a quote that a TDX machine of Google's made, as published in the go-tdx-guest module.
func tdxTestdata(t testing.TB) (log []byte, quote *pb.QuoteV4) {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tdx-guest").Output()
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "testing", "testdata", "ccel", name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	parsed, err := tdx.QuoteToProto(read("cos-113-tdx-quote.dat"))
	if err != nil {
		t.Fatal(err)
	}
	return read("ccel_data.dat"), parsed.(*pb.QuoteV4)
}

func TestReplayOfARealMachine(t *testing.T) {
	raw, quote := tdxTestdata(t)
	log, err := ParseEventLog(raw)
	if err != nil {
		t.Fatal(err)
	}
	quoted := map[uint32][]byte{}
	for i, rtmr := range quote.GetTdQuoteBody().GetRtmrs() {
		quoted[uint32(i)+1] = rtmr
	}
	if err := log.Compare(crypto.SHA384, nil, quoted); err != nil {
		t.Error(err)
	}
	if len(log.Events) < 20 {
		t.Errorf("only %d events", len(log.Events))
	}
	log.Events = log.Events[:len(log.Events)-1]
	if err := log.Compare(crypto.SHA384, nil, quoted); !errors.Is(err, ErrReplay) {
		t.Errorf("without its last event: %v", err)
	}
}

func TestReplayFromStartupLocality(t *testing.T) {
	event := record(0, EventNoAction, 0x000b, make([]byte, 32), []byte("StartupLocality\x00\x03"))
	event = append(event, record(0, EventSeparator, 0x000b, fromHex(t, "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"), make([]byte, 4))...)
	log, err := ParseEventLog(event)
	if err != nil {
		t.Fatal(err)
	}
	registers, err := log.Replay(crypto.SHA256)
	// (head -c 31 /dev/zero; printf '\3'; head -c 4 /dev/zero | openssl dgst -sha256 -binary) | openssl dgst -sha256
	if want := "50bd7d88f0414b40608f8ffc56fd4f3201b5ed0644e36b8128d33624ebe0f053"; err != nil || hex.EncodeToString(registers[0]) != want {
		t.Errorf("PCR 0 = %x, %v; want %s", registers[0], err, want)
	}
	if _, err := log.Replay(crypto.SHA384); err == nil || !strings.Contains(err.Error(), "event 2") {
		t.Errorf("a bank that the log does not have: %v", err)
	}
}

func TestParseEventLogRefuses(t *testing.T) {
	good := aaelRecord(17, 0x000b, make([]byte, 32), "a b c")
	spec := func(body string) []byte {
		raw := make([]byte, 28)
		raw[4] = 3
		raw = binary.LittleEndian.AppendUint32(raw, uint32(len(body)))
		return append(raw, body...)
	}
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"cut in data":       {good[:len(good)-1], "data: 12 bytes where 13 belong"},
		"cut in digest":     {good[:20], "digest: 6 bytes where 32 belong"},
		"cut in register":   {[]byte{1, 2}, "register: 2 bytes"},
		"rest after events": {append(bytes.Clone(good), 1), "register: 1 bytes"},
		"unknown algorithm": {record(1, 1, 0x00ff, make([]byte, 32), nil), "digest algorithm is not"},
		"many digests":      {append(bytes.Clone(good[:8]), 0xff, 0xff, 0xff, 0xff), "4294967295 digests, limit 8"},
		"old header":        {spec("Spec ID Event00\x00"), "not a Spec ID Event03"},
		"header cut":        {spec("Spec ID Event03\x00")[:47], "header: Spec ID event: 15 bytes"},
		"too long":          {make([]byte, 4<<20+1), "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseEventLog(c.raw); !errors.Is(err, ErrEventLog) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseEventLog: %v, want …%s…", err, c.want)
			}
		})
	}
	for name, raw := range map[string][]byte{
		"nothing": nil, "header alone": spec("Spec ID Event03\x00…"),
		"padding": append(bytes.Clone(good), bytes.Repeat([]byte{0xff}, 100)...), "zeros": append(bytes.Clone(good), make([]byte, 9)...),
	} {
		if _, err := ParseEventLog(raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseEventLog(f *testing.F) {
	raw, _ := tdxTestdata(f)
	f.Add(raw[:8192])
	f.Add(aaelRecord(17, 0x000b, make([]byte, 32), "a b c"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		log, err := ParseEventLog(raw)
		if err != nil {
			return
		}
		size := 0
		for _, event := range log.Events {
			size += len(event.Data)
		}
		if size > len(raw) {
			t.Fatal("more data than bytes")
		}
		_ = log.Compare(crypto.SHA256, nil, map[uint32][]byte{17: make([]byte, 32)})
	})
}
