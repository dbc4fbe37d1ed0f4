package initdata_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// everythingElse allows what a pod needs to run and to be asked, but creating
// containers and running programs in them.
const everythingElse = `
default CloseStdinRequest := true
default CopyFileRequest := true
default CreateSandboxRequest := true
default DestroySandboxRequest := true
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default ReadStreamRequest := true
default RemoveContainerRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true
default SignalProcessRequest := true
default StartContainerRequest := true
default StatsContainerRequest := true
default WaitProcessRequest := true
`

// strict is a policy that allows any container, and in it these commands only.
func strict(commands ...string) string {
	GinkgoHelper()
	list, err := json.Marshal(commands)
	Expect(err).NotTo(HaveOccurred())
	return "package agent_policy\n" + everythingElse + `
default CreateContainerRequest := true
default ExecProcessRequest := false
ExecProcessRequest if concat(" ", input.process.Args) in ` + string(list) + "\n"
}

// blind is a policy that allows containers only if the OCI spec that the guest
// is given has no annotation of this key.
func blind(key string) string {
	return "package agent_policy\n" + everythingElse + fmt.Sprintf(`
default CreateContainerRequest := false
default ExecProcessRequest := true
CreateContainerRequest if not input.OCI.Annotations[%q]
`, key)
}

// mountRule is one of many rules of the shape of genpolicy's. The digest makes
// it compress as those do, which repeat each other less: five to one.
const mountRule = `
allow_mount_%[1]d(p_mount, i_mount) if {
	print("allow_mount_%[1]d: p_mount =", p_mount)
	p_mount.destination == i_mount.destination
	p_mount.type_ == i_mount.type_
	p_mount.root_hash != "%[2]s"
	p_mount.options == i_mount.options
	regex.match(p_mount.source, i_mount.source)
	print("allow_mount_%[1]d: true")
}
`

// generated is a policy as long and as deep as genpolicy's: its rules, 57 kB,
// and after them a description of each container, the pod's own last, and the
// commands that may run in it.
func generated(containers int, commands ...string) string {
	GinkgoHelper()
	var out strings.Builder
	out.WriteString("package agent_policy\n" + everythingElse + `
default CreateContainerRequest := false
default ExecProcessRequest := false

CreateContainerRequest if {
	every storage in input.storages {
		some container in policy_data.containers
		storage.source == container.OCI.Annotations["io.kubernetes.cri.image-name"]
	}
}

ExecProcessRequest if {
	print("ExecProcessRequest: args =", input.process.Args)
	some command in policy_data.request_defaults.ExecProcessRequest.allowed_commands
	input.process.Args == command
}
`)
	for i := 0; out.Len() < 57_600; i++ {
		fmt.Fprintf(&out, mountRule, i, fingerprint(fmt.Sprint("layer", i)))
	}
	images := []string{"pause"}
	for i := range containers {
		images = append(images, fmt.Sprintf("registry.example/team-%d/service@sha256:%s", i%7, fingerprint(fmt.Sprint("image", i))))
	}
	data := map[string]any{"containers": describe(append(images, bed.Nginx)), "request_defaults": allow(commands)}
	text, err := json.MarshalIndent(data, "", "  ")
	Expect(err).NotTo(HaveOccurred())
	return out.String() + "\npolicy_data := " + string(text) + "\n"
}

// describe gives each image's container what genpolicy would say of it.
func describe(images []string) []any {
	var out []any
	for i, image := range images {
		out = append(out, map[string]any{
			"OCI": map[string]any{
				"Version": "1.1.0",
				"Annotations": map[string]string{
					"io.kubernetes.cri.container-name": fmt.Sprintf("service-%d", i), "io.kubernetes.cri.container-type": "container",
					"io.kubernetes.cri.image-name": image,
				},
				"Process": map[string]any{
					"Args": []string{"/usr/bin/service", "--shard", fmt.Sprint(i)}, "Cwd": "/", "NoNewPrivileges": true,
					"Env": []string{
						"PATH=/usr/local/bin:/usr/bin", "CONFIG_DIGEST=" + fingerprint(fmt.Sprint("config", i)),
						"CATALOG_DIGEST=" + fingerprint(fmt.Sprint("catalog", i)), "TRUST_ANCHOR=" + fingerprint(fmt.Sprint("anchor", i)),
					},
					"User": map[string]any{"UID": 65534, "GID": 65534, "AdditionalGids": []int{}},
				},
				"Mounts": []any{map[string]any{
					"destination": "/etc/hosts", "type_": "bind", "options": []string{"rbind", "rprivate", "rw"},
					"source": `^$(cpath)/$(bundle-id)-[a-z0-9]{16}-hosts$`,
				}},
			},
			"storages": []any{}, "sandbox_pidns": false, "exec_commands": []any{},
		})
	}
	return out
}

func allow(commands []string) any {
	var list [][]string
	for _, c := range commands {
		list = append(list, strings.Fields(c))
	}
	return map[string]any{"ExecProcessRequest": map[string]any{"allowed_commands": list}}
}

func fingerprint(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
