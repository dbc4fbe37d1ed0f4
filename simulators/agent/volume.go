package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// GetVolumeStats says how full the file system at a path of the guest is.
func (a *Agent) GetVolumeStats(ctx context.Context, r *pb.VolumeStatsRequest) (*pb.VolumeStatsResponse, error) {
	return gate(ctx, a, "GetVolumeStats", r, func(_ context.Context, r *pb.VolumeStatsRequest) (*pb.VolumeStatsResponse, error) {
		// Only what can be opened, without waiting for the other end of a pipe.
		fd, err := unix.Open(r.VolumeGuestPath, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, ioStatus(err)
		}
		defer unix.Close(fd)
		var s unix.Statfs_t
		if err := unix.Fstatfs(fd, &s); err != nil {
			return nil, internal(err)
		}
		size := uint64(s.Bsize)
		return &pb.VolumeStatsResponse{
			Usage: []*pb.VolumeUsage{
				{Available: s.Bfree * size, Total: s.Blocks * size, Used: (s.Blocks - s.Bfree) * size, Unit: pb.VolumeUsage_BYTES},
				{Available: s.Ffree, Total: s.Files, Used: s.Files - s.Ffree, Unit: pb.VolumeUsage_INODES},
			},
			VolumeCondition: &pb.VolumeCondition{Message: "OK"},
		}, nil
	})
}

// ResizeVolume is not in Kata's agent either.
func (a *Agent) ResizeVolume(ctx context.Context, r *pb.ResizeVolumeRequest) (*empty, error) {
	return gate(ctx, a, "ResizeVolume", r, plain(func(context.Context, *pb.ResizeVolumeRequest) error {
		return said(codes.Unimplemented, "resize_volume is not implemented in kata-agent")
	}))
}

// UpdateEphemeralMounts mounts memory anew with other options, such as its size.
func (a *Agent) UpdateEphemeralMounts(ctx context.Context, r *pb.UpdateEphemeralMountsRequest) (*empty, error) {
	return gate(ctx, a, "UpdateEphemeralMounts", r, locked(a, func(_ context.Context, r *pb.UpdateEphemeralMountsRequest) error {
		for _, s := range r.Storages {
			if err := remount(s); err != nil {
				return doing("Failed to update mounts", err)
			}
		}
		return nil
	}))
}

func remount(s *pb.Storage) error {
	if s.Driver != "ephemeral" {
		return fmt.Errorf("Unsupported storage type for syncing mounts %s. Only ephemeral storage update is supported", s.Driver)
	}
	if !confined(s.MountPoint, stateDir) {
		return fmt.Errorf("storage mount point %q is not below %s", s.MountPoint, stateDir)
	}
	if err := os.MkdirAll(s.MountPoint, 0o755); err != nil {
		return err
	}
	flags, data, _, err := mountOptions(s.Options)
	if err != nil || len(s.Options) == 0 {
		return err
	}
	if err := unix.Mount(s.Source, s.MountPoint, "tmpfs", flags|unix.MS_REMOUNT, strings.Join(data, ",")); err != nil {
		return fmt.Errorf("remount %s: %w", s.MountPoint, err)
	}
	return nil
}

// GetDiagnosticData reads what a container left in its termination log.
func (a *Agent) GetDiagnosticData(ctx context.Context, r *pb.GetDiagnosticDataRequest) (*pb.GetDiagnosticDataResponse, error) {
	return gate(ctx, a, "GetDiagnosticData", r, func(_ context.Context, r *pb.GetDiagnosticDataRequest) (*pb.GetDiagnosticDataResponse, error) {
		if r.LogType != "termination_log" {
			return nil, said(codes.InvalidArgument, "unsupported diagnostic log_type: "+r.LogType)
		}
		c := a.find(r.ContainerId)
		if c == nil {
			return nil, internal(fmt.Errorf("Invalid container id: %s", r.ContainerId))
		}
		text, err := terminationLog(c)
		return &pb.GetDiagnosticDataResponse{Data: text}, internal(err)
	})
}

// maxTermination is how much of a termination log Kubernetes takes, in bytes.
const maxTermination = 4096

func terminationLog(c *container) (string, error) {
	var spec specs.Spec
	if err := readJSON(c.bundle+"/config.json", &spec); err != nil {
		return "", err
	}
	path := spec.Annotations["io.kubernetes.container.terminationMessagePath"]
	if path == "" {
		return "", errors.New("No terminationMessagePath annotation")
	}
	for _, m := range spec.Mounts {
		if m.Destination != path {
			continue
		}
		b, err := os.ReadFile(m.Source)
		if errors.Is(err, os.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("Failed to read termination log: %w", err)
		}
		return strings.ToValidUTF8(string(b[:min(len(b), maxTermination)]), "\uFFFD"), nil
	}
	return "", fmt.Errorf("termination message mount not found for %s", path)
}
