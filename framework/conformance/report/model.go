// Package report says what came of the requirements of the catalogue in a run:
// one model, the file report.yaml, and what is rendered from it.
//
// It must not know clusters or suites: it reads Ginkgo's report of a run, and is
// told what the run ran on.
package report

import (
	"time"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
)

// APIVersion and Kind begin every report. A change that a reader of the former
// version would misread gets another version.
const (
	APIVersion = "conformance.coco-e2e.dev/v1"
	Kind       = "ConformanceReport"
)

// Result is what came of a spec, or of a requirement.
type Result string

// The results. See [Combine] for how a requirement's follows from its specs'.
const (
	Passed Result = "passed"
	Failed Result = "failed"
	// Inconclusive has shown neither that what is asked holds nor that it does not.
	Inconclusive Result = "inconclusive"
	// Skipped could not be asked of this platform.
	Skipped Result = "skipped"
	// NotRun was left out by the one who ran the suites, or by an aborted run.
	NotRun Result = "not-run"
	// NotApplicable is about kinds of TEE that the platform does not have.
	NotApplicable Result = "not-applicable"
)

// Results are all results, in the order of reports.
var Results = []Result{Failed, Inconclusive, Skipped, NotRun, Passed, NotApplicable}

// Claim is what the verdicts of a report are worth.
type Claim string

// The claims.
const (
	// Simulated: what was tested is a simulation, and a verdict says nothing of hardware.
	Simulated Claim = "simulated-conformance"
	// Hardware: every TEE was real, its evidence verified under its vendor's roots.
	Hardware Claim = "conformance"
)

// Report is the file report.yaml. Equal results on equal platforms give equal
// bytes but for Run, the seconds and what failures quote; ResultDigest is equal.
type Report struct {
	APIVersion string `json:"apiVersion" yaml:"apiVersion"`
	Kind       string `json:"kind" yaml:"kind"`
	// Claim is what conforms to a profile may be read as.
	Claim Claim `json:"claim" yaml:"claim"`
	// ResultDigest is over what is claimed of what, and the result of every
	// requirement and spec, SHA-256.
	ResultDigest   string              `json:"resultDigest" yaml:"resultDigest"`
	Suite          Suite               `json:"suite" yaml:"suite"`
	Implementation Implementation      `json:"implementation" yaml:"implementation"`
	Environment    Environment         `json:"environment" yaml:"environment"`
	Profiles       []ProfileResult     `json:"profiles" yaml:"profiles"`
	Requirements   []RequirementResult `json:"requirements" yaml:"requirements"`
	// SetUp is what failed outside specs: it keeps every profile from conforming.
	SetUp []Spec `json:"setUp,omitempty" yaml:"setUp,omitempty"`
	Run   Run    `json:"run" yaml:"run"`
}

// Suite is who asked.
type Suite struct {
	Module string `json:"module" yaml:"module"`
	// Commit of the suites; "" when it is not known.
	Commit string `json:"commit" yaml:"commit"`
	// Modified says that the checkout had changes beside the commit.
	Modified bool `json:"modified" yaml:"modified"`
	// Catalogue is the digest of the catalogue of requirements.
	Catalogue string `json:"catalogue" yaml:"catalogue"`
}

// Implementation is what was asked.
type Implementation struct {
	// Name of the runtime of confidential pods.
	Name string `json:"name" yaml:"name"`
	// Simulated says that the TEE is, of any of the classes.
	Simulated bool `json:"simulated" yaml:"simulated"`
	// Roots is under whose roots the run verifies evidence: vendor, test or none.
	Roots string `json:"roots" yaml:"roots"`
	// KBS is simulator, chart (Trustee's, installed by the run), given or none.
	KBS string `json:"kbs" yaml:"kbs"`
	// Classes are the RuntimeClasses of confidential pods.
	Classes []Class `json:"classes" yaml:"classes"`
}

