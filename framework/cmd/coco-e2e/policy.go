package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/policy"
)

// errNotAllowed makes the command exit with 1 without saying it twice.
var errNotAllowed = errors.New("the policy does not allow it")

// misuse is an error of whoever asks, not an answer: the command exits with 2.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Ask an agent policy about a request, and why it decides so"}
	cmd.AddCommand(explainCommand())
	return cmd
}

// asked is what `policy explain` is asked.
type asked struct {
	policy, initData, annotation string
	request, endpoint, state     string
	format, out                  string
	full                         bool
}

func explainCommand() *cobra.Command {
	var a asked
	cmd := &cobra.Command{
		Use: "explain", Short: "Say how a policy decides on requests, and why", Args: cobra.NoArgs,
		Long: `Say how a policy decides on requests, and why.

The request is the agent's JSON; or a line, or all, of the policy log of a guest
(/tmp/policy.jsonl) or of the simulated agent's log (agent.jsonl). The requests of
a policy log are decided in order, so that the policy's state is what it was.
--endpoint is needed where neither the file, nor the directory in which coco-e2e
kept it, nor the request's fields tell which rule is asked.
Exits with 1 when the last request is not allowed, and with 2 when the question
makes no sense: a file that cannot be read, a flag that is missing.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.check()
			if err == nil {
				err = a.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
			}
			if err != nil && !errors.Is(err, errNotAllowed) {
				return misuse{err}
			}
			return err
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return misuse{err} })
	f := cmd.Flags()
	f.StringVar(&a.policy, "policy", "", "Rego file")
	f.StringVar(&a.initData, "init-data", "", "init-data file that has the policy")
	f.StringVar(&a.annotation, "annotation", "", "file with a pod's init-data annotation")
	f.StringVar(&a.request, "request", "", "file with the request or a policy log, - for standard input (required)")
	f.StringVar(&a.endpoint, "endpoint", "", "rule that is asked, such as ExecProcessRequest; a policy log names it")
	f.StringVar(&a.state, "state", "", `file with the policy's state, {"pstate": {…}}`)
	f.StringVarP(&a.format, "output", "o", "text", "text or json")
	f.StringVar(&a.out, "out", "", "directory for the files with which OPA reproduces the last decision that is told")
	f.BoolVar(&a.full, "show-values", false, "show values of environment variables too")
	return cmd
}

// check says what is wrong with the flags.
func (a *asked) check() error {
	given := 0
	for _, file := range []string{a.policy, a.initData, a.annotation} {
		if file != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("give one of --policy, --init-data and --annotation")
	case a.request == "":
		return errors.New("give --request: the file with the request, - for standard input")
	case a.format != "text" && a.format != "json":
		return fmt.Errorf("--output %s: want text or json", a.format)
	}
	return nil
}

// text is the policy.
func (a *asked) text() (string, error) {
	if a.policy != "" {
		b, err := os.ReadFile(a.policy)
		return string(b), err
	}
	file := a.initData + a.annotation
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if a.annotation != "" {
		if raw, err = initdata.DecodeAnnotation(strings.TrimSpace(string(raw))); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
	}
	d, err := initdata.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	text, ok := d.Data["policy.rego"]
	if !ok {
		return "", fmt.Errorf("%s: it has no policy.rego: the guest image's own policy decides", file)
	}
	return text, nil
}

// question is one request.
type question struct {
	Kind    string          `json:"kind"`
	Request json.RawMessage `json:"request"`
	// State is the policy's then, where that is known; plain says that the file is
	// this request and nothing else.
	State json.RawMessage `json:"-"`
	plain bool
}

// keptAt is the directory in which a request that a pod's policy refused is kept.
var keptAt = regexp.MustCompile(`-denial-\d+-([A-Za-z]+Request)$`)

// questions reads a request, or a log. Of a policy log the answers that are
// objects are left out, which stand in it as if they were requests; of the
// simulated agent's log the requests that it does not tell.
func (a *asked) questions(stdin io.Reader) ([]question, error) {
	var b []byte
	var err error
	if a.request == "-" {
		b, err = io.ReadAll(stdin)
	} else {
		b, err = os.ReadFile(a.request)
	}
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	var out []question
	for n := 1; ; n++ {
		var object map[string]json.RawMessage
		if err := d.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s: JSON value %d: %w", a.request, n, err)
		}
		q, ok, err := a.question(object)
		if err != nil {
			return nil, fmt.Errorf("%s: JSON value %d: %w", a.request, n, err)
		}
		if ok {
			out = append(out, q)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: there is no request in it", a.request)
	}
	if len(out) > 1 {
		for i := range out {
			out[i].plain = false
		}
	}
	return out, nil
}

// question makes one of a line of a log, or of a request as it is; ok is false of
// lines that are none.
func (a *asked) question(object map[string]json.RawMessage) (q question, ok bool, err error) {
	line := func(name, request string) (bool, error) {
		kind, has := object[name]
		if !has || object[request] == nil {
			return false, nil
		}
		q.Request = object[request]
		return true, json.Unmarshal(kind, &q.Kind)
	}
	if is, err := line("kind", "request"); err != nil {
		return q, false, fmt.Errorf("kind: %w", err)
	} else if is {
		var answer map[string]json.RawMessage
		if json.Unmarshal(q.Request, &answer) == nil && answer["allowed"] != nil {
			return q, false, nil
		}
		return a.named(q)
	}
	if is, err := line("endpoint", "input"); err != nil {
		return q, false, fmt.Errorf("endpoint: %w", err)
	} else if is {
		q.State = object["state"]
		return a.named(q)
	}
	if object["endpoint"] != nil && object["decision"] != nil {
		return q, false, nil // a line of the agent's log about what was allowed
	}
	text, err := json.Marshal(object)
	q = question{Kind: a.endpoint, Request: text, plain: true}
	if kept := keptAt.FindStringSubmatch(filepath.Base(filepath.Dir(a.request))); q.Kind == "" && kept != nil {
		q.Kind = kept[1]
	}
	if err != nil {
		return q, false, err
	}
	return a.named(q)
}

// named finds out which rule a question asks when nothing says so.
func (a *asked) named(q question) (question, bool, error) {
	if q.Kind != "" {
		return q, true, nil
	}
	switch may := policy.Endpoints(q.Request); {
	case len(may) == 1:
		q.Kind = may[0]
		return q, true, nil
	case len(may) > 1 && len(may) <= maxEndpoints:
		return q, false, fmt.Errorf("it does not say which rule it asks: give --endpoint, one of %s", strings.Join(may, ", "))
	}
	return q, false, errors.New("it does not say which rule it asks: give --endpoint, such as ExecProcessRequest")
}

// maxEndpoints is how many rules an error names that could be meant.
const maxEndpoints = 12

func (a *asked) run(ctx context.Context, stdin io.Reader, out io.Writer) error {
	text, err := a.text()
	if err != nil {
		return err
	}
	questions, err := a.questions(stdin)
	if err != nil {
		return err
	}
	e := policy.New()
	if err := e.SetPolicy(ctx, text); err != nil {
		return fmt.Errorf("%s%s%s: the agent does not take this policy: %w", a.policy, a.initData, a.annotation, err)
	}
	if a.state != "" {
		state, err := os.ReadFile(a.state)
		if err != nil {
			return err
		}
		if err := e.SetState(ctx, state); err != nil {
			return fmt.Errorf("%s: %w", a.state, err)
		}
	}
	last := policy.Allowed
	for i, q := range questions {
		if len(q.State) > 0 {
			if err := e.SetState(ctx, q.State); err != nil {
				return fmt.Errorf("%s: %w", a.request, err)
			}
		}
		x := e.Explain(ctx, q.Kind, q.Request)
		state, err := e.State(ctx)
		if err != nil {
			return err
		}
		last = e.Eval(ctx, q.Kind, q.Request).Outcome
		// Of a log only what was refused is of interest, and how it ended.
		if i < len(questions)-1 && (last == policy.Allowed || a.endpoint != "" && q.Kind != a.endpoint) {
			continue
		}
		if !a.full {
			x.Redact()
		}
		if err := a.reproduction(ctx, e, &x, text, q, state); err != nil {
			return err
		}
		if a.format == "json" {
			err = writeJSON(out, x)
		} else {
			_, err = fmt.Fprintf(out, "%s\n", x)
		}
		if err != nil {
			return err
		}
	}
	if last != policy.Allowed {
		return errNotAllowed
	}
	return nil
}

// reproduction tells how OPA decides the same: on the files that the user gave,
// where they are what OPA takes, or on those that it writes.
func (a *asked) reproduction(ctx context.Context, e *policy.Engine, x *policy.Explanation, text string, q question, state []byte) error {
	fresh := a.state == "" && q.plain // there is no state yet
	if a.out == "" {
		if a.policy != "" && q.plain && a.request != "-" {
			x.Reproduce = policy.ReproductionOf(a.policy, a.state, a.request, x.Endpoint)
		} else {
			x.Reproduce = "give --out DIR, for files that `opa eval` takes"
		}
		return nil
	}
	request := []byte(q.Request)
	if !a.full {
		request = x.RedactJSON(request)
		if !fresh {
			state = x.RedactJSON(state)
		}
		e.Compare(ctx, x, request, state)
	}
	if err := os.MkdirAll(a.out, 0o755); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(a.out, name) }
	for name, content := range map[string][]byte{"policy.rego": []byte(text), "input.json": request, "state.json": state} {
		if err := os.WriteFile(at(name), content, 0o600); err != nil {
			return err
		}
	}
	x.Reproduce = policy.ReproductionOf(at("policy.rego"), at("state.json"), at("input.json"), x.Endpoint)
	return nil
}
