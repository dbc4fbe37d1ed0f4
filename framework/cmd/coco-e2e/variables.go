package main

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/guest"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// variables are those of the environment that decide what a run asks of what: a
// command that is to ask for the same has them. Where builds, state and reports
// are is not among them.
var variables = []struct {
	name string
	// secret ones are named in a command, and not shown.
	secret bool
}{
	{name: "CLUSTER"},
	{name: "CLUSTER_NAME"},
	{name: "NODES"},
	{name: "KIND_IMAGE"},
	{name: "KIND_EXPERIMENTAL_PROVIDER"},
	{name: "KUBECONFIG"},
	{name: "RUNTIME_CLASS"},
	{name: "TEST_ROOTS"},
	{name: "SHIM"},
	{name: "KATA_SHIM"},
	{name: "KATA_CONFIG"},
	{name: "KBS"},
	{name: "KBS_URL"},
	{name: "KBS_ADMIN_URL"},
	{name: "KBS_ADMIN_TOKEN", secret: true},
	{name: "KBS_CERT"},
	{name: "KBS_RESOURCE_POLICY"},
	{name: "KBS_CHART"},
	{name: "KBS_VALUES"},
	{name: "WORKLOAD_IMAGE"},
	{name: "UNLISTED_IMAGE"},
	{name: "PROBE_IMAGE"},
	{name: "AGENT_ADDRESS"},
	{name: "AGENT_IMAGE"},
	{name: guest.OverlayVariable},
	{name: "ARTIFACTS"},
	{name: "SUITES"},
	{name: "FOCUS"},
	{name: "LABELS"},
	{name: "SUITE_TIMEOUT"},
	{name: "SEED"},
}

// reproduce is the command that asks for what a run has asked for: of the same
// provider, the same specs in the same order. seed is 0 where no spec ran.
// withoutCheckout says that there is no make.
func reproduce(provider string, s selection, seed int64, withoutCheckout bool) string {
	chosen := map[string]string{
		"CLUSTER": cmp.Or(provider, os.Getenv("CLUSTER")), "SUITES": strings.Join(s.suites, ","), "FOCUS": s.focus, "LABELS": s.label, "SEED": "",
	}
	if seed != 0 {
		chosen["SEED"] = strconv.FormatInt(seed, 10)
	}
	var parts []string
	for _, v := range variables {
		value, ok := chosen[v.name]
		if !ok {
			value = os.Getenv(v.name)
		}
		switch {
		case value == "" || v.name == "KUBECONFIG" && chosen["CLUSTER"] != testbed.Existing: // which others do not read
		case v.secret:
			parts = append(parts, fmt.Sprintf(`%s="$%s"`, v.name, v.name))
		default:
			parts = append(parts, v.name+"="+shellQuoted(withoutPassword(value)))
		}
	}
	if withoutCheckout {
		return strings.Join(append(parts, "coco-e2e", "run"), " ")
	}
	return strings.Join(append([]string{"make", "e2e"}, parts...), " ")
}

// withoutPassword is a value without the password of a URL.
func withoutPassword(value string) string {
	if u, err := url.Parse(value); err == nil && u.User != nil {
		return u.Redacted()
	}
	return value
}

// seedFromEnvironment reads SEED; 0 is one that Ginkgo chooses.
func seedFromEnvironment() (int64, error) {
	text := os.Getenv("SEED")
	if text == "" {
		return 0, nil
	}
	seed, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seed < 1 {
		return 0, fmt.Errorf("SEED=%s: use a whole number from 1, such as the one that report.yaml has as run.seed", text)
	}
	return seed, nil
}
