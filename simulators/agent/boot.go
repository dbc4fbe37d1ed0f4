package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/ttrpc"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/policy"
)

const (
	// defaultPolicy is in the guest image.
	defaultPolicy = "/etc/kata-opa/default-policy.rego"
	// policyLog is written when the agent's log level is debug (Kata
	// src/agent/policy/src/policy.rs).
	policyLog   = "/tmp/policy.jsonl"
	initDataDir = "/run/confidential-containers/initdata"
	aaSocket    = "/run/confidential-containers/attestation-agent/attestation-agent.sock"
	// launchTimeout is agent.launch_process_timeout.
	launchTimeout = 6 * time.Second
	componentLogs = "/var/log/guest"
)

// Run boots the guest and serves until DestroySandbox. Order and texts are
// the agent's (Kata src/agent/src/main.rs, start_sandbox): default policy,
// init-data, guest components (the first of which measures the init-data),
// the init-data's policy, and only then the socket. ready is told when it
// listens.
func Run(ctx context.Context, ready func()) error {
	kids, err := newChildren()
	if err != nil {
		return err
	}
	a := &Agent{
		policy: policy.New(), cgroupParent: os.Getenv("KATA_AGENT_CGROUP_PARENT"), children: kids,
		events:     newEvents(os.Getenv("COCO_EVENTLOG")),
		containers: map[string]*container{}, oom: make(chan string, oomBacklog), done: make(chan struct{}),
	}
	logFile, err := os.OpenFile(os.Getenv("KATA_AGENT_RPC_LOG"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("RPC log: %w", err)
	}
	a.log = &rpcLog{w: logFile}
	if err := loopbackUp(); err != nil {
		slog.Warn("loopback", "error", err)
	}
	if err := a.initializePolicy(ctx); err != nil {
		return fmt.Errorf("Failed to initialize agent policy: %w", err)
	}
	doc, err := readInitData("/dev")
	if err != nil {
		return err
	}
	if err := a.startComponents(ctx, doc); err != nil {
		return err
	}
	if own, brought := initDataPolicy(doc); brought {
		if err := a.policy.SetPolicy(ctx, own); err != nil {
			return fmt.Errorf("Failed to set policy from initdata: %w", err)
		}
	}
	return a.serve(ctx, ready)
}

// initializePolicy takes the guest image's policy, and begins the policy's log
// where the agent has one.
func (a *Agent) initializePolicy(ctx context.Context) error {
	if os.Getenv("KATA_AGENT_LOG") == "debug" {
		// Until the guest ends.
		f, err := os.Create(policyLog)
		if err != nil {
			return err
		}
		a.policy.LogTo(f)
	}
	text, err := os.ReadFile(defaultPolicy)
	if err != nil {
		return fmt.Errorf("Failed to read %s. %w", defaultPolicy, err)
	}
	return a.policy.Initialize(ctx, defaultPolicy, string(text))
}

func initDataPolicy(doc *initdata.InitData) (text string, brought bool) {
	if doc == nil {
		return "", false
	}
	text, brought = doc.Data[initdata.Policy]
	return text, brought
}

// readInitData finds the init-data device, writes its files, and returns the
// document; nil when there is none.
func readInitData(dev string) (*initdata.InitData, error) {
	var devices []string
	for _, pattern := range []string{"vd*", "sd*"} {
		found, err := filepath.Glob(filepath.Join(dev, pattern))
		if err != nil {
			return nil, err
		}
		devices = append(devices, found...)
	}
	for _, d := range devices {
		f, err := os.Open(d)
		if err != nil {
			return nil, err
		}
		raw, err := initdata.ReadImage(f)
		f.Close()
		if errors.Is(err, initdata.ErrNotImage) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read initdata failed: %s: %w", d, err)
		}
		doc, err := initdata.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("parse initdata failed: %w", err)
		}
		if err := doc.Validate(); err != nil {
			return nil, fmt.Errorf("parse initdata failed: %w", err)
		}
		return doc, writeInitData(doc)
	}
	return nil, nil
}

