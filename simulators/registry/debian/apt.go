// Package debian takes files out of Debian's packages without installing them.
//
// It asks this machine's apt, with a package database of nothing installed, so that the answer does not depend on the
// machine's own packages and changes none of them. It must not know what the files are for.
package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Cache keeps packages and which of them were chosen, so that the next build takes the same ones, without a network.
type Cache struct {
	// Dir holds the packages; it is made when missing and may be removed at any time but during a call.
	Dir string
}

// chosen is the file that says which packages were chosen for a request.
type chosen struct {
	// Files are names in the cache and the SHA-256 of their content.
	Files map[string]string `json:"files"`
}

// Packages gives the paths of package files: those asked for and all they depend on, without recommendations. What an
// earlier call chose is taken again unless refresh is set or a file changed; otherwise apt chooses and downloads.
func (c Cache) Packages(ctx context.Context, names []string, refresh bool) ([]string, error) {
	var err error
	// apt takes a relative path as one below its own directories.
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	names = slices.Sorted(slices.Values(names))
	key := sha256.Sum256([]byte(strings.Join(names, " ")))
	record := filepath.Join(c.Dir, "chosen-"+hex.EncodeToString(key[:8])+".json")
	if !refresh {
		if files, err := c.recall(record); err == nil {
			return files, nil
		}
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "partial"), 0o755); err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	files, err := c.choose(ctx, names)
	if err != nil {
		return nil, err
	}
	return c.remember(record, files)
}

// recall gives the files of an earlier choice if all of them are as they were.
func (c Cache) recall(record string) ([]string, error) {
	text, err := os.ReadFile(record)
	if err != nil {
		return nil, err
	}
	var was chosen
	if err := json.Unmarshal(text, &was); err != nil {
		return nil, fmt.Errorf("%s: %w", record, err)
	}
	if len(was.Files) == 0 {
		return nil, fmt.Errorf("%s: no packages in it", record)
	}
	var files []string
	for name, want := range was.Files {
		path := filepath.Join(c.Dir, name)
		if got, err := digest(path); err != nil || got != want {
			return nil, fmt.Errorf("%s: not as it was: %w", path, err)
		}
		files = append(files, path)
	}
	slices.Sort(files)
	return files, nil
}

func (c Cache) remember(record string, names []string) ([]string, error) {
	now := chosen{Files: map[string]string{}}
	var files []string
	for _, name := range names {
		path := filepath.Join(c.Dir, name)
		sum, err := digest(path)
		if err != nil {
			return nil, fmt.Errorf("downloaded package: %w", err)
		}
		now.Files[name] = sum
		files = append(files, path)
	}
	text, err := json.MarshalIndent(now, "", "\t")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(record, text, 0o644); err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	slices.Sort(files)
	return files, nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// choose downloads with the machine's package lists, or, when these are missing or too old for the mirror, with new ones
// of the cache's own.
func (c Cache) choose(ctx context.Context, names []string) ([]string, error) {
	files, err := c.download(ctx, nil, names)
	if err == nil || ctx.Err() != nil {
		return files, err
	}
	lists := filepath.Join(c.Dir, "lists")
	if mkdir := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); mkdir != nil {
		return nil, errors.Join(err, mkdir)
	}
	own := []string{"-o", "Dir::State::lists=" + lists}
	if _, update := c.apt(ctx, append(own, "update")...); update != nil {
		return nil, fmt.Errorf("%w; with new package lists: %w", err, update)
	}
	return c.download(ctx, own, names)
}

// download gives the names that apt gives to the packages' files, once they are in the cache.
func (c Cache) download(ctx context.Context, options, names []string) ([]string, error) {
	// apt lists only what is not there yet: let it look into a directory where nothing is.
	none := filepath.Join(c.Dir, "none")
	if err := os.MkdirAll(filepath.Join(none, "partial"), 0o755); err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	install := func(archives string, how ...string) ([]byte, error) {
		args := append(slices.Clone(options), "-o", "Dir::Cache::archives="+archives)
		return c.apt(ctx, slices.Concat(args, how, []string{"install"}, names)...)
	}
	list, err := install(none, "--print-uris")
	if err != nil {
		return nil, err
	}
	files, err := parseURIs(list)
	if err != nil {
		return nil, err
	}
	_, err = install(c.Dir, "--download-only")
	return files, err
}

// parseURIs reads lines of: 'URI' FILE SIZE [DIGEST].
func parseURIs(list []byte) ([]string, error) {
	var files []string
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.HasPrefix(fields[0], "'") {
			continue
		}
		if name := fields[1]; filepath.Base(name) != name || !strings.HasSuffix(name, ".deb") {
			return nil, fmt.Errorf("apt-get --print-uris: %q is not a package's file name", name)
		}
		files = append(files, fields[1])
	}
	if len(files) == 0 {
		return nil, errors.New("apt-get --print-uris: no packages in its answer")
	}
	return files, nil
}

func (c Cache) apt(ctx context.Context, args ...string) ([]byte, error) {
	status := filepath.Join(c.Dir, "nothing-installed")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	common := []string{
		"-y", "-qq", "-o", "Dir::State::status=" + status, "-o", "Dir::State::extended_states=" + status,
		// Neither the machine's caches nor its hooks have anything to do with this.
		"-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=",
		"-o", "APT::Update::Pre-Invoke::=true", "-o", "APT::Sandbox::User=root",
		"-o", "APT::Install-Recommends=false", "-o", "APT::Install-Suggests=false", "-o", "Acquire::Retries=2",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "-o", "Acquire::Languages=none",
	}
	var out, text bytes.Buffer
	cmd := exec.CommandContext(ctx, "apt-get", append(common, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = &out, &text
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(text.String()))
	}
	return out.Bytes(), nil
}
