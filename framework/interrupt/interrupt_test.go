package interrupt

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// This program is a suite's process and a run too, when told so.
func TestMain(m *testing.M) {
	switch os.Getenv("INTERRUPT_TEST") {
	case "suite":
		suiteProcess()
	case "run":
		cmd, remove := Command(context.Background(), time.Minute, os.Getenv("INTERRUPT_DIR"), os.Args[0])
		defer remove()
		cmd.Env = append(cmd.Env, "INTERRUPT_TEST=suite")
		cmd.Stdout = os.Stdout
		_ = cmd.Run()
	default:
		os.Exit(m.Run())
	}
}

// suiteProcess counts its signals until none has come for a while.
func suiteProcess() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	Follow()
	fmt.Println("ready", os.Getpid())
	<-signals
	n := 1
	for quiet := time.After(2 * time.Second); ; {
		select {
		case <-signals:
			n++
		case <-quiet:
			fmt.Println("signals", n)
			os.Exit(0)
		}
	}
}

// lines starts cmd and gives what it prints.
func lines(t *testing.T, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	if !s.Scan() || !strings.HasPrefix(s.Text(), "ready ") {
		t.Fatalf("said %q", s.Text())
	}
	return s
}

// The command is a shell that passes no signal on, as Ginkgo's does not.
func suiteUnder(ctx context.Context, t *testing.T) *exec.Cmd {
	cmd, remove := Command(ctx, time.Minute, t.TempDir(), "sh", "-c", `trap '' INT; (trap - INT; "$0"); :`, os.Args[0])
	t.Cleanup(remove)
	cmd.Env = append(cmd.Env, "INTERRUPT_TEST=suite")
	return cmd
}

func TestOneSignalWhenTheRunAloneIsTold(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := suiteUnder(ctx, t)
	s := lines(t, cmd)
	time.Sleep(early)
	cancel()
	if !s.Scan() || s.Text() != "signals 1" {
		t.Errorf("got %q, want one signal", s.Text())
	}
	_ = cmd.Wait()
}

func TestOneSignalWhenAllAreTold(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := suiteUnder(ctx, t)
	s := lines(t, cmd)
	var pid int
	if _, err := fmt.Sscanf(s.Text(), "ready %d", &pid); err != nil {
		t.Fatal(err)
	}
	time.Sleep(early + patience) // a process that has only begun is told again
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	cancel()
	if !s.Scan() || s.Text() != "signals 1" {
		t.Errorf("got %q, want one signal", s.Text())
	}
	_ = cmd.Wait()
}

func TestEndsWithARunThatIsKilled(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "INTERRUPT_TEST=run", "INTERRUPT_DIR="+t.TempDir())
	s := lines(t, cmd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The suite's process has the other end of the pipe: it ends when that does.
	if s.Scan() {
		t.Errorf("it goes on: %q", s.Text())
	}
	_ = cmd.Wait()
}

func TestNoRunToFollow(t *testing.T) {
	t.Setenv(Variable, "")
	Follow()
}
