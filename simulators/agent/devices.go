package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// A simulated guest shares the machine's kernel: what a request would change
// for the whole machine, its clock, swap, memory and processors, is answered
// as in a guest that lacks the device or the right.

const (
	memoryBlockSize = "/sys/devices/system/memory/block_size_bytes"
	memoryProbe     = "/sys/devices/system/memory/probe"
	onlineCPUs      = "/sys/devices/system/cpu/online"
	randomDevice    = "/dev/urandom"
)

// OnlineCPUMem finds all online that the guest has.
func (a *Agent) OnlineCPUMem(ctx context.Context, r *pb.OnlineCPUMemRequest) (*empty, error) {
	return gate(ctx, a, "OnlineCPUMem", r, plain(func(_ context.Context, r *pb.OnlineCPUMemRequest) error {
		if r.NbCpus == 0 {
			return nil
		}
		b, err := os.ReadFile(onlineCPUs)
		if err != nil {
			return fmt.Errorf("online cpus: %w", err)
		}
		have, err := listLength(strings.TrimSpace(string(b)))
		if err != nil {
			return fmt.Errorf("online cpus: %w", err)
		}
		if have < int(r.NbCpus) {
			return fmt.Errorf("online cpus\n\nCaused by:\n    failed to online %d CPU(s) after 100 retries", r.NbCpus)
		}
		return nil
	}))
}

// listLength counts what the kernel lists as "0-3,8".
func listLength(list string) (n int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, errFirst := strconv.Atoi(from)
		last, errLast := strconv.Atoi(to)
		if err := errors.Join(errFirst, errLast); err != nil || last < first {
			return 0, fmt.Errorf("list %q: %q is no range", list, part)
		}
		n += last - first + 1
	}
	return n, nil
}

// ReseedRandomDev mixes data into the kernel's generator and has it start
// anew (Kata src/agent/src/random.rs). Kata's agent also credits the data as
// entropy; here it comes from whoever calls, and the generator is the
// machine's.
func (a *Agent) ReseedRandomDev(ctx context.Context, r *pb.ReseedRandomDevRequest) (*empty, error) {
	return gate(ctx, a, "ReseedRandomDev", r, plain(func(_ context.Context, r *pb.ReseedRandomDevRequest) error {
		f, err := os.OpenFile(randomDevice, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(r.Data); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
			return errors.New(errnoText(errno))
		}
		return nil
	}))
}

// storageHandlers are the drivers that Kata's agent announces, whether the guest has such devices or not
// (src/agent/src/storage/mod.rs STORAGE_HANDLERS, on machines other than s390x).
var storageHandlers = []string{"blk", "mmioblk", "scsi", "nvdimm", "ephemeral", "local", "overlayfs", "virtio-fs", "watchable-bind", "image_guest_pull", "erofs.multi-layer"}

// GetGuestDetails implements grpc.AgentService.
func (a *Agent) GetGuestDetails(ctx context.Context, r *pb.GuestDetailsRequest) (*pb.GuestDetailsResponse, error) {
	return gate(ctx, a, "GetGuestDetails", r, func(_ context.Context, r *pb.GuestDetailsRequest) (*pb.GuestDetailsResponse, error) {
		answer := &pb.GuestDetailsResponse{AgentDetails: &pb.AgentDetails{
			Version: Version, InitDaemon: os.Getpid() == 1, StorageHandlers: storageHandlers, ExtraFeatures: []string{"agent-policy"},
		}}
		if !r.MemBlockSize {
			return answer, nil
		}
		b, err := os.ReadFile(memoryBlockSize)
		if errors.Is(err, os.ErrNotExist) {
			return answer, nil
		}
		if err != nil {
			return nil, internal(err)
		}
		if answer.MemBlockSizeBytes, err = strconv.ParseUint(strings.TrimSpace(string(b)), 16, 64); err != nil {
			return nil, status.Error(codes.Internal, "Invalid block size")
		}
		return answer, nil
	})
}

// MemHotplugByProbe finds no probe file.
func (a *Agent) MemHotplugByProbe(ctx context.Context, r *pb.MemHotplugByProbeRequest) (*empty, error) {
	return gate(ctx, a, "MemHotplugByProbe", r, plain(func(_ context.Context, r *pb.MemHotplugByProbeRequest) error {
		if len(r.MemHotplugProbeAddr) == 0 {
			return nil
		}
		return errors.New(ioText(unix.ENOENT))
	}))
}

// SetGuestDateTime may not set the clock.
func (a *Agent) SetGuestDateTime(ctx context.Context, r *pb.SetGuestDateTimeRequest) (*empty, error) {
	return gate(ctx, a, "SetGuestDateTime", r, plain(func(context.Context, *pb.SetGuestDateTimeRequest) error {
		return errors.New(errnoText(unix.EPERM))
	}))
}

// AddSwap finds no device.
func (a *Agent) AddSwap(ctx context.Context, r *pb.AddSwapRequest) (*empty, error) {
	return gate(ctx, a, "AddSwap", r, plain(func(_ context.Context, r *pb.AddSwapRequest) error {
		if len(r.PCIPath) == 0 {
			return errors.New("PCI path must have at least one element")
		}
		return fmt.Errorf("no block device at PCI path %x: this guest has no PCI bus", r.PCIPath)
	}))
}

// AddSwapPath may not swap.
func (a *Agent) AddSwapPath(ctx context.Context, r *pb.AddSwapPathRequest) (*empty, error) {
	return gate(ctx, a, "AddSwapPath", r, plain(func(_ context.Context, r *pb.AddSwapPathRequest) error {
		errno := unix.EPERM
		if _, err := os.Stat(r.Path); err != nil {
			errno = unix.ENOENT
		}
		return errors.New("libc::swapon get error " + ioText(errno))
	}))
}

// errMemAgent is the answer of an agent without mem-agent, its default.
var errMemAgent = status.Error(codes.Internal, "mem-agent is disabled")

// MemAgentMemcgSet implements grpc.AgentService.
func (a *Agent) MemAgentMemcgSet(ctx context.Context, r *pb.MemAgentMemcgConfig) (*empty, error) {
	return gate(ctx, a, "MemAgentMemcgSet", r, plain(func(context.Context, *pb.MemAgentMemcgConfig) error { return errMemAgent }))
}

// MemAgentCompactSet implements grpc.AgentService.
func (a *Agent) MemAgentCompactSet(ctx context.Context, r *pb.MemAgentCompactConfig) (*empty, error) {
	return gate(ctx, a, "MemAgentCompactSet", r, plain(func(context.Context, *pb.MemAgentCompactConfig) error { return errMemAgent }))
}
