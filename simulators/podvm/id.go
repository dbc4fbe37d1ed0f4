package podvm

import (
	"fmt"
	"regexp"
	"strings"
)

// Annotations of CreateVM that are looked at; Kata's shim sends more (recorded from Kata 4.1's Go shim).
const (
	annotationInitData  = "io.katacontainers.config.hypervisor.cc_init_data"
	annotationName      = "io.kubernetes.cri.sandbox-name"
	annotationNamespace = "io.kubernetes.cri.sandbox-namespace"
)

// word is what may become part of a file name: containerd's ids and Kubernetes' names are such words.
var word = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,252}$`)

// checkID refuses ids that are not good as a directory's or a cgroup's name. No id begins with a dot: such names in the
// state directory are the daemon's own.
func checkID(id string) error {
	if len(id) > 128 || !word.MatchString(id) {
		return fmt.Errorf("VM id %q: use 1 to 128 letters, digits, '_', '.' and '-', beginning with a letter or digit", id)
	}
	return nil
}

// logName names a VM's directory of logs: <namespace>_<pod>_<id>, "unknown" standing for what is not annotated.
func logName(id string, annotations map[string]string) (string, error) {
	parts := []string{}
	for _, key := range []string{annotationNamespace, annotationName} {
		value := annotations[key]
		if value == "" {
			value = "unknown"
		}
		if !word.MatchString(value) {
			return "", fmt.Errorf("annotation %s = %q: not a Kubernetes name", key, value)
		}
		parts = append(parts, value)
	}
	name := strings.Join(append(parts, id), "_")
	if len(name) > 255 {
		// A pod's name may have 253 characters; the file system allows 255 in all. The id is what tells pods apart.
		name = name[:255-1-len(id)] + "_" + id
	}
	return name, nil
}
