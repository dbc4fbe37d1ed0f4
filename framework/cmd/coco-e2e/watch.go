package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/term"

	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/framework/progress/live"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// onTerminal says whether a person watches the run.
func onTerminal() bool {
	return term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb" && !onGitHub()
}

// onGitHub says whether the run is a step of a workflow.
func onGitHub() bool { return os.Getenv("GITHUB_ACTIONS") == "true" }

// lastRun is the file with what the last run of everything took.
func lastRun(o testbed.Options) string { return filepath.Join(o.Cache, "last-run.json") }

func expectation(o testbed.Options) (e live.Expectation) {
	if b, err := os.ReadFile(lastRun(o)); err == nil {
		_ = json.Unmarshal(b, &e) // what is no expectation is none
	}
	return e
}

// watched runs Ginkgo for a person at a terminal: one line that goes on, and a
// line for each spec that fails. What Ginkgo says goes to ginkgo.log; when it
// fails, the end of that is printed.
func watched(o testbed.Options, cmd *exec.Cmd, dir string, everything bool) error {
	file := filepath.Join(dir, ".live")
	defer os.Remove(file)
	log, err := os.Create(filepath.Join(dir, "ginkgo.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Env, live.Variable+"="+file)
	expected := live.Expectation{}
	if everything {
		expected = expectation(o)
	}
	ctx, stop := context.WithCancel(context.Background())
	shown := make(chan struct{})
	begin := time.Now()
	go func() {
		defer close(shown)
		live.Show(ctx, os.Stdout, file, expected, func() int {
			width, _, err := term.GetSize(int(os.Stdout.Fd()))
			if err != nil {
				return 80
			}
			return width
		})
	}()
	err = cmd.Run()
	stop()
	<-shown
	if err != nil {
		text, readErr := os.ReadFile(log.Name())
		if readErr == nil {
			_, _ = os.Stdout.Write(summarized(text))
		}
		fmt.Printf("what Ginkgo said: %s\n", log.Name())
		return err
	}
	if everything {
		c, err := countSpecs(filepath.Join(dir, ginkgoReport))
		if err != nil {
			return nil // the run itself passed
		}
		b, err := json.Marshal(live.Expectation{Specs: c.Passed + c.Failed + c.Inconclusive + c.Skipped, Seconds: time.Since(begin).Seconds()})
		if err != nil {
			return err
		}
		return report.WriteFile(lastRun(o), b)
	}
	return nil
}

// maxSummarized is how much of Ginkgo's output is printed when it has no summary.
const maxSummarized = 4000

// summarized are the failures at the end of Ginkgo's output.
func summarized(text []byte) []byte {
	if i := bytes.LastIndex(text, []byte("Summarizing ")); i >= 0 {
		return text[i:]
	}
	return text[max(0, len(text)-maxSummarized):]
}
