package task_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/simulators/shim/stubvm"
)

// What Kata's shim was recorded to send for pods other than the simple one
// (kata-recorded/README.md, 2, 3 and 5).

const (
	secondID   = "5ec0d0000000000000000000000000000000000000000000000000000000002d"
	guestLocal = "/run/kata-containers/shared/containers/" + podID + "/rootfs/local/"
)

// createAll creates the pod with its sandbox container and workloads, none of which is started.
func (p *pod) createAll(workloads ...string) {
	p.t.Helper()
	for _, id := range append([]string{podID}, workloads...) {
		p.must(p.create(id))
	}
}

// sent is the request of a method, for a container where there is one.
func (p *pod) sent(method, container string) map[string]any {
	p.t.Helper()
	for _, call := range p.vm.Calls() {
		fields := stubvm.Fields(call.Message)
		if id, named := fields["container_id"]; call.Method == method && (!named || id == container) {
			return fields
		}
	}
	p.t.Fatalf("no %s of %s among %v", method, container, p.vm.Methods())
	return nil
}

// at is the JSON of what is below a request's fields of these names.
func (p *pod) at(request map[string]any, names ...string) string {
	p.t.Helper()
	var value any = request
	for _, name := range names {
		fields, _ := value.(map[string]any)
		var there bool
		if value, there = fields[name]; !there {
			p.t.Fatalf("no %s", strings.Join(names, "."))
		}
	}
	text, err := json.Marshal(value)
	p.must(err)
	return string(text)
}

func (p *pod) expect(what, got, want string) {
	p.t.Helper()
	if got != want {
		p.t.Errorf("%s: sent %s\nrecorded %s", what, got, want)
	}
}

// editNamespaces keeps the namespaces of a specification that edit returns true for.
func editNamespaces(spec map[string]any, edit func(namespace map[string]any) bool) {
	linux := spec["linux"].(map[string]any)
	linux["namespaces"] = slices.DeleteFunc(linux["namespaces"].([]any), func(n any) bool { return !edit(n.(map[string]any)) })
}

// mountAt is a specification's mount.
func mountAt(spec map[string]any, destination string) map[string]any {
	for _, m := range spec["mounts"].([]any) {
		if m := m.(map[string]any); m["destination"] == destination {
			return m
		}
	}
	return nil
}

func TestPidNamespace(t *testing.T) {
	for name, hostPID := range map[string]bool{"shareProcessNamespace": false, "hostPID": true} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			if hostPID {
				p.writeBundle(podID, pauseSpec, func(spec map[string]any) {
					editNamespaces(spec, func(n map[string]any) bool { return n["type"] != "pid" })
				})
			}
			p.writeBundle(secondID, mainSpec, func(spec map[string]any) {
				editNamespaces(spec, func(n map[string]any) bool {
					if n["type"] == "pid" {
						n["path"] = "/proc/4711/ns/pid"
					}
					return true
				})
			})
			p.createAll(mainID, secondID)
			p.expect("CreateSandbox", p.at(p.sent("CreateSandbox", ""), "sandbox_pidns"), "false")
			for id, want := range map[string]string{podID: "false", mainID: "false", secondID: "true"} {
				r := p.sent("CreateContainer", id)
				p.expect("sandbox_pidns of "+id, p.at(r, "sandbox_pidns"), want)
				p.expect("namespaces of "+id, p.at(r, "OCI", "Linux", "Namespaces"), `[{"Path":"","Type":"ipc"},{"Path":"","Type":"uts"},{"Path":"","Type":"mount"}]`)
			}
		})
	}
}

func TestHostNetwork(t *testing.T) {
	for name, test := range map[string]struct {
		host                            bool
		vmNetwork, hostname, namespaces string
	}{
		"of the pod's own": {false, `"/var/run/netns/cni-3fbdc433-f571-9b1b-bbc7-a8a5933e17ab"`, `"simple"`, `[{"Path":"","Type":"ipc"},{"Path":"","Type":"uts"},{"Path":"","Type":"mount"}]`},
		"of the node":      {true, `""`, `""`, `[{"Path":"","Type":"ipc"},{"Path":"","Type":"mount"}]`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			if test.host {
				p.writeBundle(podID, pauseSpec, func(spec map[string]any) {
					delete(spec, "hostname")
					editNamespaces(spec, func(n map[string]any) bool { return n["type"] != "network" && n["type"] != "uts" })
				})
			}
			p.createAll()
			p.expect("CreateVM", p.at(p.sent("CreateVM", ""), "networkNamespacePath"), test.vmNetwork)
			p.expect("CreateSandbox", p.at(p.sent("CreateSandbox", ""), "hostname"), test.hostname)
			r := p.sent("CreateContainer", podID)
			p.expect("pause's hostname", p.at(r, "OCI", "Hostname"), test.hostname)
			p.expect("pause's namespaces", p.at(r, "OCI", "Linux", "Namespaces"), test.namespaces)
		})
	}
}

