package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// dataLink is the symbolic link in a projected volume whose replacement puts a new version in force.
const dataLink = "..data"

// watch is a copied volume that has to be copied again when it changes.
type watch struct {
	source  string
	guest   string
	version string // where dataLink led before the copy was made
}

func volumeVersion(source string) string {
	target, _ := os.Readlink(filepath.Join(source, dataLink))
	return target
}

// keepCopied copies a volume into the guest again whenever the kubelet has changed it, until the pod ends. Nothing is
// removed from the guest, as in Kata.
func (c *Container) keepCopied(w watch) {
	logger := log.L.WithField("volume", w.source)
	events, err := watchDirectory(w.source)
	if err != nil {
		logger.WithError(err).Error("changes of the volume will not reach the guest")
		return
	}
	go func() {
		<-c.sandbox.stopped
		events.Close() // ends the reading below
	}()
	changed := volumeVersion(w.source) != w.version
	buffer := make([]byte, 16<<10)
	for {
		if changed {
			if err := c.sandbox.agent.copyTree(context.Background(), w.source, w.guest); err != nil {
				logger.WithError(err).Error("a change of the volume did not reach the guest")
			}
		}
		n, err := events.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				logger.WithError(err).Error("changes of the volume will no longer reach the guest")
			}
			return
		}
		changed = newVersion(buffer[:n])
	}
}

// newVersion says whether one of the inotify events puts something in force: a new version, or a new key's link.
// The kubelet's preparations have names with two dots in front.
func newVersion(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		length := int(binary.NativeEndian.Uint32(events[12:16])) // of the name, padded with zeros
		events = events[unix.SizeofInotifyEvent:]
		if length > len(events) {
			return false
		}
		name := string(bytes.TrimRight(events[:length], "\x00"))
		if name == dataLink || (name != "" && !strings.HasPrefix(name, "..")) {
			return true
		}
		events = events[length:]
	}
	return false
}

// watchDirectory reports the names that appear in a directory. Closing what it returns ends a pending read.
func watchDirectory(dir string) (*os.File, error) {
	descriptor, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	events := os.NewFile(uintptr(descriptor), "inotify")
	if _, err := unix.InotifyAddWatch(descriptor, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		events.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return events, nil
}
