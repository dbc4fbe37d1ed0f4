# Resource policy: nobody gets anything.
package policy

import rego.v1

default allow := false
