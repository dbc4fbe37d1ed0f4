package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/tee"
	"github.com/coco-e2e/coco-e2e/simulators/tee/authority"
	"github.com/coco-e2e/coco-e2e/simulators/tee/message"
	"github.com/coco-e2e/coco-e2e/simulators/tee/snp"
	"github.com/coco-e2e/coco-e2e/simulators/tee/tdx"
)

// machine is hardware of one kind.
type machine struct {
	tpm      *tee.TPM // nil for kinds without one
	execute  func(command []byte) ([]byte, error)
	name     func(code uint32) string // nil: TPM commands
	metadata http.Handler             // nil for kinds whose guests ask for none
}

func (m *machine) off() error {
	if m.tpm == nil {
		return nil
	}
	return m.tpm.Close()
}

// requestNames are for the log.
var requestNames = map[uint32]string{
	message.SNPReport: "SNP_GET_EXT_REPORT", message.TDXReport: "TDX_CMD_GET_REPORT0", message.TDXQuote: "GetQuote",
	message.TDXExtend: "RTMR.EXTEND", message.TDXEventLog: "CCEL",
}

func requestName(code uint32) string {
	if name, ok := requestNames[code]; ok {
		return name
	}
	return fmt.Sprintf("%#x", code)
}

func powerOn(o options) (*machine, error) {
	digest, err := hostData(o.hostData)
	if err != nil {
		return nil, err
	}
	if o.kind == "tpm" {
		tpm, err := tee.PowerOn()
		if err != nil {
			return nil, err
		}
		return &machine{tpm: tpm, execute: tpm.Execute}, nil
	}
	build, ok := map[string]func(*authority.Authority, []byte) (*machine, error){
		"snp": newSNP, "tdx": newTDX, "az-snp-vtpm": newAzureSNP, "az-tdx-vtpm": newAzureTDX,
	}[o.kind]
	if !ok {
		return nil, fmt.Errorf("--kind %q: use tpm, az-snp-vtpm, az-tdx-vtpm, snp or tdx", o.kind)
	}
	if o.roots == "" {
		return nil, fmt.Errorf("--kind %s needs --roots: make test roots with `tee make-roots --out DIR`", o.kind)
	}
	a, err := authority.Load(o.roots)
	if err != nil {
		return nil, err
	}
	return build(a, digest)
}

func newSNP(a *authority.Authority, digest []byte) (*machine, error) {
	firmware, err := snp.Launch(a, digest)
	if err != nil {
		return nil, err
	}
	return &machine{execute: message.Serve(firmware.Handle), name: requestName}, nil
}

func newTDX(a *authority.Authority, digest []byte) (*machine, error) {
	module, err := tdx.Launch(a, digest)
	if err != nil {
		return nil, err
	}
	return &machine{execute: message.Serve(module.Handle), name: requestName}, nil
}

func newAzureSNP(a *authority.Authority, digest []byte) (*machine, error) {
	firmware, err := snp.Launch(a, digest)
	if err != nil {
		return nil, err
	}
	tpm, err := tee.PowerOnAzure(tee.Hardware{Type: 2, Report: func(data [64]byte) ([]byte, error) { return firmware.Report(data, 0) }})
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, certificate := range firmware.Chain() {
		chain = append(chain, encode(certificate.Raw)...)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /metadata/THIM/amd/certification", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]string{"vcekCert": string(encode(firmware.VCEK().Raw)), "certificateChain": string(chain)})
	})
	return &machine{tpm: tpm, execute: tpm.Execute, metadata: routes}, nil
}

func newAzureTDX(a *authority.Authority, digest []byte) (*machine, error) {
	module, err := tdx.Launch(a, digest)
	if err != nil {
		return nil, err
	}
	// The TPM's paravisor and the metadata service ask at the same time.
	var turn sync.Mutex
	tpm, err := tee.PowerOnAzure(tee.Hardware{Type: 4, Report: func(data [64]byte) ([]byte, error) {
		turn.Lock()
		defer turn.Unlock()
		return module.Report(data), nil
	}})
	if err != nil {
		return nil, err
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /acc/tdquote", func(w http.ResponseWriter, r *http.Request) {
		var request struct {
			Report string `json:"report"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&request); err != nil {
			http.Error(w, "body: want {\"report\": base64url of a TDREPORT}", http.StatusBadRequest)
			return
		}
		report, err := base64.RawURLEncoding.DecodeString(request.Report)
		if err != nil || len(report) != tdx.ReportSize {
			http.Error(w, fmt.Sprintf("report: want %d bytes in base64url", tdx.ReportSize), http.StatusBadRequest)
			return
		}
		turn.Lock()
		defer turn.Unlock()
		quote, err := module.Quote(report)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, map[string]string{"quote": base64.RawURLEncoding.EncodeToString(quote)})
	})
	return &machine{tpm: tpm, execute: tpm.Execute, metadata: routes}, nil
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

// metadataSuffix makes the metadata socket's path of the device's. On Azure the service is at http://169.254.169.254, with
// the same routes.
const metadataSuffix = ".imds"

func serveMetadata(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
