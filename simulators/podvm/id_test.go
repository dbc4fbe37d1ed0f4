package podvm

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestLogName(t *testing.T) {
	id := strings.Repeat("a", 64)
	for _, tc := range []struct {
		name, namespace, pod, want string
	}{
		{"both", "default", "nginx-cc-694cc48b65-lklj7", "default_nginx-cc-694cc48b65-lklj7_" + id},
		{"no annotations", "", "", "unknown_unknown_" + id},
		{"longest", strings.Repeat("n", 63), strings.Repeat("p", 253), strings.Repeat("n", 63) + "_" + strings.Repeat("p", 126) + "_" + id},
	} {
		got, err := logName(id, map[string]string{annotationNamespace: tc.namespace, annotationName: tc.pod})
		if err != nil || got != tc.want {
			t.Errorf("%s: got %q %v, want %q", tc.name, got, err, tc.want)
		}
	}
	for _, bad := range []string{"..", "a/b", "/etc", "a\x00", "a\nb", ".hidden", strings.Repeat("p", 254)} {
		for _, key := range []string{annotationName, annotationNamespace} {
			if got, err := logName(id, map[string]string{key: bad}); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("%s = %q: got %q %v", key, bad, got, err)
			}
		}
	}
}

// FuzzNames has no id and no annotation lead out of the directories that they become part of.
func FuzzNames(f *testing.F) {
	f.Add("0123abcd", "default", "pod")
	f.Add("../..", "a/b", "..")
	f.Fuzz(func(t *testing.T, id, namespace, pod string) {
		if checkID(id) != nil {
			return
		}
		if dir := filepath.Join("/state", id); filepath.Dir(dir) != "/state" || strings.HasPrefix(id, ".") {
			t.Errorf("id %q is directory %q", id, dir)
		}
		name, err := logName(id, map[string]string{annotationNamespace: namespace, annotationName: pod})
		if err != nil {
			return
		}
		if dir := filepath.Join("/log", name); filepath.Dir(dir) != "/log" || strings.HasPrefix(name, ".") || len(name) > 255 {
			t.Errorf("log directory %q", dir)
		}
	})
}
