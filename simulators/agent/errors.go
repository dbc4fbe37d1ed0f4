package agent

import (
	"errors"
	"fmt"
	"os"
	"unicode"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/framework/policy"
)

// internal is how the agent reports what is not the policy's: INTERNAL with
// the error's text (Kata src/agent/src/rpc.rs, ttrpc_error).
func internal(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// said is the status of an error that the agent has as a string: in the
// string's Debug form, quotes and all.
func said(code codes.Code, text string) error { return status.Error(code, policy.DebugString(text)) }

// doing is the status of an error that a string of the agent's goes before.
func doing(what string, err error) error {
	if err == nil {
		return nil
	}
	return said(codes.Internal, what+": "+err.Error())
}

// ioStatus is the status of an error of Rust's library: its Debug form.
func ioStatus(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return internal(err)
	}
	kind := "Uncategorized"
	for k, is := range map[string]error{"NotFound": os.ErrNotExist, "PermissionDenied": os.ErrPermission, "AlreadyExists": os.ErrExist} {
		if errors.Is(errno, is) {
			kind = k
		}
	}
	return status.Errorf(codes.Internal, "Os { code: %d, kind: %s, message: %q }", int(errno), kind, strerror(errno))
}

// ioText is what Rust's library says of an error.
func ioText(errno unix.Errno) string {
	return fmt.Sprintf("%s (os error %d)", strerror(errno), int(errno))
}

// errnoText is what the agent's library for system calls says of an error.
func errnoText(errno unix.Errno) string { return unix.ErrnoName(errno) + ": " + strerror(errno) }

// strerror is the C library's text, which Go's begins in lower case.
func strerror(errno unix.Errno) string {
	text := []rune(errno.Error())
	text[0] = unicode.ToUpper(text[0])
	return string(text)
}

// What is not there, by who looks for it (Kata src/agent/src/rpc.rs and
// sandbox.rs, SandboxError).

func errNoContainer() error { return status.Error(codes.Internal, "Invalid container id") }

func errNoContainerOf() error { return said(codes.InvalidArgument, "invalid container id") }

func errNoContainerOfProcess() error {
	return status.Error(codes.InvalidArgument, "InvalidContainerId")
}

func errNoInit() error { return status.Error(codes.NotFound, "InitProcessNotFound") }

func errNoExec() error { return status.Error(codes.NotFound, "InvalidExecId") }

// displayed is a lookup's error where the agent passes it on without its code:
// WriteStdin does.
func displayed(err error) error {
	switch status.Convert(err).Message() {
	case "InvalidContainerId":
		return errors.New("Invalid container id")
	case "InitProcessNotFound":
		return errors.New("Process not found: init process missing")
	case "InvalidExecId":
		return errors.New("Process not found: invalid exec id")
	}
	return err
}
