package podvm

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/cgroup"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/teepool"
)

// maxSocketPath is what a unix socket's address can hold, without its final zero byte.
const maxSocketPath = 107

// vm is one guest with all that belongs to it.
type vm struct {
	service *Service
	class   *class
	id      string
	netns   string // path of the pod's network namespace; "" leaves the guest without a network
	dir     string // everything of the VM's that is not a log
	logs    string

	// stopping ends a boot that is under way.
	stopping context.Context
	cancel   context.CancelFunc

	// mu is held by create, boot and stop: they exclude each other.
	mu      sync.Mutex
	tee     *teepool.TEE
	created bool
	guest   *guest
	removed bool
}

func newVM(s *Service, class *class, request *hypervisorpb.CreateVMRequest) (*vm, error) {
	id, netns := request.GetId(), request.GetNetworkNamespacePath()
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := checkNetNS(netns); err != nil {
		return nil, err
	}
	logs, err := logName(id, request.GetAnnotations())
	if err != nil {
		return nil, err
	}
	v := &vm{
		service: s, class: class, id: id, netns: netns,
		dir: filepath.Join(s.config.StateDir, id), logs: filepath.Join(s.config.LogDir, logs),
	}
	if n := len(v.agentSocket()); n > maxSocketPath {
		return nil, fmt.Errorf("VM id %s: the agent's socket %s has %d characters, a unix socket at most %d: set a shorter state_dir",
			id, v.agentSocket(), n, maxSocketPath)
	}
	v.stopping, v.cancel = context.WithCancel(context.Background())
	return v, nil
}

