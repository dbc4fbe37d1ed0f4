package sandbox

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/simulators/shim/config"
)

// Annotations of Kata's (virtcontainers/pkg/annotations) and of containerd's CRI plugin (pkg/cri/annotations).
const (
	kataConfigPrefix     = "io.katacontainers.config."
	hypervisorPrefix     = kataConfigPrefix + "hypervisor."
	runtimePrefix        = kataConfigPrefix + "runtime."
	annotationPolicy     = kataConfigPrefix + "agent.policy"
	annotationGuestPull  = runtimePrefix + "experimental_force_guest_pull"
	annotationCreateTime = runtimePrefix + "create_container_timeout"
	annotationMemory     = hypervisorPrefix + "default_memory"
	annotationVCPUs      = hypervisorPrefix + "default_vcpus"
	annotationMachine    = hypervisorPrefix + "machine_type"
	annotationImage      = hypervisorPrefix + "image"
	annotationGPUs       = hypervisorPrefix + "default_gpus"
	annotationGPUModel   = hypervisorPrefix + "default_gpu_model"
	annotationBundle     = "io.katacontainers.pkg.oci.bundle_path"
	annotationType       = "io.katacontainers.pkg.oci.container_type"
	annotationNetNS      = "nerdctl/network-namespace"

	annotationCRIType          = "io.kubernetes.cri.container-type"
	annotationCRISandboxID     = "io.kubernetes.cri.sandbox-id"
	annotationCRISandboxName   = "io.kubernetes.cri.sandbox-name"
	annotationCRISandboxNS     = "io.kubernetes.cri.sandbox-namespace"
	annotationCRIImage         = "io.kubernetes.cri.image-name"
	annotationCRISandboxCPU    = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationCRISandboxPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	annotationCRISandboxMemory = "io.kubernetes.cri.sandbox-memory"
)

// settings are what a pod's annotations and the configuration make together.
type settings struct {
	vm                     map[string]string // CreateVM's annotations
	policy                 string            // for SetPolicy; empty when the pod brings none by annotation
	forceGuestPull         bool
	createContainerTimeout time.Duration
}

// podSettings judges a sandbox container's annotations. Its errors are those of Kata's Go shim (pkg/oci/utils.go).
func podSettings(c config.Config, annotations map[string]string) (*settings, error) {
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if hypervisor, ok := strings.CutPrefix(name, hypervisorPrefix); ok && !enabled(c, hypervisor) {
			return nil, fmt.Errorf("annotation %s is not enabled", name)
		}
	}
	s := &settings{forceGuestPull: c.ForceGuestPull, createContainerTimeout: c.CreateContainerTimeout}
	if err := s.setRuntime(annotations); err != nil {
		return nil, err
	}
	initData, err := podInitData(c, annotations)
	if err != nil {
		return nil, err
	}
	vcpus, memory, err := vmSize(c, annotations)
	if err != nil {
		return nil, err
	}
	gpus, err := number(annotations, annotationGPUs, 0)
	if err != nil {
		return nil, err
	}
	s.vm = map[string]string{
		initdata.AnnotationKey:   initData,
		annotationMachine:        annotations[annotationMachine],
		annotationImage:          annotations[annotationImage],
		annotationGPUs:           strconv.FormatUint(gpus, 10),
		annotationGPUModel:       annotations[annotationGPUModel],
		annotationVCPUs:          strconv.FormatUint(vcpus, 10),
		annotationMemory:         strconv.FormatUint(memory, 10),
		annotationCRISandboxName: annotations[annotationCRISandboxName],
		annotationCRISandboxNS:   annotations[annotationCRISandboxNS],
	}
	return s, nil
}

func enabled(c config.Config, name string) bool {
	for _, pattern := range c.EnableAnnotations {
		if pattern.MatchString(name) {
			return true
		}
	}
	return false
}