// Kata's own annotations stay with a container and with its pull, but for the two that are for the shim; a user's never
// come.
func TestAnnotationsInTheGuest(t *testing.T) {
	p := newPod(t)
	kept := map[string]string{
		"io.katacontainers.config.hypervisor.default_vcpus": "2", "io.katacontainers.config.hypervisor.default_memory": "3072",
		"io.katacontainers.config.hypervisor.machine_type": "large",
	}
	all := maps.Clone(kept)
	all["io.katacontainers.config.agent.policy"] = "cGFja2FnZSBhZ2VudF9wb2xpY3kK"
	p.annotate(podID, pauseSpec, all)
	p.annotate(mainID, mainSpec, all)
	p.createAll(mainID)
	for _, id := range []string{podID, mainID} {
		r := p.sent("CreateContainer", id)
		annotations := r["OCI"].(map[string]any)["Annotations"].(map[string]any)
		for name, value := range kept {
			if annotations[name] != value {
				t.Errorf("%s of %s is %v", name, id, annotations[name])
			}
		}
		for _, name := range []string{"io.katacontainers.config.hypervisor.cc_init_data", "io.katacontainers.config.agent.policy"} {
			if value, there := annotations[name]; there {
				t.Errorf("%s of %s is %v", name, id, value)
			}
		}
		text, err := json.Marshal(map[string]any{"metadata": annotations})
		p.must(err)
		pull := r["storages"].([]any)[0].(map[string]any)
		if options := pull["driver_options"].([]any); len(options) != 1 || options[0] != "image_guest_pull="+string(text) {
			t.Errorf("the pull's options of %s are %v\nand its annotations %s", id, options, text)
		}
	}
}

