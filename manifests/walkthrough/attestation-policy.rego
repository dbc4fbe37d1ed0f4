# Appraises a pod by what its TEE measured as init-data: the register has to be
# one of the reference values. A TPM's is PCR8.
package policy

import rego.v1

default executables := 33

default hardware := 97

default configuration := 36

executables := 3 if input.tpm.pcr08 in query_reference_value("tpm.pcr08")

# Azure's machines have a TPM above SEV-SNP and TDX.
executables := 3 if input["az-snp-vtpm"].tpm.pcr08 in query_reference_value("tpm.pcr08")

executables := 3 if input["az-tdx-vtpm"].tpm.pcr08 in query_reference_value("tpm.pcr08")

# HOST_DATA of SEV-SNP and MRCONFIGID of TDX: Trustee claims both as init_data.
executables := 3 if {
	some kind in ["snp", "tdx"]
	input[kind]
	input.init_data in query_reference_value("init_data")
}

# Evidence of kind sample comes from no hardware.
known if {
	some kind in ["tpm", "az-snp-vtpm", "az-tdx-vtpm", "snp", "tdx"]
	input[kind]
}

hardware := 2 if known

configuration := 2 if known

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
}