func (s *settings) setRuntime(annotations map[string]string) error {
	if value, ok := annotations[annotationGuestPull]; ok {
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("annotation %s is %q: use true or false", annotationGuestPull, value)
		}
		s.forceGuestPull = on
	}
	if !s.forceGuestPull {
		return fmt.Errorf("images can only be pulled in the guest: set [runtime] experimental_force_guest_pull in the shim's configuration, or annotation %s, to true", annotationGuestPull)
	}
	if _, ok := annotations[annotationCreateTime]; ok {
		seconds, err := number(annotations, annotationCreateTime, 0)
		if err != nil {
			return err
		}
		if seconds == 0 || seconds > math.MaxInt32 {
			return fmt.Errorf("annotation %s is %d: set it to a number of seconds above 0", annotationCreateTime, seconds)
		}
		s.createContainerTimeout = time.Duration(seconds) * time.Second
	}
	if value, ok := annotations[annotationPolicy]; ok && value != "" {
		policy, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return fmt.Errorf("annotation %s must be base64 of a policy: %w", annotationPolicy, err)
		}
		s.policy = string(policy)
	}
	return nil
}

// podInitData returns the pod's init-data as TOML, or nothing if it brings none.
func podInitData(c config.Config, annotations map[string]string) (string, error) {
	raw, err := initdata.DecodeAnnotation(annotations[initdata.AnnotationKey])
	if err != nil {
		return "", err
	}
	if legacy := annotations[initdata.LegacyAnnotationKey]; c.LegacyInitData && legacy != "" {
		if raw != nil {
			return "", fmt.Errorf("init-data is given twice: drop annotation %s or %s", initdata.AnnotationKey, initdata.LegacyAnnotationKey)
		}
		if raw, err = initdata.DecodeLegacyAnnotation(legacy); err != nil {
			return "", err
		}
	}
	if raw == nil {
		return "", nil
	}
	document, err := initdata.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("parsing initdata annotation failed: %w", err)
	}
	if !slices.Contains(initdata.Algorithms(), document.Algorithm) {
		// Kata's shim panics here (pkg/oci/utils.go:1135) and containerd reports "ttrpc: closed".
		return "", fmt.Errorf("init-data field algorithm is %q: use one of %q", document.Algorithm, initdata.Algorithms())
	}
	return string(raw), nil
}

// vmSize adds the pod's limits, which containerd sums up in annotations, to the VM's own size: CPUs are rounded up,
// memory is in MiB, rounded down (Kata static_sandbox_resource_mgmt, pkg/oci/utils.go CalculateSandboxSizing).
func vmSize(c config.Config, annotations map[string]string) (vcpus, memory uint64, err error) {
	cpus := float64(c.DefaultVCPUs)
	if text, ok := annotations[annotationVCPUs]; ok {
		if cpus, err = strconv.ParseFloat(text, 32); err != nil || !(cpus >= 0 && cpus <= math.MaxInt32) {
			return 0, 0, fmt.Errorf("annotation %s is %q: use a number that is not negative", annotationVCPUs, text)
		}
	}
	if memory, err = number(annotations, annotationMemory, uint64(c.DefaultMemoryMiB)); err != nil {
		return 0, 0, err
	}
	// A missing or malformed sum counts for nothing: it comes from containerd, not from the pod.
	quota, _ := strconv.ParseInt(annotations[annotationCRISandboxCPU], 10, 64)
	period, _ := strconv.ParseUint(annotations[annotationCRISandboxPeriod], 10, 64)
	if quota > 0 && period > 0 {
		cpus += float64(quota) / float64(period)
	}
	limit, _ := strconv.ParseInt(annotations[annotationCRISandboxMemory], 10, 64)
	return uint64(math.Ceil(cpus)), memory + uint64(max(limit, 0))>>20, nil
}

func number(annotations map[string]string, name string, absent uint64) (uint64, error) {
	text, ok := annotations[name]
	if !ok {
		return absent, nil
	}
	value, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("annotation %s is %q: use a whole number that is not negative", name, text)
	}
	return value, nil
}

// guestAnnotations are a container's annotations as the guest is told them: without those that carry init-data or a
// policy, with the shim's own.
func guestAnnotations(c config.Config, annotations map[string]string, bundle, containerType string) map[string]string {
	guest := maps.Clone(annotations)
	if guest == nil {
		guest = map[string]string{}
	}
	delete(guest, initdata.AnnotationKey)
	delete(guest, annotationPolicy)
	if c.LegacyInitData {
		delete(guest, initdata.LegacyAnnotationKey)
	}
	guest[annotationBundle] = bundle
	guest[annotationType] = containerType
	return guest
}
