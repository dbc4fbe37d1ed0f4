# Appraises a TPM by what it measured as init-data: PCR8 has to be one of the
# reference values.
package policy

import rego.v1

default executables := 33

default hardware := 97

default configuration := 36

executables := 3 if input.tpm.pcr08 in query_reference_value("tpm.pcr08")

hardware := 2 if input.tpm

configuration := 2 if input.tpm

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
}
