package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

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

// watcher copies a pod's volumes into the guest again whenever the kubelet has changed them, until its events are closed.
// Nothing is removed from the guest, as in Kata. A pod has one, and that one inotify instance, however many its volumes
// are: a user has 128 of them on a whole node (fs.inotify.max_user_instances).
type watcher struct {
	copyTree func(ctx context.Context, source, guest string) error
	events   *os.File

	copying sync.Mutex // one copy at a time: of two of the same volume the newer has to be the last
	mu      sync.Mutex
	volumes map[int32][]watch // by inotify's number of the directory, which containers may share
}

func newWatcher(copyTree func(ctx context.Context, source, guest string) error) (*watcher, error) {
	descriptor, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch volumes: %w", err)
	}
	w := &watcher{copyTree: copyTree, events: os.NewFile(uintptr(descriptor), "inotify"), volumes: map[int32][]watch{}}
	go w.run()
	return w, nil
}

// add watches one more volume, and copies it if it has changed since version.
func (w *watcher) add(volume watch) error {
	// The lock is held while the number is not known yet: an event may be there before.
	w.mu.Lock()
	number, err := w.inotifyAdd(volume.source)
	if err == nil {
		w.volumes[number] = append(w.volumes[number], volume)
	}
	w.mu.Unlock()
	if err != nil {
		return fmt.Errorf("watch %s: %w", volume.source, err)
	}
	if volumeVersion(volume.source) != volume.version {
		w.copy(volume)
	}
	return nil
}

func (w *watcher) inotifyAdd(dir string) (number int32, err error) {
	conn, err := w.events.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := conn.Control(func(fd uintptr) {
		var n int
		n, err = unix.InotifyAddWatch(int(fd), dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
		number = int32(n)
	})
	return number, errors.Join(controlErr, err)
}

func (w *watcher) copy(volume watch) {
	w.copying.Lock()
	defer w.copying.Unlock()
	if err := w.copyTree(context.Background(), volume.source, volume.guest); err != nil {
		log.L.WithField("volume", volume.source).WithError(err).Error("a change of the volume did not reach the guest")
	}
}

func (w *watcher) run() {
	buffer := make([]byte, 16<<10)
	for {
		n, err := w.events.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				log.L.WithError(err).Error("changes of volumes will no longer reach the guest")
			}
			return
		}
		for _, number := range newVersions(buffer[:n]) {
			w.mu.Lock()
			volumes := w.volumes[number]
			w.mu.Unlock()
			for _, volume := range volumes {
				w.copy(volume)
			}
		}
	}
}

// keepCopied has volumes copied into the guest again when they change, until the pod ends. A volume that cannot be
// watched stays as it is.
func (s *Sandbox) keepCopied(volumes []watch) {
	if len(volumes) == 0 {
		return
	}
	w, err := s.volumeWatcher()
	if err != nil {
		log.L.WithError(err).Error("changes of volumes will not reach the guest")
		return
	}
	for _, volume := range volumes {
		if err := w.add(volume); err != nil {
			log.L.WithError(err).Error("changes of the volume will not reach the guest")
		}
	}
}

// volumeWatcher is the pod's, made for the first volume that needs it.
func (s *Sandbox) volumeWatcher() (w *watcher, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watcher != nil {
		return s.watcher, nil
	}
	if s.watcher, err = newWatcher(s.agent.copyTree); err != nil {
		return nil, err
	}
	go func(w *watcher) {
		<-s.stopped
		w.events.Close() // ends a pending read
	}(s.watcher)
	return s.watcher, nil
}

// newVersions lists, once each, the directories in which one of the inotify events puts something in force: a new
// version, or a new key's link. The kubelet's preparations have names with two dots in front.
func newVersions(events []byte) (numbers []int32) {
	for len(events) >= unix.SizeofInotifyEvent {
		number := int32(binary.NativeEndian.Uint32(events))
		length := int(binary.NativeEndian.Uint32(events[12:16])) // of the name, padded with zeros
		events = events[unix.SizeofInotifyEvent:]
		if length > len(events) {
			break
		}
		name := strings.TrimRight(string(events[:length]), "\x00")
		inForce := name == dataLink || (name != "" && !strings.HasPrefix(name, ".."))
		if inForce && !slices.Contains(numbers, number) {
			numbers = append(numbers, number)
		}
		events = events[length:]
	}
	return numbers
}
