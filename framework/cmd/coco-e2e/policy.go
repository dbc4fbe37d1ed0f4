package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/policy"
)

// errNotAllowed makes the command exit with 1 without saying it twice.
var errNotAllowed = errors.New("the policy does not allow it")

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Ask an agent policy about a request, and why it decides so"}
	cmd.AddCommand(explainCommand())
	return cmd
}

// asked is what `policy explain` is asked.
type asked struct {
	policy, initData, annotation string
	request, endpoint, state     string
	format                       string
	full                         bool
}

func explainCommand() *cobra.Command {
	var a asked
	cmd := &cobra.Command{
		Use: "explain", Short: "Say how a policy decides on requests, and why", Args: cobra.NoArgs,
		Long: `Say how a policy decides on requests, and why.

The request is the agent's JSON, with --endpoint; or a line, or all, of the policy
log of a guest (/tmp/policy.jsonl), or of a request that coco-e2e kept. The requests
of a log are decided in order, so that the policy's state is what it was.
Exits with 1 when the last request is not allowed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.format != "text" && a.format != "json" {
				return fmt.Errorf("--output %s: want text or json", a.format)
			}
			return a.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&a.policy, "policy", "", "Rego file")
	f.StringVar(&a.initData, "init-data", "", "init-data file that has the policy")
	f.StringVar(&a.annotation, "annotation", "", "file with a pod's init-data annotation")
	f.StringVar(&a.request, "request", "", "file with the request or a policy log, - for standard input (required)")
	f.StringVar(&a.endpoint, "endpoint", "", "rule that is asked, such as ExecProcessRequest; a policy log names it")
	f.StringVar(&a.state, "state", "", `file with the policy's state, {"pstate": {…}}`)
	f.StringVarP(&a.format, "output", "o", "text", "text or json")
	f.BoolVar(&a.full, "show-values", false, "show values of environment variables too")
	_ = cmd.MarkFlagRequired("request")
	cmd.MarkFlagsOneRequired("policy", "init-data", "annotation")
	cmd.MarkFlagsMutuallyExclusive("policy", "init-data", "annotation")
	return cmd
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
}

// questions reads a request, or a policy log. Of a log the answers that are
// objects are left out, which stand in it as if they were requests.
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
		var q question
		if kind, ok := object["kind"]; ok && object["request"] != nil {
			if err := json.Unmarshal(kind, &q.Kind); err != nil {
				return nil, fmt.Errorf("%s: JSON value %d: kind: %w", a.request, n, err)
			}
			q.Request = object["request"]
			var answer map[string]json.RawMessage
			if json.Unmarshal(q.Request, &answer) == nil && answer["allowed"] != nil {
				continue
			}
		} else {
			text, err := json.Marshal(object)
			if err != nil {
				return nil, err
			}
			q = question{a.endpoint, text}
		}
		if q.Kind == "" {
			return nil, fmt.Errorf("%s: JSON value %d does not say which rule it asks: give --endpoint, such as ExecProcessRequest", a.request, n)
		}
		out = append(out, q)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: there is no request in it", a.request)
	}
	return out, nil
}

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
		x := e.Explain(ctx, q.Kind, q.Request)
		last = e.Eval(ctx, q.Kind, q.Request).Outcome
		// Of a log only what was refused is of interest, and how it ended.
		if i < len(questions)-1 && (last == policy.Allowed || a.endpoint != "" && q.Kind != a.endpoint) {
			continue
		}
		if !a.full {
			x.Redact()
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