func writeInitData(doc *initdata.InitData) error {
	if err := os.MkdirAll(initDataDir, 0o755); err != nil {
		return err
	}
	files := map[string]string{"initdata.toml": string(doc.Raw)}
	for _, name := range []string{initdata.AAConfig, initdata.CDHConfig} {
		if text, ok := doc.Data[name]; ok {
			files[name] = text
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(initDataDir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startComponents starts attestation-agent, data hub and REST server, and
// waits for the first two's sockets.
func (a *Agent) startComponents(ctx context.Context, doc *initdata.InitData) error {
	has := func(name string) bool { return doc != nil && doc.Data[name] != "" }
	aa := []string{"/usr/local/bin/attestation-agent", "--attestation_sock", "unix://" + aaSocket}
	if doc != nil {
		aa = append(aa, "--initdata-toml", filepath.Join(initDataDir, "initdata.toml"))
	}
	if has(initdata.AAConfig) {
		aa = append(aa, "-c", filepath.Join(initDataDir, initdata.AAConfig))
	}
	cdh := []string{"/usr/local/bin/confidential-data-hub"}
	if has(initdata.CDHConfig) {
		cdh = append(cdh, "-c", filepath.Join(initDataDir, initdata.CDHConfig))
	}
	for _, d := range []string{filepath.Dir(aaSocket), filepath.Dir(cdhSocket)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	components := []component{
		{"aa.log", aaSocket, aa},
		{"cdh.log", cdhSocket, cdh},
		{"rest.log", "", []string{"/usr/local/bin/api-server-rest", "--features", "all"}},
	}
	// An image without them is no confidential one, and boots all the same
	// (Kata src/agent/src/main.rs, attestation_components_available).
	for _, c := range components {
		if _, err := os.Stat(c.argv[0]); err != nil {
			slog.Warn(c.argv[0] + " not found")
			slog.Warn("attestation binaries requested for launch not available")
			return nil
		}
	}
	return a.launch(ctx, components)
}

// component is a program of the guest that the agent starts.
type component struct {
	log, socket string
	argv        []string
}

func (a *Agent) launch(ctx context.Context, components []component) error {
	waits := []func() error{}
	for _, c := range components {
		log := filepath.Join(componentLogs, c.log)
		f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		exit, err := a.children.command(f, nil, c.argv...)
		f.Close()
		if err != nil {
			return fmt.Errorf("start %s: %w", c.argv[0], err)
		}
		if c.socket != "" {
			waits = append(waits, func() error { return waitFor(ctx, c.socket, log, exit) })
		}
	}
	for _, w := range waits {
		if err := w(); err != nil {
			return err
		}
	}
	return nil
}

// waitFor waits for a component's socket, and ends early when it has ended.
func waitFor(ctx context.Context, socket, log string, exit <-chan int) error {
	ctx, cancel := context.WithTimeout(ctx, launchTimeout)
	defer cancel()
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		if _, err := os.Stat(socket); err == nil {
			tick.Stop()
			return nil
		}
		select {
		case <-tick.C:
		case code := <-exit:
			return fmt.Errorf("%s ended with code %d: %s", strings.TrimSuffix(filepath.Base(log), ".log"), code, lastLine(log))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to exist timeout.", socket)
		}
	}
}

func lastLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// server answers both services on one socket.
func (a *Agent) server() (*ttrpc.Server, error) {
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	pb.RegisterAgentServiceService(server, a)
	pb.RegisterHealthService(server, health{})
	return server, nil
}

func (a *Agent) serve(ctx context.Context, ready func()) error {
	server, err := a.server()
	if err != nil {
		return err
	}
	path, ok := strings.CutPrefix(os.Getenv("KATA_AGENT_SERVER_ADDR"), "unix://")
	if !ok {
		return fmt.Errorf("KATA_AGENT_SERVER_ADDR=%q: give unix:///path", os.Getenv("KATA_AGENT_SERVER_ADDR"))
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	clients := newCallers(l)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, clients) }()
	ready()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return server.Close()
	case <-a.done:
		// The answer to DestroySandbox is still on its way, and the server does
		// not wait for it: it takes a connection for idle while it answers the
		// only request there. Whoever asked hangs up once answered.
		stop, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		clients.wait(stop)
		return server.Close()
	}
}
