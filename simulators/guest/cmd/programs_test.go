// Package cmd tests the guest's programs as processes: how they start, fail and end, and what is linked into them.
package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/tee"
	"github.com/coco-e2e/coco-e2e/simulators/tee/stream"
)

var programs = []string{"attestation-agent", "confidential-data-hub", "api-server-rest"}

// bin is where TestMain builds the programs.
var bin string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "guest"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(bin) }()
	arguments := []string{"build", "-ldflags", "-s -w", "-o", bin + "/"}
	for _, program := range programs {
		arguments = append(arguments, "./"+program)
	}
	command := exec.Command("go", arguments...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %s\n", err, output)
		return 1
	}
	return m.Run()
}

// process is a running program.
type process struct {
	command *exec.Cmd
	done    chan struct{} // closed when it has ended
	err     error         // of waiting, once it has ended
	mutex   sync.Mutex
	lines   []string // of standard error
}

func run(t *testing.T, environment []string, program string, arguments ...string) *process {
	t.Helper()
	p := &process{command: exec.Command(filepath.Join(bin, program), arguments...), done: make(chan struct{})}
	p.command.Env = append(os.Environ(), environment...)
	stderr, err := p.command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		scanner := bufio.NewScanner(stderr)
		for scanner.Scan() {
			p.mutex.Lock()
			p.lines = append(p.lines, scanner.Text())
			p.mutex.Unlock()
		}
		p.err = p.command.Wait()
	}()
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s:\n%s", program, strings.Join(p.lines, "\n"))
		}
	})
	return p
}

// last is the last line of standard error of a program that has ended.
func (p *process) last() string {
	<-p.done
	if len(p.lines) == 0 {
		return ""
	}
	return p.lines[len(p.lines)-1]
}

// await waits until a name exists, and stops when the program ends.
func (p *process) await(t *testing.T, path string) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-p.done:
			t.Fatalf("ended before %s existed: %s", path, p.last())
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-ticker.C:
		}
	}
}

// terminate sends SIGTERM and expects exit code 0.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if <-p.done; p.err != nil {
		t.Errorf("after SIGTERM: %v", p.err)
	}
}

// powerOn serves a fresh TPM; one at a time.
func powerOn(t *testing.T, directory string) (device string) {
	t.Helper()
	machine, err := tee.PowerOn()
	if err != nil {
		t.Fatal(err)
	}
	device = filepath.Join(directory, "tpm0")
	listener, err := stream.Listen(device)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := &stream.Server{Execute: machine.Execute, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, machine.Close()); err != nil {
			t.Error(err)
		}
	})
	return device
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func get(t *testing.T, address string) (status int, body string) {
	t.Helper()
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(raw)
}

// freePort is an address that nothing listens on at this moment.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

const document = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n"

// PCR 8 after document: printf of it | openssl dgst -sha256 -binary, after 32 zero bytes, | openssl dgst -sha256.
const documentPCR8 = "1ae80ea019f008c20d5f6f3491ab06281df9de044d25fe37bc3f3d59c5671255"

// TestGuest starts the three programs in kata-agent's order and asks as a container would.
func TestGuest(t *testing.T) {
	directory := t.TempDir()
	device := powerOn(t, directory)
	kbs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/kbs/v0/auth":
			_, _ = io.WriteString(w, `{"nonce":"bm9uY2U=","extra-params":""}`)
		case "/kbs/v0/attest":
			_, _ = io.WriteString(w, `{"token":"a.b.c"}`)
		default:
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"Access denied by policy"}`)
		}
	}))
	defer kbs.Close()
	aaSocket, cdhSocket := filepath.Join(directory, "aa", "aa.sock"), filepath.Join(directory, "cdh.sock")

	start := time.Now()
	aa := run(t, []string{"AA_TPM_DEVICE=" + device}, "attestation-agent", "--attestation_sock", "unix://"+aaSocket,
		"--initdata-toml", write(t, filepath.Join(directory, "initdata.toml"), document),
		"-c", write(t, filepath.Join(directory, "aa.toml"), "[token_configs.kbs]\nurl = '"+kbs.URL+"'\n"))
	aa.await(t, aaSocket)
	t.Logf("attestation-agent: %v to its socket", time.Since(start))
	start = time.Now()
	cdh := run(t, nil, "confidential-data-hub", "--aa_addr", "unix://"+aaSocket,
		"-c", write(t, filepath.Join(directory, "cdh.toml"), "socket = 'unix://"+cdhSocket+"'\n[kbc]\nname = 'cc_kbc'\nurl = '"+kbs.URL+"'\n"))
	cdh.await(t, cdhSocket)
	t.Logf("confidential-data-hub: %v to its socket", time.Since(start))
	address := freePort(t)
	rest := run(t, nil, "api-server-rest", "--bind", address, "--features", "all", "--cdh_addr", "unix://"+cdhSocket, "--aa_addr", "unix://"+aaSocket)
	rest.awaitTCP(t, address)

	status, body := get(t, "http://"+address+"/aa/evidence?runtime_data=test")
	var evidence struct {
		Quote struct {
			PCRs []string `json:"pcrs"`
		} `json:"tpm_quote"`
	}
	if err := json.Unmarshal([]byte(body), &evidence); status != 200 || err != nil || len(evidence.Quote.PCRs) != 24 || evidence.Quote.PCRs[8] != documentPCR8 {
		t.Errorf("evidence: %d %s", status, body)
	}
	if status, body := get(t, "http://"+address+"/aa/token?token_type=kbs"); status != 200 || !strings.HasPrefix(body, `{"token":"a.b.c","tee_keypair":"-----BEGIN PRIVATE KEY-----\n`) {
		t.Errorf("token: %d, %d bytes", status, len(body))
	}
	if status, body := get(t, "http://"+address+"/cdh/resource/default/secret/1"); status != 500 || body != "ttrpc request error" {
		t.Errorf("resource: %d %s", status, body)
	}
	for _, process := range []*process{rest, cdh, aa} {
		process.terminate(t)
	}
	for _, socket := range []string{aaSocket, cdhSocket} {
		if _, err := os.Stat(socket); err == nil {
			t.Errorf("%s left", socket)
		}
	}
	if got := strings.Join(cdh.lines, "\n"); strings.Count(got, "PolicyDeny") != 3 {
		t.Errorf("log %s", got)
	}
}

