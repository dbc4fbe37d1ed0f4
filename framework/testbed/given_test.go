package testbed

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// givenKBS answers an administrator as Trustee does, and keeps what it was asked.
type givenKBS struct {
	*httptest.Server
	asked []string
	deny  bool
}

func newGivenKBS(t *testing.T) *givenKBS {
	k := &givenKBS{}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked := r.Method + " " + r.URL.Path
		var policy struct{ Policy string }
		if json.Unmarshal(body, &policy) == nil && policy.Policy != "" {
			text, _ := base64.RawURLEncoding.DecodeString(policy.Policy)
			asked += " " + string(text)
		}
		k.asked = append(k.asked, asked)
		kind := ""
		if strings.HasSuffix(r.URL.Path, "/absent") {
			kind = "PluginInternalError"
		}
		if k.deny {
			kind = "AdminAuthAccess"
		}
		if kind != "" {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]string{"type": "https://github.com/confidential-containers/kbs/errors/" + kind, "detail": "no"})
		}
	}))
	t.Cleanup(k.Close)
	return k
}

func TestRestoreKBS(t *testing.T) {
	const policy = "package policy\ndefault allow := false\n"
	k := newGivenKBS(t)
	h := &Handle{Name: "x", StateRoot: t.TempDir(), ExternalKBS: ExternalKBS{URL: "http://kbs", AdminURL: k.URL, AdminToken: "t", ResourcePolicy: policy}}
	if err := os.Mkdir(h.StateRoot+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	restore := func(want ...string) {
		t.Helper()
		k.asked = nil
		if err := restoreKBS(t.Context(), h); err != nil {
			t.Error(err)
		}
		slices.Sort(k.asked)
		if !reflect.DeepEqual(k.asked, want) {
			t.Errorf("asked %q, want %q", k.asked, want)
		}
	}
	change := func(path string) {
		t.Helper()
		if err := h.WillChangeKBS(path); err != nil {
			t.Fatal(err)
		}
	}
	restore() // nothing was changed
	change("")
	restore("POST /kbs/v0/resource-policy " + policy)
	restore() // nothing since
	for _, path := range []string{"coco-e2e/ns/one", "coco-e2e/ns/absent", "coco-e2e/ns/one"} {
		change(path)
	}
	restore("DELETE /kbs/v0/resource/coco-e2e/ns/absent", "DELETE /kbs/v0/resource/coco-e2e/ns/one", "POST /kbs/v0/resource-policy "+policy)

	// One that does not let it be done is told, and asked again the next time.
	change("coco-e2e/ns/one")
	k.deny = true
	if err := restoreKBS(t.Context(), h); err == nil || !strings.Contains(err.Error(), "KBS_RESOURCE_POLICY has to be set again") {
		t.Errorf("a KBS that refuses: %v", err)
	}
	k.deny = false
	restore("DELETE /kbs/v0/resource/coco-e2e/ns/one", "POST /kbs/v0/resource-policy "+policy)

	// Without its policy specs set none; a chart's KBS and the run's own go as they are.
	h.ExternalKBS.ResourcePolicy = ""
	change("coco-e2e/ns/one")
	restore("DELETE /kbs/v0/resource/coco-e2e/ns/one")
	change("coco-e2e/ns/one")
	h.ExternalKBS.Chart = "/trustee"
	restore()
}
