# The resource policy until an administrator sets another: every resource, for
# every token but those that the sample TEE got. It does not ask whether the
# token's appraisal was good, as Trustee's does not.
package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	not input.submods.cpu0["ear.veraison.annotated-evidence"].sample
}
