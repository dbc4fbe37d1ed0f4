// Package teepool starts simulated hardware roots of trust, each a process of its own, and keeps provisioned ones ready
// where making one takes time.
//
// It must not know what a guest is or what a TEE answers.
package teepool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
)

// ErrClosed is the answer of a pool that has been closed.
var ErrClosed = errors.New("the pool of TEEs is closed")

// Pool starts TEEs ahead of their use. Its fields must not change after the first use.
type Pool struct {
	// Program is run as PROGRAM --socket PATH --log PATH --ak-public PATH ARGS.
	Program string
	// Args are the same for all TEEs of the pool: which kind of hardware they are.
	Args []string
	// Size is how many TEEs are kept ready.
	Size int
	// SocketDir and LogDir get a TEE's socket and log until they are moved. LogDir must be on the file system of the
	// logs' final places, SocketDir on that of the sockets'. Both are made when missing and removed by Close.
	SocketDir, LogDir string
	// Spawn starts processes, in the way that makes them end with this one.
	Spawn func(argv []string, files *Files) (*os.Process, error)
	// Log is told of TEEs that fail.
	Log *slog.Logger

	mu       sync.Mutex
	next     int
	ready    []*TEE
	starting int
	waiters  []*waiter
	closed   bool
	working  sync.WaitGroup
}

// Files are the descriptors of a process to be started; a nil one is /dev/null.
type Files struct{ Stdout, Stderr *os.File }

// waiter is a Take that found nothing ready.
type waiter struct {
	got chan result
	// since is the last start before the waiter came: what hindered that one may have been put right by now.
	since int
}

type result struct {
	tee *TEE
	err error
}

// Fill starts what is missing, in the background.
func (p *Pool) Fill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill()
}

func (p *Pool) fill() {
	for !p.closed && p.starting < runtime.NumCPU() && len(p.ready)+p.starting < p.Size+len(p.waiters) {
		p.starting++
		p.next++
		number := p.next
		p.working.Go(func() {
			t, err := p.start(strconv.Itoa(number), nil)
			p.add(number, t, err)
		})
	}
}

// add takes in what a start gave.
func (p *Pool) add(number int, t *TEE, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starting--
	switch {
	case p.closed:
		if err == nil {
			t.Kill()
		}
		return
	case err == nil:
		p.give(t)
	case len(p.waiters) > 0 && p.waiters[0].since < number:
		p.waiters[0].got <- result{nil, err}
		p.waiters = p.waiters[1:]
	default:
		p.Log.Error("a TEE for the pool did not start", "error", err)
	}
	// After a failure only waiters are worth another start: for the pool alone it would only spin.
	if err == nil || len(p.waiters) > 0 {
		p.fill()
	}
}

// give hands a TEE to whoever waits longest, or keeps it ready.
func (p *Pool) give(t *TEE) {
	if len(p.waiters) > 0 {
		p.waiters[0].got <- result{t, nil}
		p.waiters = p.waiters[1:]
		return
	}
	p.ready = append(p.ready, t)
	go p.watch(t)
}

// watch drops a TEE that ends while it is in the pool.
func (p *Pool) watch(t *TEE) {
	<-t.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.ready, t); i >= 0 {
		p.ready = slices.Delete(p.ready, i, i+1)
		p.Log.Error("a TEE of the pool ended before its use", "state", t.state.String())
		t.removeFiles()
	}
}

// Take gives a ready TEE, or one that it starts. The caller ends it with Kill.
func (p *Pool) Take(ctx context.Context) (*TEE, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	if len(p.ready) > 0 {
		t := p.ready[0]
		p.ready = p.ready[1:]
		p.fill()
		p.mu.Unlock()
		return t, nil
	}
	mine := &waiter{got: make(chan result, 1), since: p.next}
	p.waiters = append(p.waiters, mine)
	p.fill()
	p.mu.Unlock()
	select {
	case r := <-mine.got:
		return r.tee, r.err
	case <-ctx.Done():
	}
	p.abandon(mine)
	return nil, fmt.Errorf("wait for a TEE: %w", context.Cause(ctx))
}

// Make starts a TEE with arguments of its own, such as what its host measured at launch. The caller ends it with Kill.
func (p *Pool) Make(args ...string) (*TEE, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	p.next++
	name := strconv.Itoa(p.next)
	p.working.Add(1)
	p.mu.Unlock()
	defer p.working.Done()
	return p.start(name, args)
}

// abandon takes back a place in the queue, and what was handed over at the last moment.
func (p *Pool) abandon(mine *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiters, mine); i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
		return
	}
	switch r := <-mine.got; {
	case r.err != nil:
	case p.closed:
		r.tee.Kill()
	default:
		p.give(r.tee)
	}
}

// Close ends the TEEs that nobody took and removes the pool's directories. It returns when they are gone.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	idle, waiters := p.ready, p.waiters
	p.ready, p.waiters = nil, nil
	p.mu.Unlock()
	for _, w := range waiters {
		w.got <- result{nil, ErrClosed}
	}
	for _, t := range idle {
		t.Kill()
	}
	p.working.Wait()
	return errors.Join(os.RemoveAll(p.SocketDir), os.RemoveAll(p.LogDir))
}

func (p *Pool) paths(name string) (socket, log string) {
	return filepath.Join(p.SocketDir, name+".sock"), filepath.Join(p.LogDir, "tee-"+name+".log")
}
