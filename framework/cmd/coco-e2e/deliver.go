package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// delivery is where reports go beside the directory of artefacts: for a run that
// nobody can look into afterwards.
type delivery struct {
	// configMap is namespace/name, or "".
	configMap string
	// sonobuoy is the directory that Sonobuoy's worker watches, or "".
	sonobuoy string
}

// delivered are the files of a ConfigMap, the most important first.
var delivered = []string{"summary.md", "report.yaml", "junit.xml"}

// maxConfigMap is what Kubernetes takes of a ConfigMap's data, less room for the
// rest of the object: 1 MiB in all.
const maxConfigMap = 1<<20 - 16<<10

// check refuses what cannot be delivered to before anything runs.
func (d delivery) check() error {
	if d.configMap == "" {
		return nil
	}
	if ns, name, ok := strings.Cut(d.configMap, "/"); !ok || ns == "" || name == "" || strings.Contains(name, "/") {
		return fmt.Errorf("--config-map %s: want NAMESPACE/NAME", d.configMap)
	}
	return nil
}

// deliver brings the artefacts of dir to where they are wanted.
func (d delivery) deliver(ctx context.Context, dir string, kube kubernetes.Interface) error {
	var errs []error
	if d.configMap != "" {
		if kube == nil {
			errs = append(errs, errors.New("--config-map: there is no cluster to put the report into"))
		} else {
			errs = append(errs, d.toConfigMap(ctx, dir, kube))
		}
	}
	if d.sonobuoy != "" {
		errs = append(errs, d.toSonobuoy(dir))
	}
	return errors.Join(errs...)
}

// configMapData are the files that fit; one that does not as it is goes
// compressed, under its name and .gz.
func configMapData(dir string) (text map[string]string, binary map[string][]byte, err error) {
	text, binary = map[string]string{}, map[string][]byte{}
	left := maxConfigMap
	for _, name := range delivered {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		if len(b) <= left/2 {
			text[name] = string(b)
			left -= len(b)
			continue
		}
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write(b); err != nil {
			return nil, nil, err
		}
		if err := w.Close(); err != nil {
			return nil, nil, err
		}
		if packed.Len() > left {
			return nil, nil, fmt.Errorf("%s does not fit into a ConfigMap: %d bytes compressed", name, packed.Len())
		}
		binary[name+".gz"] = packed.Bytes()
		left -= packed.Len()
	}
	return text, binary, nil
}

func (d delivery) toConfigMap(ctx context.Context, dir string, kube kubernetes.Interface) error {
	ns, name, _ := strings.Cut(d.configMap, "/")
	text, binary, err := configMapData(dir)
	if err != nil {
		return err
	}
	maps := kube.CoreV1().ConfigMaps(ns)
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Data: text, BinaryData: binary}
	_, err = maps.Create(ctx, m, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("report into ConfigMap %s: %w", d.configMap, err)
	}
	return nil
}

// toSonobuoy packs the artefacts and says so in the file done, on which
// Sonobuoy's worker waits (https://sonobuoy.io/docs, plugins, "Contract").
func (d delivery) toSonobuoy(dir string) error {
	archive := filepath.Join(d.sonobuoy, "coco-e2e.tar.gz")
	f, err := os.Create(archive)
	if err != nil {
		return fmt.Errorf("--sonobuoy: %w", err)
	}
	if err := errors.Join(pack(f, dir), f.Close()); err != nil {
		return fmt.Errorf("--sonobuoy: %w", err)
	}
	// The worker reads done as soon as it is there: it comes whole, and last.
	temporary := filepath.Join(d.sonobuoy, ".done")
	if err := os.WriteFile(temporary, []byte(archive), 0o644); err != nil {
		return fmt.Errorf("--sonobuoy: %w", err)
	}
	return os.Rename(temporary, filepath.Join(d.sonobuoy, "done"))
}

// pack writes a directory's regular files.
func pack(w io.Writer, dir string) error {
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := t.WriteHeader(&tar.Header{Name: filepath.ToSlash(relative), Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = t.Write(content)
		return err
	})
	return errors.Join(err, t.Close(), z.Close())
}
