// Command attestation-agent is the guest's attestation-agent: it measures init-data, then serves evidence and tokens.
//
//	attestation-agent [--attestation_sock unix:///PATH] [-c aa.toml] [--initdata-toml PATH | --initdata-digest BASE64]
//
// Its socket appears only after the init-data has been measured; a failure to measure ends it.
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/coco-e2e/coco-e2e/simulators/guest/aa"
	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/program"
)

type options struct {
	socket, config, initData, initDataDigest string
}

func main() {
	var options options
	flag.StringVar(&options.socket, "attestation_sock", channel.AttestationAgent, "socket to serve on")
	flag.StringVar(&options.config, "config-file", "", "aa.toml")
	flag.StringVar(&options.config, "c", "", "short for --config-file")
	flag.StringVar(&options.initData, "initdata-toml", "", "init-data document to measure and to send to the KBS")
	flag.StringVar(&options.initDataDigest, "initdata-digest", "", "init-data digest to measure, standard base64; --initdata-toml wins")
	flag.Parse()
	program.Main("attestation-agent", func(ctx context.Context, log *slog.Logger) error {
		if flag.NArg() > 0 {
			return fmt.Errorf("unexpected argument %q", flag.Arg(0))
		}
		return run(ctx, log, options)
	})
}

func run(ctx context.Context, log *slog.Logger, options options) error {
	config, err := aa.LoadConfig(options.config, os.Getenv("AA_KBC_PARAMS"))
	if err != nil {
		return err
	}
	initData, err := aa.LoadInitData(options.initData, options.initDataDigest)
	if err != nil {
		return err
	}
	attester, err := aa.Detect(os.Getenv)
	switch {
	case errors.Is(err, aa.ErrNoTEE):
		log.Warn("evidence and tokens will fail", "error", err.Error())
	case err != nil:
		return err
	default:
		log.Info("TEE found", "tee", attester.Tee())
	}
	if err := initData.Bind(ctx, attester); err != nil {
		return err
	}
	if initData.Digest != nil {
		log.Info("init-data bound", "digest", hex.EncodeToString(initData.Digest))
	}
	service := &aa.Service{Config: config, Attester: attester, InitData: initData, Log: log}
	if err := openEventLog(service); err != nil {
		return err
	}
	listener, err := channel.Listen(options.socket)
	if err != nil {
		return err
	}
	log.Info("serving", "socket", options.socket)
	return channel.Serve(ctx, listener, service.Register)
}

// openEventLog begins the event log where one is asked for and the TEE has registers for it.
func openEventLog(service *aa.Service) error {
	pcr, enabled, err := service.Config.EventPCR(os.Getenv("COCO_EVENTLOG"))
	if err != nil || !enabled {
		return err
	}
	service.EventsEnabled = true
	extender, ok := service.Attester.(aa.Extender)
	if !ok {
		service.Log.Warn("no event log: the TEE has no runtime registers")
		return nil
	}
	if service.Events, err = aa.OpenEventLog(aa.EventLogPath, pcr, extender, service.Log); err != nil {
		return err
	}
	if tdx, ok := service.Attester.(*aa.TDX); ok {
		tdx.EventLog = aa.EventLogPath
	}
	service.Log.Info("event log begun", "pcr", pcr, "path", aa.EventLogPath)
	return nil
}
