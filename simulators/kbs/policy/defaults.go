package policy

import _ "embed" // for the default policies

// DefaultAttestation is the attestation policy default_cpu until another is set.
//
//go:embed default_cpu.rego
var DefaultAttestation string

// DefaultResource is the resource policy until another is set.
//
//go:embed default_resource.rego
var DefaultResource string
