package policy

import (
	"encoding/json"
	"strings"
	"testing"
)

// curious is a policy that shows environments in every way that it can.
const curious = `package agent_policy

default CreateContainerRequest := false
default ExecProcessRequest := false

CreateContainerRequest if {
	some e in input.OCI.Process.Env
	print("one is", e)
	print("all are", input.OCI.Process.Env)
	value := split(e, "=")[1]
	value == "expected value"
}

CreateContainerRequest if {
	every e in input.OCI.Process.Env { startswith(e, "A=") }
}

CreateContainerRequest if {
	line := concat(" ", input.OCI.Process.Env)
	line == "x"
}

CreateContainerRequest if {
	env := {k: v | some e in input.OCI.Process.Env; [k, v] := split(e, "=")}
	env.SECRET == "x"
}

CreateContainerRequest if {
	env := {v: k | some e in input.OCI.Process.Env; [k, v] := split(e, "=")}
	env.x
}

CreateContainerRequest if {
	piece := substring(split(input.OCI.Process.Env[0], "=")[1], 0, 6)
	piece == "x"
}

ExecProcessRequest := {"allowed": false, "ops": [{"op": "add", "path": "/pstate/x", "value": input.process.Env}]}
`

func TestRedact(t *testing.T) {
	for name, c := range map[string]struct {
		// entry is the environment variable as JSON writes it, secret what of it must not be shown.
		entry, secret string
	}{
		"a word":              {`SECRET=tomato-soup`, "tomato"},
		"several lines":       {`SECRET=first\ntomato-soup\nlast`, "tomato"},
		"an unusual name":     {`0x/y z=tomato-soup`, "tomato"},
		"no name":             {`tomato-soup`, "tomato"},
		"quotes and a stroke": {`SECRET=\"tomato\\soup\"`, "tomato"},
		"markup":              {`SECRET=<tomato>&`, "tomato"},
		"equals signs":        {`SECRET=tomato=soup=`, "tomato"},
		"a long one":          {`SECRET=` + strings.Repeat("tomato", 200), "tomato"},
	} {
		t.Run(name, func(t *testing.T) {
			for endpoint, input := range map[string]string{
				"CreateContainerRequest": `{"OCI":{"Process":{"Args":["sh"],"Env":["` + c.entry + `"]}}}`,
				"ExecProcessRequest":     `{"process":{"Args":["sh"],"Env":["` + c.entry + `"]}}`,
			} {
				x := explained(t, curious, endpoint, input)
				if !strings.Contains(x.String(), c.secret) {
					t.Errorf("%s: not shown to who asks:\n%s", endpoint, x)
				}
				x.Redact()
				b, err := json.Marshal(x)
				if err != nil {
					t.Fatal(err)
				}
				for what, text := range map[string]string{"text": x.String(), "JSON": string(b), "request": string(x.RedactJSON([]byte(input)))} {
					if strings.Contains(text, c.secret) {
						t.Errorf("%s: left in the %s:\n%s", endpoint, what, text)
					}
				}
			}
		})
	}
}

// What is no value of an environment stays, and so does what the policy expects.
func TestRedactLeaves(t *testing.T) {
	input := `{"OCI":{"Process":{"Args":["sh","-c"],"Env":["A=1","SECRET=tomato-soup","EMPTY=","SAME=/pstate/x"]}}}`
	x := explained(t, curious, "CreateContainerRequest", input)
	x.Redact()
	for _, want := range []string{
		`line 11 is not true: value == "expected value"`,
		`["A=[redacted]","SECRET=[redacted]","EMPTY=","SAME=/pstate/x"]`,
		`one is SECRET=[redacted]`,
	} {
		if !strings.Contains(x.String(), want) {
			t.Errorf("without %q:\n%s", want, x)
		}
	}
	const redacted = `{"OCI":{"Process":{"Args":["sh","-c"],"Env":["A=[redacted]","SECRET=[redacted]","EMPTY=","SAME=/pstate/x"]}}}`
	if got := string(x.RedactJSON([]byte(input))); got != redacted {
		t.Errorf("%s, want %s", got, redacted)
	}
	if got := string(x.RedactJSON([]byte(`{"pstate":{"first":"tomato-soup","n":2}}`))); got != `{"pstate":{"first":"[redacted]","n":2}}` {
		t.Errorf("state %s", got)
	}
	if got := string(x.RedactJSON([]byte(`{"data":[116,111],"container_id":"c"}`))); got != `{"container_id":"c","data":"[redacted]"}` {
		t.Errorf("data %s", got)
	}
	const path = `{"OCI":{"Process":{"Args":["/bin","/root"],"Env":["PATH=/usr/bin:/bin","HOME=/root","SECRET=/sbin/x"]}}}`
	y := explained(t, curious, "CreateContainerRequest", path)
	y.Redact()
	if got := string(y.RedactJSON([]byte(path))); got != `{"OCI":{"Process":{"Args":["/bin","/root"],"Env":["PATH=[redacted]","HOME=[redacted]","SECRET=[redacted]"]}}}` {
		t.Errorf("well-known variables: %s", got)
	}
	if got := string(x.RedactJSON([]byte("tomato-soup"))); got != `"[redacted]"` {
		t.Errorf("no JSON: %s", got)
	}
}

// What passes through the agent is not shown under another name either.
func TestRedactData(t *testing.T) {
	for _, text := range []string{
		"package agent_policy\ndefault WriteStreamRequest := false\nWriteStreamRequest if {\n\tsome b in input.data\n\tb == 1\n}\n",
		"package agent_policy\ndefault WriteStreamRequest := false\nWriteStreamRequest if fits(input.data)\nfits(d) if d[0] == 1\n",
		"package agent_policy\ndefault WriteStreamRequest := false\nWriteStreamRequest if fits(input.data)\nfits(d) if d == [1]\n",
	} {
		x := explained(t, text, "WriteStreamRequest", `{"data":[2777,2778]}`)
		x.Redact()
		if got := x.String(); strings.Contains(got, "277") || !strings.Contains(got, "[redacted]") {
			t.Errorf("%s", got)
		}
	}
}

// An environment's value is in nothing that was redacted, whatever it is.
func FuzzRedact(f *testing.F) {
	f.Add("SECRET", "tomato-soup")
	f.Add("", "a\nb\"c\\")
	f.Add("0 ", "\xff\x00<>&")
	f.Fuzz(func(t *testing.T, name, value string) {
		if wellKnown[name] {
			return
		}
		const marker = "tomato-soup-of-the-day"
		entry, err := json.Marshal(name + "=" + value + marker)
		if err != nil {
			t.Fatal(err)
		}
		input := []byte(`{"OCI":{"Process":{"Env":[` + string(entry) + `]}}}`)
		e := New()
		if err := e.SetPolicy(t.Context(), curious); err != nil {
			t.Fatal(err)
		}
		x := e.Explain(t.Context(), "CreateContainerRequest", input)
		x.Redact()
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		if text := x.String() + string(b) + string(x.RedactJSON(input)); strings.Contains(text, marker) && !strings.Contains(name, marker) {
			t.Fatalf("left: %s", text)
		}
	})
}
