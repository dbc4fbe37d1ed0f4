package leak

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSearch(t *testing.T) {
	mark := NewMark()
	secret := mark + "the rest?>"
	numbers := []int{}
	for _, b := range []byte(secret) {
		numbers = append(numbers, int(b))
	}
	list, _ := json.Marshal(numbers)
	filler := strings.Repeat("x", chunk-7)
	for name, tc := range map[string]struct {
		content, form string
	}{
		"plain":       {"token=" + secret, "plain"},
		"hex":         {hex.EncodeToString([]byte("a" + secret)), "hex"},
		"HEX":         {strings.ToUpper(hex.EncodeToString([]byte(secret))), "HEX"},
		"base64-0":    {base64.StdEncoding.EncodeToString([]byte(secret)), "base64"},
		"base64-1":    {base64.StdEncoding.EncodeToString([]byte("?" + secret)), "base64"},
		"base64-2":    {base64.RawURLEncoding.EncodeToString([]byte("??" + secret)), "base64"},
		"numbers":     {string(list), "numbers"},
		"at the seam": {filler + secret, "plain"},
		"later":       {filler + filler + filler + secret, "plain"},
		"nothing":     {filler + mark[:len(mark)-1], ""},
		"empty":       {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "sub", "file")
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			found, err := Search(dir, mark)
			if err != nil {
				t.Fatal(err)
			}
			if tc.form == "" {
				if len(found) > 0 {
					t.Errorf("found %v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Form != tc.form || found[0].Path != path {
				t.Fatalf("found %v, want %s", found, tc.form)
			}
			if tc.form == "plain" && !bytes.HasPrefix([]byte(tc.content)[found[0].Offset:], []byte(mark)) {
				t.Errorf("offset %d is not the mark's", found[0].Offset)
			}
		})
	}
	if _, err := Search(t.TempDir(), "short"); err == nil {
		t.Error("a short mark was taken")
	}
}
