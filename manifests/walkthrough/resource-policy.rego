# The KBS gives a resource below walkthrough/ to a pod whose TPM measured the
# init-data that the resource is meant for, and to no other.
package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == expected[data["resource-path"][2]]
}

# Name of the resource → PCR8 after the measurement of its init-data.
expected := {
{{- range $tag, $pcr8 := .Expected}}
	"{{$tag}}": "{{$pcr8}}",
{{- end}}
}