// checkNetNS refuses paths that are no network namespace while there is somebody to tell.
func checkNetNS(path string) error {
	if path == "" {
		return nil
	}
	f, err := openNetNS(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func openNetNS(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("network namespace %q: not an absolute path", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		return nil, fmt.Errorf("network namespace %s: the file is not one", path)
	}
	return f, nil
}

func (v *vm) agentDir() string      { return filepath.Join(v.dir, "agent") }
func (v *vm) agentSocket() string   { return filepath.Join(v.agentDir(), "agent.sock") }
func (v *vm) teeSocket() string     { return filepath.Join(v.dir, "tee.sock") }
func (v *vm) initDataImage() string { return filepath.Join(v.dir, "initdata.img") }
func (v *vm) root() string          { return filepath.Join(v.dir, "root") }
func (v *vm) console() string       { return filepath.Join(v.logs, "console.log") }
func (v *vm) cgroup() string        { return filepath.Join(v.service.config.CgroupParent, v.id) }

// create makes what is there before the guest runs. What it leaves behind when it fails, stop removes.
func (v *vm) create(ctx context.Context, rawInitData string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, dir := range []string{v.dir, v.agentDir(), v.root()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(v.logs, 0o755); err != nil {
		return err
	}
	if rawInitData != "" {
		if err := v.writeInitData(rawInitData); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(v.stopping, cancel)()
	if err := v.takeTEE(ctx, rawInitData); err != nil {
		return err
	}
	v.created = true
	return nil
}

// takeTEE gives the VM its root of trust. Hardware that measures init-data at launch is told its digest here, before
// any of the guest runs.
func (v *vm) takeTEE(ctx context.Context, rawInitData string) (err error) {
	switch {
	case v.class.None():
		return nil
	case v.class.Measured():
		var args []string
		if rawInitData != "" {
			digest, err := hostDigest(rawInitData)
			if err != nil {
				return err
			}
			args = []string{"--host-data", hex.EncodeToString(digest)}
		}
		v.tee, err = v.class.tees.Make(args...)
	default:
		v.tee, err = v.class.tees.Take(ctx)
	}
	if err != nil {
		return err
	}
	return v.tee.Move(v.teeSocket(), filepath.Join(v.logs, "tee.log"))
}

// hostDigest is what a host gives hardware at launch: the digest that the init-data names, whole.
func hostDigest(raw string) ([]byte, error) {
	document, err := initdata.Parse([]byte(raw))
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", annotationInitData, err)
	}
	digest, err := document.Digest()
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", annotationInitData, err)
	}
	return digest, nil
}

// writeInitData makes the block device by which Kata hands init-data over (src/agent/src/initdata.rs reads it). A shim
// that passes the pod's annotation on as it is has forgotten its part: the guest would find no TOML.
func (v *vm) writeInitData(raw string) error {
	if _, err := initdata.DecodeAnnotation(raw); err == nil {
		return fmt.Errorf("annotation %s is base64 of gzip: the shim has to decode it, CreateVM takes the TOML itself", annotationInitData)
	}
	f, err := os.OpenFile(v.initDataImage(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(initdata.WriteImage(f, []byte(raw)), f.Close()); err != nil {
		return fmt.Errorf("annotation %s: %w", annotationInitData, err)
	}
	return nil
}

// boot starts the guest and waits for its agent.
func (v *vm) boot(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.removed:
		return fmt.Errorf("VM %s has been stopped", v.id)
	case !v.created:
		return fmt.Errorf("VM %s was not created as a whole", v.id)
	case v.guest != nil:
		return fmt.Errorf("VM %s was started already", v.id)
	}
	g, err := v.launch()
	if err != nil {
		return err
	}
	v.guest = g
	ctx, cancel := context.WithTimeoutCause(ctx, v.service.config.BootTimeout, errBootTimeout)
	defer cancel()
	defer context.AfterFunc(v.stopping, cancel)()
	if err := g.awaitReady(ctx); err != nil {
		g.kill()
		return v.bootError(err)
	}
	return nil
}

var (
	errBootTimeout = errors.New("timed out")
	errGuestDied   = errors.New("the guest died")
)

// bootError puts why a boot failed into words for the pod's event.
func (v *vm) bootError(err error) error {
	var said saidError
	switch {
	case errors.As(err, &said):
		return fmt.Errorf("guest boot failed: %s", string(said))
	case v.stopping.Err() != nil:
		return fmt.Errorf("guest boot failed: VM %s was stopped meanwhile", v.id)
	case errors.Is(err, errBootTimeout):
		err = fmt.Errorf("the agent was not ready after %s", v.service.config.BootTimeout)
	case errors.Is(err, errGuestDied):
		err = fmt.Errorf("the guest died before the agent was ready (%s)", v.guest.state)
	}
	return fmt.Errorf("guest boot failed: %w; last line of its console: %s", err, lastLine(v.console()))
}

// stop ends the VM and removes it; an error leaves it to be stopped again.
func (v *vm) stop(ctx context.Context) error {
	v.cancel()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.removed {
		return nil
	}
	h := v.service.hierarchies
	if v.guest != nil {
		if err := cgroup.Thaw(h, v.cgroup()); err != nil {
			return fmt.Errorf("VM %s: %w", v.id, err)
		}
		v.guest.kill()
	}
	if v.tee != nil {
		v.tee.Kill()
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := errors.Join(cgroup.Remove(ctx, h, v.cgroup()), os.RemoveAll(v.dir)); err != nil {
		return fmt.Errorf("VM %s: %w", v.id, err)
	}
	v.removed = true
	return nil
}

// lastLine is the last line of a guest's console, short enough for an event.
func lastLine(path string) string {
	const most = 500
	f, err := os.Open(path)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	defer f.Close()
	buffer := make([]byte, 4096)
	info, err := f.Stat()
	if err != nil {
		return "(" + err.Error() + ")"
	}
	n, _ := f.ReadAt(buffer, max(0, info.Size()-int64(len(buffer)))) // a short read has what there is
	text := strings.TrimSpace(strings.ToValidUTF8(string(buffer[:n]), "?"))
	if text == "" {
		return "(nothing)"
	}
	line := text[strings.LastIndexByte(text, '\n')+1:]
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	return line
}
