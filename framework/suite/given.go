package suite

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/measure"
)

// given is what guests and KBSs gave the running spec: raw evidence and the claims
// of tokens. It is kept when the spec fails.
var given shown

// maxGiven is how many files of a spec are kept, of those that were given last.
const maxGiven = 40

// shown are files by the order in which they came.
type shown struct {
	mu    sync.Mutex
	spec  string
	n     int
	files []file
}

type file struct {
	name string
	text []byte
}

func (s *shown) add(spec, name string, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spec != spec {
		s.spec, s.n, s.files = spec, 0, nil
	}
	s.n++
	s.files = append(s.files, file{fmt.Sprintf("given-%02d-%s", s.n, name), text})
	if len(s.files) > maxGiven {
		s.files = s.files[1:]
	}
}

// write writes the files of a spec below dir.
func (s *shown) write(spec, dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spec != spec {
		return
	}
	for _, f := range s.files {
		keep(filepath.Join(dir, f.name), f.text)
	}
}

// KeepEvidence keeps raw evidence for when the spec fails, with what it claims; as
// nobody has verified it, that is what it says and no more. register is the value
// expected of the register that init-data is bound to, "" where nothing is expected.
func KeepEvidence(kind string, raw []byte, register string) {
	given.add(CurrentSpecReport().FullText(), "evidence-"+kind+".json", raw)
	given.add(CurrentSpecReport().FullText(), "evidence-"+kind+"-claims.txt", []byte(claimed(kind, raw, register)))
}

// claimed is what evidence claims, with the register of the init-data first.
func claimed(kind string, raw []byte, register string) string {
	claims, err := evidence.Unverified(kind, raw)
	if err != nil {
		return fmt.Sprintf("this is no evidence of kind %s: %v\n", kind, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "what the evidence claims, verified by nobody\n\n%s\n", compared(claims.InitData, register))
	leaves(claims.Map(), "", func(name, value string) { fmt.Fprintf(&b, "%s = %s\n", name, value) })
	return b.String()
}

// compared tells the register of the init-data, expected and actual.
func compared(actual, register string) string {
	switch {
	case register == "":
		return "register of the init-data: " + actual
	case actual == register:
		return "register of the init-data: " + actual + ", as expected"
	}
	return "register of the init-data: expected " + register + "\n                             actual " + actual
}

// KeepToken keeps the claims of an attestation token for when the spec fails, and
// not what makes it one: its signature.
func KeepToken(token kbs.Token) {
	given.add(CurrentSpecReport().FullText(), "token-claims.json", claimsOf(string(token)))
}

func claimsOf(token string) []byte {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return []byte("no token: it has not three parts\n")
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return []byte("no token: its claims are not base64url\n")
	}
	var doc any
	if err := json.Unmarshal(claims, &doc); err != nil {
		return []byte("no token: its claims are not JSON\n")
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return claims
	}
	return text
}

// Handshake is the client's, and keeps the evidence and the token's claims for when
// the spec fails.
func (k *KBS) Handshake(ctx context.Context, a kbs.Attester, presented *string) (kbs.Token, kbs.TEEKey, error) {
	w := &witness{Attester: a, register: expectedRegister(a.TEE(), presented)}
	token, key, err := k.Client.Handshake(ctx, w, presented)
	if err == nil {
		KeepToken(token)
		return token, key, nil
	}
	if w.last != nil {
		if claims, unread := evidence.Unverified(a.TEE(), w.last); unread == nil {
			AddReportEntry("why no secret", fmt.Sprintf("the handshake: %v\n%s", err, compared(claims.InitData, w.register)), ReportEntryVisibilityFailureOrVerbose)
		}
	}
	return token, key, err
}

// witness sees the evidence that an attester gives.
type witness struct {
	kbs.Attester
	register string
	last     []byte
}

// Evidence implements [kbs.Attester].
func (w *witness) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	raw, err := w.Attester.Evidence(ctx, reportData)
	if err == nil {
		w.last = raw
		KeepEvidence(w.TEE(), raw, w.register)
	}
	return raw, err
}

// expectedRegister is what the register of a kind of TEE is when its guest booted
// with the init-data that is presented, in hex; "" where nobody can say.
func expectedRegister(kind string, presented *string) string {
	if presented == nil {
		return ""
	}
	d, err := initdata.Parse([]byte(*presented))
	if err != nil {
		return ""
	}
	digest, err := d.Digest()
	if err != nil {
		return ""
	}
	switch kind {
	case evidence.KindTPM, evidence.KindAzSNPVTPM, evidence.KindAzTDXVTPM:
		if digest, err = measure.PCR8(digest); err != nil {
			return ""
		}
		return hex.EncodeToString(digest)
	case evidence.KindSNP:
		return hex.EncodeToString(measure.HostData(digest))
	case evidence.KindTDX:
		return hex.EncodeToString(measure.MRConfigID(digest))
	}
	return ""
}

// Sizes are the sizes of the files of a directory, by path: what comes after is of
// the time of the spec that asks.
func Sizes(dir string) map[string]int64 {
	out := map[string]int64{}
	_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			out[name] = info.Size()
		}
		return nil
	})
	return out
}

// KeepFiles keeps what the files of a directory got since begun, of a spec that has
// failed or of all with ARTIFACTS=all, below the artefacts; name is the directory's
// there. It is for suites that have no pods.
func KeepFiles(name, from string, begun map[string]int64) {
	root := os.Getenv("ARTIFACTS_DIR")
	if root == "" || !keeps() {
		return
	}
	dir := specDir(root)
	keepSince(filepath.Join(dir, name), from, begun)
	given.write(CurrentSpecReport().FullText(), dir)
	AddReportEntry("artefacts", dir, ReportEntryVisibilityFailureOrVerbose)
}

// keepSince keeps what the files of a directory got since begun, of each the last.
func keepSince(to, from string, begun map[string]int64) {
	for name := range Sizes(from) {
		text, err := tail(name, begun[name], maxNodeLog)
		relative, outside := filepath.Rel(from, name)
		if err != nil || outside != nil || len(text) == 0 {
			continue
		}
		at := filepath.Join(to, relative)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			GinkgoWriter.Println("artefacts:", err)
			return
		}
		keep(at, text)
	}
}

// specDir is where what is kept of the running spec goes.
func specDir(root string) string {
	how := "passed"
	if CurrentSpecReport().Failed() {
		how = "failed"
	}
	return filepath.Join(root, how, slug(CurrentSpecReport().FullText()))
}
