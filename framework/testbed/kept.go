package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// HandleVariable names, to the suites of a run, the file that describes its
// testbed.
const HandleVariable = "COCO_E2E_TESTBED"

func readHandleFile(path string) (*Handle, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var h Handle
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("%s: %w; remove the cluster with `make down`", path, err)
	}
	return &h, nil
}

// readHandle reads the handle that o's cluster left, nil if there is none.
func readHandle(o Options) (*Handle, error) {
	h, err := readHandleFile(o.HandlePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return h, err
}

// OfRun returns the testbed of the run that this process is a part of, or nil
// when nobody told it of one.
func OfRun() (*Testbed, error) {
	path := os.Getenv(HandleVariable)
	if path == "" {
		return nil, nil
	}
	h, err := readHandleFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", HandleVariable, err)
	}
	return Open(*h)
}

// Found returns the testbed that an earlier run kept under o's name, whatever it
// is, or nil.
func Found(o Options) (*Testbed, error) {
	h, err := readHandle(o)
	if h == nil || err != nil {
		return nil, err
	}
	return Open(*h)
}

// Kept returns the testbed that an earlier run kept, or nil. One that is not what
// o asks for is an error; on a cluster that was there what it made is removed
// instead, since making it anew takes seconds.
func Kept(ctx context.Context, o Options) (*Testbed, error) {
	if o.Provider == Existing {
		if err := o.alone(); err != nil {
			return nil, err
		}
	}
	h, err := readHandle(o)
	if h == nil || err != nil {
		return nil, err
	}
	if o.Provider != "" && h.Provider != o.Provider {
		return nil, fmt.Errorf("the cluster %s that an earlier run kept is a %s one, and CLUSTER asks for %s: remove it with `make down`", h.Name, h.Provider, o.Provider)
	}
	other := h.differs(o)
	switch {
	case other == "":
		return Open(*h)
	case h.Provider != Existing:
		return nil, fmt.Errorf("the cluster %s that an earlier run kept %s: remove it with `make down`", h.Name, other)
	}
	return nil, o.Progress.Do(fmt.Sprintf("cluster %s: what an earlier run left %s; remove it", h.Name, other), func() error {
		return errors.Join(restoreKBS(ctx, h), downExisting(ctx, *h))
	})
}

// differs says in what the testbed is not what o asks for; "" is in nothing.
func (h *Handle) differs(o Options) string {
	switch {
	case !h.Complete:
		return "did not come up"
	case h.ExternalKBS.Chart != "":
		return "has a chart's KBS, which was reached for as long as that run lasted"
	}
	asked := o.asked()
	if o.Nodes == 0 {
		// Whatever it has.
		asked["NODES"] = h.Asked["NODES"]
	}
	var names []string
	for name, value := range asked {
		if h.Asked[name] != value {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "was made with another " + strings.Join(names, " and another ")
}

// asked are digests of what decides what a testbed is, by variable: a token is
// not kept for this.
func (o Options) asked() map[string]string {
	values := map[string]string{
		"KBS_URL": o.KBS.URL, "KBS_ADMIN_URL": o.KBS.AdminURL, "KBS_ADMIN_TOKEN": o.KBS.AdminToken, "KBS_CERT": o.KBS.CA,
		"KBS_RESOURCE_POLICY": o.KBS.ResourcePolicy,
		"KBS_CHART":           o.KBS.Chart, "KBS_VALUES": o.KBS.ChartValues, "WORKLOAD_IMAGE": o.Workload,
	}
	if o.Provider == Existing {
		// The file's content too: a path can come to name another cluster.
		content, _ := os.ReadFile(o.Existing.Kubeconfig)
		values["KUBECONFIG"] = o.Existing.Kubeconfig + "\x00" + string(content)
		values["RUNTIME_CLASS"] = fmt.Sprint(o.Existing.Classes)
		values["TEST_ROOTS"] = o.Existing.TestRoots
		values["UNLISTED_IMAGE"], values["PROBE_IMAGE"] = os.Getenv("UNLISTED_IMAGE"), os.Getenv("PROBE_IMAGE")
	} else {
		values["SHIM"], values["KATA_SHIM"], values["KATA_CONFIG"] = o.Shim.Name(), o.Shim.Kata, o.Shim.KataConfig
		values["NODES"] = strconv.Itoa(max(1, o.Nodes))
	}
	for name, value := range values {
		if value != "" {
			sum := sha256.Sum256([]byte(value))
			values[name] = hex.EncodeToString(sum[:16])
		}
	}
	return values
}

// busy are the locks of this process, which go with it.
var busy = map[string]*os.File{}

// alone sees to it that one run at a time has a name on clusters that are there:
// a second one would take the first one's testbed for what a killed run left.
func (o Options) alone() error {
	path := filepath.Join(o.Cache, "locks", o.Name)
	if busy[path] != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return fmt.Errorf("another run called %s is going on (%s is locked: %w): give this one a CLUSTER_NAME of its own", o.Name, path, err)
	}
	busy[path] = f
	return nil
}