func (p *process) awaitTCP(t *testing.T, address string) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		if connection, err := net.Dial("tcp", address); err == nil {
			_ = connection.Close()
			return
		}
		select {
		case <-p.done:
			t.Fatalf("ended: %s", p.last())
		case <-ticker.C:
		}
	}
}

// TestFailedStarts expects exit code 1, the cause on the last line, and no socket.
func TestFailedStarts(t *testing.T) {
	directory := t.TempDir()
	device := powerOn(t, directory)
	file := func(name, content string) string { return write(t, filepath.Join(directory, name), content) }
	good := file("good.toml", document)
	socket := filepath.Join(directory, "x.sock")
	for _, test := range []struct {
		name        string
		environment string
		program     string
		arguments   []string
		want        string
	}{
		{
			"digest too long", "AA_TPM_DEVICE=" + device, "attestation-agent",
			[]string{"--initdata-toml", file("384.toml", "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n")},
			"attestation-agent: bind init-data: Failed to extend PCR for init data: Event digest length is not 32 bytes",
		},
		{
			"digest too short", "AA_TPM_DEVICE=" + device, "attestation-agent",
			[]string{"--initdata-digest", "AAAA"},
			"attestation-agent: bind init-data: Failed to extend PCR for init data: Event digest length is not 32 bytes",
		},
		{"no TPM there", "AA_TPM_DEVICE=/nonexistent", "attestation-agent", []string{"--initdata-toml", good}, "attestation-agent: TPM device of AA_TPM_DEVICE: stat /nonexistent: no such file or directory"},
		{"TPM is a file", "AA_TPM_DEVICE=" + good, "attestation-agent", []string{"--initdata-toml", good}, "Failed to extend PCR for init data: TPM device: " + good + " is neither a unix socket nor a character device"},
		{"broken init-data", "AA_TPM_DEVICE=" + device, "attestation-agent", []string{"--initdata-toml", file("broken.toml", "version = ")}, "attestation-agent: --initdata-toml " + directory + "/broken.toml: parse init-data: "},
		{"unknown algorithm", "AA_TPM_DEVICE=" + device, "attestation-agent", []string{"--initdata-toml", file("md5.toml", "algorithm = \"md5\"\n")}, "unsupported algorithm: md5, supported algorithms: sha256, sha384, sha512"},
		{"missing init-data", "AA_TPM_DEVICE=" + device, "attestation-agent", []string{"--initdata-toml", "/nonexistent"}, "attestation-agent: --initdata-toml: open /nonexistent: no such file or directory"},
		{"broken aa.toml", "AA_TPM_DEVICE=" + device, "attestation-agent", []string{"-c", file("aa.toml", "[")}, "attestation-agent: aa.toml: "},
		{"broken cdh.toml", "A=1", "confidential-data-hub", []string{"-c", file("cdh.toml", "[")}, "confidential-data-hub: cdh.toml: "},
		{"bad mirror", "COCO_REGISTRY_MIRROR=10.0.0.1:5000", "confidential-data-hub", nil, `confidential-data-hub: COCO_REGISTRY_MIRROR "10.0.0.1:5000": want http://host:port or https://host:port`},
		{"unknown feature", "A=1", "api-server-rest", []string{"--features", "both"}, `api-server-rest: --features "both": want resource, attestation or all`},
		{"bad address", "A=1", "api-server-rest", []string{"--bind", "256.0.0.1:80"}, "api-server-rest: --bind: "},
		{"argument too many", "A=1", "api-server-rest", []string{"x"}, `api-server-rest: unexpected argument "x"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			arguments := test.arguments
			if test.program == "attestation-agent" {
				arguments = append([]string{"--attestation_sock", "unix://" + socket}, arguments...)
			}
			process := run(t, []string{test.environment}, test.program, arguments...)
			if last := process.last(); !strings.Contains(last, test.want) || process.command.ProcessState.ExitCode() != 1 {
				t.Errorf("exit code %d, last line %q, want in it %q", process.command.ProcessState.ExitCode(), last, test.want)
			}
			if _, err := os.Stat(socket); err == nil {
				t.Error("the socket appeared")
			}
		})
	}
}

// TestNothingBigIsLinked keeps the guest small: these would cost memory and start time in every pod.
func TestNothingBigIsLinked(t *testing.T) {
	for _, program := range programs {
		output, err := exec.Command("go", "list", "-deps", "./"+program).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, dependency := range strings.Fields(string(output)) {
			for _, banned := range []string{"github.com/open-policy-agent/", "k8s.io/", "sigs.k8s.io/", "github.com/onsi/", "testing", "net/http/httptest"} {
				if dependency == banned || (strings.HasSuffix(banned, "/") && strings.HasPrefix(dependency, banned)) {
					t.Errorf("%s links %s", program, dependency)
				}
			}
		}
	}
}
