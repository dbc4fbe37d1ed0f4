// Package podvm is a node's pod VM daemon: it serves Kata's remote-hypervisor protocol and answers each CreateVM and
// StartVM with a guest made of namespaces where a cloud would make a confidential VM.
//
// It must not know containers, policies or what a guest does after its boot, and it never looks into init-data: it hands
// it over, as hardware would.
package podvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/cgroup"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/config"
)

// Version is what the Version call answers. Kata's shim never asks.
const Version = "0.1.0"

// Service makes VMs of all classes.
type Service struct {
	config      config.Config
	log         *slog.Logger
	spawner     *spawner
	classes     []*class
	hierarchies []string
	lock        *os.File

	mu     sync.Mutex
	vms    map[string]*vm
	closed bool
}

// New takes the state directory over, clears what an earlier daemon left there and in the cgroups, and starts making
// TEEs. End it with Close.
func New(c config.Config, log *slog.Logger) (*Service, error) {
	s := &Service{config: c, log: log, spawner: newSpawner(), vms: map[string]*vm{}}
	var err error
	if s.lock, err = takeStateDir(c.StateDir); err != nil {
		return nil, err
	}
	if s.hierarchies, err = cgroup.Hierarchies(); err == nil {
		err = s.clearLeftovers()
	}
	if err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	for i := range c.Classes {
		s.classes = append(s.classes, s.newClass(i))
	}
	return s, nil
}

// createVM prepares a guest: its directories, its init-data image, its TEE.
func (s *Service) createVM(ctx context.Context, class *class, request *hypervisorpb.CreateVMRequest) (*hypervisorpb.CreateVMResponse, error) {
	start := time.Now()
	id := request.GetId()
	v, err := s.reserve(class, request)
	if err != nil {
		return nil, s.failed("CreateVM", id, err)
	}
	if err := v.create(ctx, request.GetAnnotations()[annotationInitData]); err != nil {
		if undone := s.remove(ctx, v); undone != nil {
			err = fmt.Errorf("%w; clean-up: %w", err, undone)
		}
		return nil, s.failed("CreateVM", id, err)
	}
	s.log.Info("VM created", "id", id, "tee", class.TEE, "netns", v.netns, "duration", time.Since(start))
	return &hypervisorpb.CreateVMResponse{AgentSocketPath: v.agentSocket()}, nil
}

// reserve checks a request and enters its VM into the table.
func (s *Service) reserve(class *class, request *hypervisorpb.CreateVMRequest) (*vm, error) {
	v, err := newVM(s, class, request)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the pod VM daemon is stopping")
	}
	if _, ok := s.vms[v.id]; ok {
		return nil, fmt.Errorf("VM %s exists already", v.id)
	}
	s.vms[v.id] = v
	return v, nil
}

// StartVM boots a guest. It returns when the guest's agent takes connections, or with the cause of the failed boot in
// the guest's words.
func (s *Service) StartVM(ctx context.Context, request *hypervisorpb.StartVMRequest) (*hypervisorpb.StartVMResponse, error) {
	start := time.Now()
	id := request.GetId()
	s.mu.Lock()
	v := s.vms[id]
	s.mu.Unlock()
	if v == nil {
		return nil, s.failed("StartVM", id, fmt.Errorf("VM %q does not exist", id))
	}
	if err := v.boot(ctx); err != nil {
		return nil, s.failed("StartVM", id, err)
	}
	s.log.Info("VM started", "id", id, "duration", time.Since(start))
	return &hypervisorpb.StartVMResponse{}, nil
}

// StopVM ends a guest and removes all of it but its logs. A VM that is not there is stopped already.
func (s *Service) StopVM(ctx context.Context, request *hypervisorpb.StopVMRequest) (*hypervisorpb.StopVMResponse, error) {
	start := time.Now()
	id := request.GetId()
	s.mu.Lock()
	v := s.vms[id]
	s.mu.Unlock()
	if v == nil {
		return &hypervisorpb.StopVMResponse{}, nil
	}
	if err := s.remove(ctx, v); err != nil {
		return nil, s.failed("StopVM", id, err)
	}
	s.log.Info("VM stopped", "id", id, "duration", time.Since(start))
	return &hypervisorpb.StopVMResponse{}, nil
}

// Version answers the protocol's version call.
func (s *Service) Version(context.Context, *hypervisorpb.VersionRequest) (*hypervisorpb.VersionResponse, error) {
	return &hypervisorpb.VersionResponse{Version: Version}, nil
}

// remove stops a VM and forgets it. A VM that could not be removed as a whole stays known, for another StopVM.
func (s *Service) remove(ctx context.Context, v *vm) error {
	if err := v.stop(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vms[v.id] == v {
		delete(s.vms, v.id)
	}
	return nil
}

// failed logs an error and flattens it: ttrpc would make codes of its own of some errors inside it, and callers of this
// protocol get Unknown with words (as cloud-api-adaptor answers).
func (s *Service) failed(call, id string, err error) error {
	s.log.Error(call+" failed", "id", id, "error", err)
	return errors.New(err.Error())
}

// Close stops all VMs, and ends and removes everything but logs.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	vms := slices.Collect(maps.Values(s.vms))
	s.mu.Unlock()
	var group errgroup.Group
	for _, v := range vms {
		group.Go(func() error { return s.remove(ctx, v) })
	}
	err := group.Wait()
	for _, class := range s.classes {
		err = errors.Join(err, class.tees.Close())
	}
	err = errors.Join(err, os.RemoveAll(s.teeSockets()), os.RemoveAll(s.teeLogs()))
	cgroup.RemoveEmpty(s.hierarchies, s.config.CgroupParent)
	return errors.Join(err, releaseStateDir(s.config.StateDir, s.lock))
}
