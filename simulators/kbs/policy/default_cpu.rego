# The attestation policy until an administrator sets another: Trustee's rules
# for the TEEs tpm and sample. Reference values are set through the KBS.
#
# Values are those of AR4SI: 2 to 31 affirming, 32 to 95 warning, 96 and above
# contraindicated. What no rule recognises is not trusted.
package policy

import rego.v1

trust_claims := {
	"instance-identity": 0,
	"configuration": configuration,
	"executables": executables,
	"file-system": 0,
	"hardware": hardware,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

default executables := 33

default hardware := 97

default configuration := 36

# A TPM alone says nothing of the hardware around it; its attestation key is
# trusted because the administrator listed it.
executables := 3 if {
	input.tpm.pcr11 in query_reference_value("tpm_pcr11")
	input.tpm.ak_public in query_reference_value("trusted_aks")
}

hardware := 2 if input.tpm

configuration := 0 if input.tpm

executables := 3 if {
	input.sample.launch_digest in query_reference_value("launch_digest")
}

hardware := 2 if {
	input.sample.svn in query_reference_value("svn")
	input.sample.platform_version.major == query_reference_value("major_version")
	input.sample.platform_version.minor >= query_reference_value("minimum_minor_version")
}

configuration := 2 if input.sample.debug == false
