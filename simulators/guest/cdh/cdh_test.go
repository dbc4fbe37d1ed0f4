package cdh

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseResourceURI(t *testing.T) {
	for _, test := range []struct {
		text string
		want ResourceURI
	}{
		// Of guest-components' resource_uri tests.
		{"kbs:///alice/cosign-key/213", ResourceURI{"resource", "alice", "cosign-key", "213", ""}},
		{"kbs:///repo/type/tag?param1=value1&param2=value2", ResourceURI{"resource", "repo", "type", "tag", "param1=value1&param2=value2"}},
		{"kbs+pkcs11:///repo/type/tag", ResourceURI{"pkcs11", "repo", "type", "tag", ""}},
		{"kbs+custom://example.com:8080/repo/type/tag", ResourceURI{"custom", "repo", "type", "tag", ""}},
		{"kbs:///_a/b.c/-d.e", ResourceURI{"resource", "_a", "b.c", "-d.e", ""}},
	} {
		got, err := ParseResourceURI(test.text)
		if err != nil || *got != test.want {
			t.Errorf("%q: %+v, %v", test.text, got, err)
		}
	}
	for _, text := range []string{
		"", "kbs:", "kbs://", "kbs:///", "kbs:///a", "kbs:///a/b", "kbs:///a/b/", "kbs:///a/b/c/", "kbs:///a/b/c/d", "kbs:///a//c", "a/b/c", "/a/b/c",
		"http:///repo/type/tag", "kbs+:///repo/type/tag", "kbs+a.b:///repo/type/tag", "kbs:a/b/c", "kbs:///../b/c", "kbs:///a/../c", "kbs:///a/b/..",
		"kbs:///a/b/.c", "kbs:///a/b/c%2fd", "kbs:///a/b/%2e%2e", "kbs:///a/b/c d", "kbs:///a/b/c#d", "kbs://u:p@h/a/b/c", "kbs:///a/b/ü",
		"kbs:///a/b/c?x\ny", "kbs:///a/b/c?x y", "kbs:///a/b/" + strings.Repeat("c", 5000),
	} {
		if got, err := ParseResourceURI(text); err == nil || !strings.HasPrefix(err.Error(), "invalid kbs resource uri ") {
			t.Errorf("%.64q: %+v, %v", text, got, err)
		}
	}
}

// FuzzParseResourceURI checks that no URI leads away from its plugin's resources.
func FuzzParseResourceURI(f *testing.F) {
	for _, seed := range []string{"kbs:///a/b/c", "kbs+x://h:1/a/b/c?q=1", "kbs:///a/../../c", "kbs:///a/b/c%00", "kbs:///%61/b/c", "kbs:///a/b/c?q#f"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		uri, err := ParseResourceURI(text)
		if err != nil {
			return
		}
		address, err := url.Parse("http://kbs:8080/kbs/v0/" + uri.Path())
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		want := strings.Join([]string{"", "kbs", "v0", uri.Plugin, uri.Repository, uri.Type, uri.Tag}, "/")
		if address.Host != "kbs:8080" || address.Path != want || address.JoinPath().Path != want || address.RawQuery != uri.Query || address.Fragment != "" {
			t.Errorf("%q leads to %q", text, address)
		}
	})
}

func TestLoadConfig(t *testing.T) {
	const socket = "unix:///run/confidential-containers/cdh.sock"
	for _, test := range []struct {
		name, toml, environment string
		wantSocket              string
		want                    KBCConfig
		wantErr                 string
	}{
		{
			"the walkthrough's", "socket = 'unix:///run/confidential-containers/cdh.sock'\ncredentials = []\n[kbc]\nname = 'cc_kbc'\nurl = 'http://kbs:8080'", "",
			socket,
			KBCConfig{"cc_kbc", "http://kbs:8080", ""},
			"",
		},
		{"other socket", "socket = 'unix:///tmp/x'\n[kbc]\nname = 'cc_kbc'\nurl = 'u'\nkbs_cert = 'c'", "", "unix:///tmp/x", KBCConfig{"cc_kbc", "u", "c"}, ""},
		{"environment", "", "cc_kbc::http://kbs", socket, KBCConfig{"cc_kbc", "http://kbs", ""}, ""},
		{"nothing", "", "", socket, KBCConfig{}, ""},
		{"what is not known is ignored", "[log]\nlevel = 'x'\n[image]\nmax_concurrent_layer_downloads_per_image = 3", "", socket, KBCConfig{}, ""},
		{"bad socket", "socket = '/run/x'", "", "", KBCConfig{}, "cdh.toml: socket: "},
		{"broken", "[", "", "", KBCConfig{}, "cdh.toml: "},
		{"image policy", "[image]\nimage_security_policy_uri = 'kbs:///a/b/c'", "", "", KBCConfig{}, "cdh.toml: image: "},
		{"bad environment", "", "nonsense", "", KBCConfig{}, "AA_KBC_PARAMS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := ""
			if test.toml != "" {
				path = filepath.Join(t.TempDir(), "cdh.toml")
				if err := os.WriteFile(path, []byte(test.toml), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			config, err := LoadConfig(path, test.environment)
			if test.wantErr != "" {
				if err == nil || !strings.HasPrefix(err.Error(), test.wantErr) {
					t.Errorf("error %v, want %s…", err, test.wantErr)
				}
				return
			}
			if err != nil || config.Socket != test.wantSocket || config.KBC != test.want {
				t.Errorf("%+v, %v", config, err)
			}
		})
	}
}

func TestKBCConfig(t *testing.T) {
	for _, test := range []struct {
		config KBCConfig
		want   string
	}{
		{KBCConfig{}, "cdh.toml has no [kbc]"},
		{KBCConfig{Name: "offline_fs_kbc"}, `cdh.toml: kbc.name "offline_fs_kbc": only "cc_kbc"`},
		{KBCConfig{Name: "cc_kbc", URL: "kbs:8080"}, "cdh.toml: kbc.url"},
	} {
		if _, err := test.config.base(); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%+v: %v", test.config, err)
		}
	}
	if _, err := (&KBCConfig{Cert: "x"}).roots(); err == nil || !strings.HasPrefix(err.Error(), "cdh.toml: kbc.kbs_cert") {
		t.Errorf("certificate: %v", err)
	}
}