// Class is a RuntimeClass.
type Class struct {
	Name string `json:"name" yaml:"name"`
	// TEE is the kind of evidence of its pods, "" when it is not known.
	TEE string `json:"tee" yaml:"tee"`
	// Simulated says that the TEE of its pods is.
	Simulated bool `json:"simulated" yaml:"simulated"`
	// EventLog says that its guests measure what is asked of their agent.
	EventLog bool `json:"eventLog,omitempty" yaml:"eventLog,omitempty"`
	// Kata is the version that it is marked with.
	Kata string `json:"kata,omitempty" yaml:"kata,omitempty"`
	// Handler is what it is called in the nodes' container runtime.
	Handler string `json:"handler,omitempty" yaml:"handler,omitempty"`
	// Nodes is how many nodes take its pods.
	Nodes int `json:"nodes,omitempty" yaml:"nodes,omitempty"`
}

// Environment is what the implementation ran on.
type Environment struct {
	// Provider of the cluster: local, kind or existing.
	Provider   string `json:"provider" yaml:"provider"`
	Kubernetes string `json:"kubernetes" yaml:"kubernetes"`
	Nodes      []Node `json:"nodes" yaml:"nodes"`
	// OtherClasses are RuntimeClasses that are there and were not asked for.
	OtherClasses []Class `json:"otherClasses,omitempty" yaml:"otherClasses,omitempty"`
	// Trustee is the KBS; nil when there was none.
	Trustee *Trustee `json:"trustee,omitempty" yaml:"trustee,omitempty"`
}

// Trustee is a KBS, as far as it is known what it is.
type Trustee struct {
	// Version is its own, or "unknown".
	Version string `json:"version" yaml:"version"`
	// Image of its pods, where the run started them.
	Image string `json:"image,omitempty" yaml:"image,omitempty"`
	// Chart is the Helm chart that the run installed, with its version.
	Chart string `json:"chart,omitempty" yaml:"chart,omitempty"`
	// Host is that of a KBS which was there already.
	Host string `json:"host,omitempty" yaml:"host,omitempty"`
}

// String is the KBS in words.
func (t *Trustee) String() string {
	text := "version " + t.Version
	for _, part := range []struct{ before, what string }{{", chart ", t.Chart}, {", image ", t.Image}, {", at ", t.Host}} {
		if part.what != "" {
			text += part.before + part.what
		}
	}
	return text
}

// Node is a node of the cluster.
type Node struct {
	Name    string   `json:"name" yaml:"name"`
	Runtime string   `json:"runtime" yaml:"runtime"`
	Kernel  string   `json:"kernel" yaml:"kernel"`
	OS      string   `json:"os" yaml:"os"`
	TEEs    []string `json:"tees,omitempty" yaml:"tees,omitempty"`
	// Kata says that it is labelled as one with Kata.
	Kata bool `json:"kata,omitempty" yaml:"kata,omitempty"`
	// Labels are those about TEEs.
	Labels map[string]string `json:"labels,omitempty" yaml:"labels,omitempty"`
	// Resources are how many confidential VMs it has keys for.
	Resources map[string]string `json:"resources,omitempty" yaml:"resources,omitempty"`
}

// ProfileResult is what a profile's requirements come to.
type ProfileResult struct {
	Name conformance.Profile `json:"name" yaml:"name"`
	// Conforms: every MUST that applies passed, and there was one.
	Conforms bool `json:"conforms" yaml:"conforms"`
	// Statistics count requirements by level and result.
	Statistics map[conformance.Level]map[Result]int `json:"statistics" yaml:"statistics"`
	// Open are the MUSTs that keep it from conforming.
	Open []string `json:"open,omitempty" yaml:"open,omitempty"`
}

// RequirementResult is a requirement with what came of it.
type RequirementResult struct {
	conformance.Requirement `yaml:",inline"`
	Result                  Result `json:"result" yaml:"result"`
	// Reason says why it is not passed.
	Reason  string  `json:"reason,omitempty" yaml:"reason,omitempty"`
	Seconds float64 `json:"seconds" yaml:"seconds"`
	Specs   []Spec  `json:"specs,omitempty" yaml:"specs,omitempty"`
}

