package manifests_test

import (
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/manifests"
)

func TestFill(t *testing.T) {
	got, err := manifests.Fill("walkthrough/aa.toml", map[string]string{"KBS": "http://kbs:8080"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "[token_configs]\n[token_configs.kbs]\nurl = 'http://kbs:8080'\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := manifests.Fill("walkthrough/aa.toml", map[string]string{}); err == nil || !strings.Contains(err.Error(), "KBS") {
		t.Errorf("a missing field: error %v, want one that names it", err)
	}
}

// The policy is the article's: what differs is the image and the commands.
func TestArticlePolicy(t *testing.T) {
	got, err := manifests.Fill("walkthrough/policy.rego", map[string]any{
		"Image":    "docker.io/library/nginx@sha256:e56797eab4a5300158cc015296229e13a390f82bfc88803f45b08912fd5e3348",
		"Commands": []string{"whoami", "false", "curl -s http://127.0.0.1:8006/aa/token?token_type=kbs"},
	})
	if err != nil {
		t.Fatal(err)
	}
	const data = `policy_data := {
	"allowed_commands": [
		"whoami",
		"false",
		"curl -s http://127.0.0.1:8006/aa/token?token_type=kbs",
	],
	"allowed_images": [
		"pause",
		"docker.io/library/nginx@sha256:e56797eab4a5300158cc015296229e13a390f82bfc88803f45b08912fd5e3348",
	],
}
`
	if !strings.HasSuffix(string(got), data) {
		t.Errorf("the policy ends with\n%s\nwant\n%s", got[max(0, len(got)-len(data)):], data)
	}
}
