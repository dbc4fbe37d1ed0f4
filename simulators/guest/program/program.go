// Package program is what the guest's programs have in common as processes: one line of log per record, one line for the
// cause of a failed start, an orderly end on SIGTERM.
//
// It must not know what the programs do.
package program

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Main runs a program named name until it ends or SIGTERM or SIGINT cancels its context, and exits: 0 after nil, else 1
// with the error as the last line on standard error, where kata-agent looks for the cause.
func Main(name string, run func(context.Context, *slog.Logger) error) {
	os.Exit(Run(name, os.Stderr, run))
}

// Run is [Main] without the exit; it gives the exit code.
func Run(name string, stderr io.Writer, run func(context.Context, *slog.Logger) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, slog.New(slog.NewTextHandler(stderr, nil)).With("program", name)); err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", name, OneLine(err.Error()))
		return 1
	}
	return 0
}

// OneLine joins the lines of text with blanks, since one line of log is one record and some causes (TOML's parser,
// joined errors) have several.
func OneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}
