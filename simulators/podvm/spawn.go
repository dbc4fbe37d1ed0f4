package podvm

import (
	"os"
	"runtime"
	"syscall"

	"github.com/coco-e2e/coco-e2e/simulators/podvm/teepool"
)

// spawner starts processes that the kernel kills when this one ends, however it ends.
//
// The kernel's "parent" is the thread that forked, so that thread must live as long as the process: all is started on
// one thread of its own.
type spawner struct{ jobs chan func() }

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the process
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

// start starts argv with files as its descriptors from 0 on, in new namespaces as flags say.
func (s *spawner) start(path string, argv, env []string, files []*os.File, flags uintptr) (process *os.Process, err error) {
	done := make(chan struct{})
	s.jobs <- func() {
		defer close(done)
		process, err = os.StartProcess(path, argv, &os.ProcAttr{
			Dir: "/", Env: env, Files: files,
			Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: flags},
		})
	}
	<-done
	return process, err
}

// spawnTEE starts a TEE on the node's side, in podvm's own namespaces.
func (s *spawner) spawnTEE(argv []string, files *teepool.Files) (*os.Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return s.start(argv[0], argv, os.Environ(), []*os.File{null, files.Stdout, files.Stderr}, 0)
}
