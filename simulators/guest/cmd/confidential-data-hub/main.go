// Command confidential-data-hub is the guest's data hub: it serves secrets of the KBS and pulls images.
//
//	confidential-data-hub [-c cdh.toml] [--aa_addr unix:///PATH]
//
// Environment: COCO_REGISTRY_MIRROR=http://HOST:PORT, a registry to ask first for every image.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/coco-e2e/coco-e2e/simulators/guest/cdh"
	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/image"
	"github.com/coco-e2e/coco-e2e/simulators/guest/program"
)

func main() {
	var config, agent string
	flag.StringVar(&config, "config", "", "cdh.toml")
	flag.StringVar(&config, "c", "", "short for --config")
	flag.StringVar(&agent, "aa_addr", channel.AttestationAgent, "socket of the attestation-agent")
	flag.Parse()
	program.Main("confidential-data-hub", func(ctx context.Context, log *slog.Logger) error {
		if flag.NArg() > 0 {
			return fmt.Errorf("unexpected argument %q", flag.Arg(0))
		}
		return run(ctx, log, config, agent)
	})
}

func run(ctx context.Context, log *slog.Logger, configPath, agent string) error {
	config, err := cdh.LoadConfig(configPath, os.Getenv("AA_KBC_PARAMS"))
	if err != nil {
		return err
	}
	puller, err := image.NewPuller(os.Getenv("COCO_REGISTRY_MIRROR"), log)
	if err != nil {
		return err
	}
	client := &channel.Client{Peer: "AA", Address: agent}
	defer func() { _ = client.Close() }()
	service := &cdh.Service{Resources: cdh.NewResources(config.KBC, client, log), Images: puller, Agent: client, SkipVerification: config.SkipSealedSecretVerification, Log: log}
	if err := service.FetchCredentials(ctx, config.Credentials); err != nil {
		return err
	}
	listener, err := channel.Listen(config.Socket)
	if err != nil {
		return err
	}
	log.Info("serving", "socket", config.Socket)
	return channel.Serve(ctx, listener, service.Register)
}
