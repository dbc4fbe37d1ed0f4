package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// plainEvery is how often a run that nobody watches at a terminal says how far it is.
const plainEvery = 20 * time.Second

// watched runs Ginkgo and tells how it goes on: at a terminal lines that are drawn
// anew, elsewhere lines that stay. What Ginkgo says goes to ginkgo.log; when it
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
		if onTerminal() {
			live.Show(ctx, os.Stdout, file, expected, terminalSize)
		} else {
			o.Progress.Printf("suites: running …")
			live.Lines(ctx, plain(o), file, expected)
		}
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
		return remember(o, dir, time.Since(begin))
	}
	return nil
}

// remember keeps what a run of everything took, for what is expected of the next.
func remember(o testbed.Options, dir string, took time.Duration) error {
	c, err := countSpecs(filepath.Join(dir, ginkgoReport))
	if err != nil {
		return nil // the run itself passed
	}
	b, err := json.Marshal(live.Expectation{Specs: c.Passed + c.Failed + c.Inconclusive + c.Skipped, Seconds: took.Seconds()})
	if err != nil {
		return err
	}
	return report.WriteFile(lastRun(o), b)
}

func terminalSize() (width, height int) {
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 80, 24
	}
	return width, height
}

// plain is standard output for lines that stay.
func plain(o testbed.Options) live.Plain {
	p := live.Plain{Line: func(text string) { o.Progress.Printf("%s", text) }, Every: plainEvery}
	if onGitHub() {
		p.Command = func(text string) { fmt.Println(text) }
	}
	return p
}

// maxAnnotations is how many errors GitHub shows of a step.
const maxAnnotations = 10

// tellFailures prints each spec that failed with its whole reason, which a CI
// system's log keeps when the artefacts are gone. On GitHub they are annotations
// of the code too.
func tellFailures(w io.Writer, r *report.Report, github bool) {
	annotated := 0
	for _, s := range r.UniqueSpecs() {
		if s.Result != report.Failed && s.Result != report.Inconclusive {
			continue
		}
		fmt.Fprintf(w, "\n%s %s: %s\n  %s\n", strings.ToUpper(string(s.Result)), s.Suite, strings.Join(append([]string{s.Text}, s.IDs...), " "), s.Location)
		for line := range strings.Lines(s.Reason) {
			line = strings.TrimRight(line, "\n")
			if strings.HasPrefix(strings.TrimSpace(line), "::") { // which GitHub would take for a command
				line = " " + strings.Replace(line, "::", ": :", 1)
			}
			fmt.Fprintf(w, "    %s\n", line)
		}
		if github && annotated < maxAnnotations {
			annotated++
			at := "file=" + property(s.Location)
			if file, line, ok := strings.Cut(s.Location, ":"); ok {
				at = "file=" + property(file) + ",line=" + property(line)
			}
			fmt.Fprintf(w, "::error %s,title=%s::%s\n", at, property(cmp.Or(strings.Join(s.IDs, " "), "set-up")), message(s.Suite+": "+s.Text+"\n"+s.Brief()))
		}
	}
}

// message and property escape what stands in a workflow command
// (https://docs.github.com/actions, "Workflow commands").
func message(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func property(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(message(s))
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
