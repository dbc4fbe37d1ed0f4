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
	allowed bool
	ops     []operation
}

// operation is one of a JSON patch.
type operation struct {
	op, path, from string
	value          any
}

// apply reads a rule's value, and changes the state as it says.
func (e *Engine) apply(ctx context.Context, endpoint string, value ast.Value) (bool, error) {
	switch v := value.(type) {
	case ast.Boolean:
		return bool(v), nil
	case ast.Object:
		doc, err := objectOf(v)
		if err != nil {
			return false, err
		}
		if e.logs(endpoint) {
			e.logLine(endpoint, jsonText(doc))
		}
		a, err := parseAnswer(doc)
		if err != nil || !a.allowed || len(a.ops) == 0 {
			return err == nil && a.allowed, err
		}
		return true, e.patch(ctx, a.ops)
	}
	return false, unexpectedType(value)
}

// unexpectedType is what the agent says of a value that is no decision.
func unexpectedType(value ast.Value) error {
	return fmt.Errorf("policy check: unexpected eval_query result type %s: %v", ast.ValueName(value), value)
}

func objectOf(v ast.Object) (map[string]any, error) {
	doc, err := ast.JSON(v)
	if err != nil {
		return nil, err
	}
	return doc.(map[string]any), nil // what an object's JSON is
}

// parseAnswer takes the names as they are, as serde does: "Allowed" is not
// "allowed", and a field that is not known is passed over.
func parseAnswer(doc map[string]any) (answer, error) {
	var a answer
	allowed, said := doc["allowed"]
	if said {
		var ok bool
		if a.allowed, ok = allowed.(bool); !ok {
			return answer{}, invalidType(allowed, "a boolean")
		}
	}
	if ops := doc["ops"]; ops != nil {
		list, ok := ops.([]any)
		if !ok {
			return answer{}, invalidType(ops, "a sequence")
		}
		for _, o := range list {
			op, err := parseOperation(o)
			if err != nil {
				return answer{}, err
			}
			a.ops = append(a.ops, op)
		}
	}
	if !said {
		return answer{}, fmt.Errorf("missing field `allowed` at line 1 column %d", len(jsonText(doc)))
	}
	return a, nil
}

func parseOperation(v any) (operation, error) {
	fields, ok := v.(map[string]any)
	if !ok {
		return operation{}, invalidType(v, "internally tagged enum PatchOperation")
	}
	var o operation
	if err := textField(fields, "op", &o.op); err != nil {
		return operation{}, err
	}
	var needs []string
	switch o.op {
	case "add", "replace", "test":
		needs = []string{"path", "value"}
	case "move", "copy":
		needs = []string{"from", "path"}
	case "remove":
		needs = []string{"path"}
	default:
		return operation{}, fmt.Errorf("unknown variant `%s`, expected one of `add`, `remove`, `replace`, `move`, `copy`, `test`", o.op)
	}
	for _, name := range needs {
		var err error
		switch name {
		case "from":
			err = textField(fields, name, &o.from)
		case "path":
			err = textField(fields, name, &o.path)
		default:
			if o.value, ok = fields[name]; !ok {
				err = missing(name)
			}
		}
		if err != nil {
			return operation{}, err
		}
	}
	return o, nil
}

func textField(fields map[string]any, name string, into *string) error {
	v, ok := fields[name]
	if !ok {
		return missing(name)
	}
	if *into, ok = v.(string); !ok {
		return invalidType(v, "a string")
	}
	return nil
}

func missing(name string) error { return fmt.Errorf("missing field `%s`", name) }

// invalidType is what serde says of a value of another type than wanted; where
// it stands is left out.
func invalidType(v any, want string) error {
	kind := "null"
	switch v := v.(type) {
	case bool:
		kind = fmt.Sprintf("boolean `%t`", v)
	case json.Number:
		kind = fmt.Sprintf("integer `%s`", v)
		if strings.ContainsAny(string(v), ".eE") {
			kind = fmt.Sprintf("floating point `%s`", v)
		}
	case string:
		kind = "string " + DebugString(v)
	case []any:
		kind = "sequence"
	case map[string]any:
		kind = "map"
	}
	return fmt.Errorf("invalid type: %s, expected %s", kind, want)
}

// patch applies all operations or none.
func (e *Engine) patch(ctx context.Context, ops []operation) error {
	var done []change
	for i, o := range ops {
		if err := e.operate(ctx, o, &done); err != nil {
			return errors.Join(fmt.Errorf("operation '/%d' failed at path '%s': %w", i, o.path, err), e.undo(ctx, done))
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
	path, err := pointer(o.path)
	if err != nil {
		return err
	}
	switch o.op {
	case "remove":
		return e.write(ctx, storage.RemoveOp, path, nil, done)
	case "test":
		return e.test(ctx, path, o.value)
	case "move", "copy":
		return e.transfer(ctx, o, path, done)
	}
	if o.op == "replace" {
		return e.write(ctx, storage.ReplaceOp, path, o.value, done)
	}
	return e.write(ctx, storage.AddOp, path, o.value, done)
}

func (e *Engine) write(ctx context.Context, op storage.PatchOp, path storage.Path, value any, done *[]change) error {
	back := e.inverse(ctx, path)
	if err := storage.WriteOne(ctx, e.db, op, path, value); err != nil {
		return errPath
	}
	*done = append(*done, back)
	return nil
}

func (e *Engine) test(ctx context.Context, path storage.Path, want any) error {
	got, err := storage.ReadOne(ctx, e.db, path)
	if err != nil {
		return errPath
	}
	if util.Compare(got, want) != 0 {
		return errTest
	}
	return nil
}

func (e *Engine) transfer(ctx context.Context, o operation, to storage.Path, done *[]change) error {
	from, err := pointer(o.from)
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
	if o.op == "move" {
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
