package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/util"
)

// answer is a rule's value that is no boolean: the operations (RFC 6902) change
// the engine's data, {"pstate": {…}}, when the request is allowed.
type answer struct {
	Allowed *bool       `json:"allowed"`
	Ops     []operation `json:"ops"`
}

// operation is one of a JSON patch.
type operation struct {
	Op    string          `json:"op"`
	Path  *string         `json:"path"`
	From  *string         `json:"from"`
	Value json.RawMessage `json:"value"`
}

// apply reads a rule's value, and changes the state as it says.
func (e *Engine) apply(ctx context.Context, endpoint string, value ast.Value) (bool, error) {
	switch v := value.(type) {
	case ast.Boolean:
		return bool(v), nil
	case ast.Object:
		text, err := objectText(v)
		if err != nil {
			return false, err
		}
		e.logLine(endpoint, text)
		a, err := parseAnswer(text)
		if err != nil || !*a.Allowed || len(a.Ops) == 0 {
			return err == nil && *a.Allowed, err
		}
		return true, e.patch(ctx, a.Ops)
	}
	return false, unexpectedType(value)
}

// unexpectedType is what the agent says of a value that is no decision.
func unexpectedType(value ast.Value) error {
	return fmt.Errorf("policy check: unexpected eval_query result type %s: %v", ast.ValueName(value), value)
}

func objectText(v ast.Object) ([]byte, error) {
	doc, err := ast.JSON(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

func parseAnswer(text []byte) (*answer, error) {
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, err
	}
	if a.Allowed == nil {
		return nil, fmt.Errorf("missing field `allowed` at line 1 column %d", len(text))
	}
	for _, o := range a.Ops {
		if err := o.check(); err != nil {
			return nil, err
		}
	}
	return &a, nil
}

// check says what an operation lacks.
func (o *operation) check() error {
	needs := map[string]bool{"path": o.Path == nil}
	switch o.Op {
	case "add", "replace", "test":
		needs["value"] = o.Value == nil
	case "move", "copy":
		needs["from"] = o.From == nil
	case "remove":
	case "":
		return errors.New("missing field `op`")
	default:
		return fmt.Errorf("unknown variant `%s`, expected one of `add`, `remove`, `replace`, `move`, `copy`, `test`", o.Op)
	}
	for _, field := range []string{"from", "path", "value"} {
		if needs[field] {
			return fmt.Errorf("missing field `%s`", field)
		}
	}
	return nil
}

// patch applies all operations or none.
func (e *Engine) patch(ctx context.Context, ops []operation) error {
	var done []change
	for i, o := range ops {
		if err := e.operate(ctx, o, &done); err != nil {
			return errors.Join(fmt.Errorf("operation '/%d' failed at path '%s': %w", i, *o.Path, err), e.undo(ctx, done))
		}
	}
	return nil
}

// change is a write to the state, and what undoes it.
type change struct {
	op    storage.PatchOp
	path  storage.Path
	value any
}

// undo takes writes back, the last one first.
func (e *Engine) undo(ctx context.Context, done []change) error {
	for _, c := range slices.Backward(done) {
		if err := storage.WriteOne(ctx, e.db, c.op, c.path, c.value); err != nil {
			return fmt.Errorf("take back: %w", err)
		}
	}
	return nil
}

// inverse is what undoes a write to path.
func (e *Engine) inverse(ctx context.Context, path storage.Path) change {
	if len(path) > 0 {
		parent := path[:len(path)-1]
		if list, err := storage.ReadOne(ctx, e.db, parent); err == nil {
			if list, ok := list.([]any); ok {
				return change{storage.ReplaceOp, parent, slices.Clone(list)}
			}
		}
	}
	old, err := storage.ReadOne(ctx, e.db, path)
	if err != nil {
		return change{op: storage.RemoveOp, path: path}
	}
	return change{storage.AddOp, path, old}
}

// What an operation fails with (json-patch 4, PatchErrorKind).
var (
	errPath = errors.New("path is invalid")
	errFrom = errors.New(`"from" path is invalid`)
	errTest = errors.New("value did not match")
	errMove = errors.New("cannot move the value inside itself")
)

func (e *Engine) operate(ctx context.Context, o operation, done *[]change) error {
	path, err := pointer(*o.Path)
	if err != nil {
		return err
	}
	switch o.Op {
	case "remove":
		return e.write(ctx, storage.RemoveOp, path, nil, done)
	case "test":
		return e.test(ctx, path, o.Value)
	case "move", "copy":
		return e.transfer(ctx, o, path, done)
	}
	var value any
	if err := util.UnmarshalJSON(o.Value, &value); err != nil {
		return err
	}
	if o.Op == "replace" {
		return e.write(ctx, storage.ReplaceOp, path, value, done)
	}
	return e.write(ctx, storage.AddOp, path, value, done)
}

func (e *Engine) write(ctx context.Context, op storage.PatchOp, path storage.Path, value any, done *[]change) error {
	back := e.inverse(ctx, path)
	if err := storage.WriteOne(ctx, e.db, op, path, value); err != nil {
		return errPath
	}
	*done = append(*done, back)
	return nil
}

func (e *Engine) test(ctx context.Context, path storage.Path, want json.RawMessage) error {
	got, err := storage.ReadOne(ctx, e.db, path)
	if err != nil {
		return errPath
	}
	var value any
	if err := util.UnmarshalJSON(want, &value); err != nil {
		return err
	}
	if util.Compare(got, value) != 0 {
		return errTest
	}
	return nil
}

func (e *Engine) transfer(ctx context.Context, o operation, to storage.Path, done *[]change) error {
	from, err := pointer(*o.From)
	if err != nil {
		return errFrom
	}
	value, err := storage.ReadOne(ctx, e.db, from)
	if err != nil {
		return errFrom
	}
	if err := util.RoundTrip(&value); err != nil { // no two places share a value
		return err
	}
	if o.Op == "move" {
		if len(to) > len(from) && to.HasPrefix(from) {
			return errMove
		}
		if err := e.write(ctx, storage.RemoveOp, from, nil, done); err != nil {
			return errFrom
		}
	}
	return e.write(ctx, storage.AddOp, to, value, done)
}

// pointer parses a JSON pointer (RFC 6901).
func pointer(text string) (storage.Path, error) {
	if text == "" {
		return storage.Path{}, nil
	}
	if !strings.HasPrefix(text, "/") {
		return nil, errPath
	}
	path := storage.Path(strings.Split(text[1:], "/"))
	for i, p := range path {
		path[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	return path, nil
}
