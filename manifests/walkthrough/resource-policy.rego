# The KBS gives a resource below walkthrough/ to a pod whose TEE measured the
# init-data that the resource is meant for, and to no other. Trustee claims the
# register of each kind of TEE as init_data.
package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == expected[data["resource-path"][2]]
}

# Name of the resource → PCR8 after the measurement of its init-data; HOST_DATA on
# SEV-SNP, MRCONFIGID on TDX.
expected := {
{{- range $tag, $register := .Expected}}
	"{{$tag}}": "{{$register}}",
{{- end}}
}