// Spec is one spec of the run.
type Spec struct {
	// Text is its full text, containers first.
	Text   string `json:"text" yaml:"text"`
	Suite  string `json:"suite" yaml:"suite"`
	Result Result `json:"result" yaml:"result"`
	// TEE is the kind of evidence that it is about, when it is about one.
	TEE string `json:"tee,omitempty" yaml:"tee,omitempty"`
	// Location is file:line below the module.
	Location string  `json:"location" yaml:"location"`
	Seconds  float64 `json:"seconds" yaml:"seconds"`
	// Reason is why it did not pass: the failure's text, or why it was skipped.
	Reason   string          `json:"reason,omitempty" yaml:"reason,omitempty"`
	Evidence []EvidenceTable `json:"evidence,omitempty" yaml:"evidence,omitempty"`
	Pods     []PodTimeline   `json:"pods,omitempty" yaml:"pods,omitempty"`
	// Notes are what else the spec has told: figures, and explanations of its failure.
	Notes []Note `json:"notes,omitempty" yaml:"notes,omitempty"`
	Files []File `json:"files,omitempty" yaml:"files,omitempty"`
}

// Note is a named text.
type Note struct {
	Name string `json:"name" yaml:"name"`
	Text string `json:"text" yaml:"text"`
}

// EvidenceTable is what verified evidence claims, beside what was expected.
type EvidenceTable struct {
	Kind string `json:"kind" yaml:"kind"`
	// Roots is under whose roots it was verified: vendor, test, or none where no
	// certificate vouches for its kind; "" where it was not told.
	Roots  string          `json:"roots,omitempty" yaml:"roots,omitempty"`
	Claims []EvidenceClaim `json:"claims" yaml:"claims"`
}

// EvidenceClaim is a register or another claim of evidence.
type EvidenceClaim struct {
	Name     string `json:"name" yaml:"name"`
	Expected string `json:"expected,omitempty" yaml:"expected,omitempty"`
	Actual   string `json:"actual" yaml:"actual"`
}

// PodTimeline is what was asked of the agent in a pod's guest, in order.
type PodTimeline struct {
	Namespace string     `json:"namespace" yaml:"namespace"`
	Name      string     `json:"name" yaml:"name"`
	Events    []RPCEvent `json:"events" yaml:"events"`
	// Dropped is how many more there were.
	Dropped int `json:"dropped,omitempty" yaml:"dropped,omitempty"`
}

// RPCEvent is one request of the agent's.
type RPCEvent struct {
	// Milliseconds since the first request.
	Milliseconds int64  `json:"ms" yaml:"ms"`
	RPC          string `json:"rpc" yaml:"rpc"`
	Endpoint     string `json:"endpoint,omitempty" yaml:"endpoint,omitempty"`
	// Decision is the policy's: allowed, denied, error or unchecked.
	Decision string `json:"decision" yaml:"decision"`
	// Code is the status that the caller got.
	Code string `json:"code" yaml:"code"`
	// Why is the reason of what the policy refused.
	Why string `json:"why,omitempty" yaml:"why,omitempty"`
}

// File is an artefact of the run.
type File struct {
	// Path is relative to the report.
	Path   string `json:"path" yaml:"path"`
	SHA256 string `json:"sha256" yaml:"sha256"`
	Size   int64  `json:"size" yaml:"size"`
}

// Run is what differs between runs with equal results.
type Run struct {
	Started time.Time `json:"started" yaml:"started"`
	Seconds float64   `json:"seconds" yaml:"seconds"`
	// Seed of the order of specs.
	Seed int64 `json:"seed" yaml:"seed"`
	// Command reproduces the run.
	Command string `json:"command" yaml:"command"`
	// Selection is what was asked for in place of everything.
	Selection string `json:"selection,omitempty" yaml:"selection,omitempty"`
	// Aborted says why specs did not run, when that is so.
	Aborted string `json:"aborted,omitempty" yaml:"aborted,omitempty"`
}