// Each container that mounts an emptyDir brings its storage, after the image's: memory first, then disk.
func TestStoragesOfEachContainer(t *testing.T) {
	p := newPod(t)
	disk, memory := p.path("volumes/kubernetes.io~empty-dir/scratch"), p.path("volumes/kubernetes.io~empty-dir/ram")
	p.must(os.MkdirAll(disk, 0o777))
	p.must(os.MkdirAll(memory, 0o777))
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "size=4k,gid=2000"); err != nil {
		t.Skip("no right to mount a tmpfs: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(memory, 0) })
	p.must(os.Chown(disk, -1, 2000))
	for _, id := range []string{mainID, secondID} {
		p.writeBundle(id, mainSpec, func(spec map[string]any) {
			spec["mounts"] = append(spec["mounts"].([]any),
				map[string]any{"destination": "/scratch", "source": disk, "type": "bind", "options": []string{"rbind", "rprivate", "rw"}},
				map[string]any{"destination": "/ram", "source": memory, "type": "bind", "options": []string{"rbind", "rprivate", "rw"}})
		})
	}
	p.createAll(mainID, secondID)
	for _, id := range []string{mainID, secondID} {
		r := p.sent("CreateContainer", id)
		storages := r["storages"].([]any)
		if len(storages) != 3 || storages[0].(map[string]any)["driver"] != "image_guest_pull" {
			t.Fatalf("storages of %s: %v", id, storages)
		}
		p.expect("emptyDirs of "+id, p.at(map[string]any{"": storages[1:]}, ""),
			`[{"driver":"ephemeral","driver_options":[],"fs_group":null,"fstype":"tmpfs","mount_point":"/run/kata-containers/sandbox/ephemeral/ram","options":["fsgid=2000"],"shared":false,"source":"tmpfs"},`+
				`{"driver":"local","driver_options":[],"fs_group":null,"fstype":"local","mount_point":"`+guestLocal+`scratch","options":["mode=0777","fsgid=2000"],"shared":false,"source":"local"}]`)
		mounts := r["OCI"].(map[string]any)["Mounts"].([]any)
		p.expect("mounts of "+id, p.at(map[string]any{"": mounts[len(mounts)-2:]}, ""),
			`[{"destination":"/scratch","options":["rbind","rprivate","rw"],"source":"`+guestLocal+`scratch","type":"local"},`+
				`{"destination":"/ram","options":["rbind","rprivate","rw"],"source":"/run/kata-containers/sandbox/ephemeral/ram","type":"bind"}]`)
	}
}

func TestPrivileged(t *testing.T) {
	var capabilities []any
	for _, name := range strings.Fields(`AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE
		DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN
		NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT
		SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_TIME SYS_TTY_CONFIG WAKE_ALARM`) {
		capabilities = append(capabilities, "CAP_"+name)
	}
	p := newPod(t)
	p.writeBundle(mainID, mainSpec, func(spec map[string]any) {
		spec["process"].(map[string]any)["capabilities"] = map[string]any{"bounding": capabilities, "effective": capabilities, "permitted": capabilities}
		for _, destination := range []string{"/sys", "/sys/fs/cgroup"} {
			m := mountAt(spec, destination)
			m["options"] = append(m["options"].([]any)[:len(m["options"].([]any))-1], "rw")
		}
		linux := spec["linux"].(map[string]any)
		delete(linux, "maskedPaths")
		delete(linux, "readonlyPaths")
		linux["resources"].(map[string]any)["devices"] = []any{map[string]any{"allow": true, "access": "rwm"}}
	})
	p.createAll(mainID)
	r := p.sent("CreateContainer", mainID)
	want, err := json.Marshal(capabilities)
	p.must(err)
	if len(capabilities) != 40 {
		t.Fatal(len(capabilities))
	}
	for set, want := range map[string]string{"Bounding": string(want), "Effective": string(want), "Permitted": string(want), "Inheritable": "[]", "Ambient": "[]"} {
		p.expect(set, p.at(r, "OCI", "Process", "Capabilities", set), want)
	}
	for _, field := range [][]string{{"MaskedPaths"}, {"ReadonlyPaths"}, {"Devices"}, {"Resources", "Devices"}} {
		p.expect(strings.Join(field, "."), p.at(r, append([]string{"OCI", "Linux"}, field...)...), "[]")
	}
	p.expect("devices", p.at(r, "devices"), "[]")
	for _, m := range r["OCI"].(map[string]any)["Mounts"].([]any) {
		m := m.(map[string]any)
		switch m["destination"] {
		case "/sys":
			p.expect("/sys", p.at(m, "options"), `["nosuid","noexec","nodev","rw"]`)
		case "/sys/fs/cgroup":
			p.expect("/sys/fs/cgroup", p.at(m, "options"), `["nosuid","noexec","nodev","relatime","rw"]`)
		}
	}
}

// A directory's mode comes with its type, its setgid bit and its sticky one.
func TestModesOfDirectories(t *testing.T) {
	for mode, want := range map[os.FileMode]string{
		0o777: "16895", 0o777 | os.ModeSticky: "17407", 0o777 | os.ModeSticky | os.ModeSetgid: "18431",
	} {
		p := newPod(t)
		dir := p.path("volumes/kubernetes.io~projected/v")
		p.must(os.MkdirAll(dir, 0o777))
		p.must(os.Chmod(dir, mode))
		p.writeBundle(mainID, mainSpec, func(spec map[string]any) {
			spec["mounts"] = []any{map[string]any{"destination": "/v", "source": dir, "type": "bind", "options": []string{"rbind", "rprivate", "ro"}}}
		})
		p.createAll(mainID)
		found := false
		for _, call := range p.vm.Calls() {
			fields := stubvm.Fields(call.Message)
			if path, _ := fields["path"].(string); call.Method == "CopyFile" && filepath.Base(path) != path && strings.HasPrefix(filepath.Base(path), mainID) {
				found = true
				p.expect("mode of "+path, p.at(fields, "file_mode"), want)
				p.expect("dir_mode", p.at(fields, "dir_mode"), "2147484136")
			}
		}
		if !found {
			t.Errorf("%v: nothing was copied", mode)
		}
	}
}
