package kind

import "sigs.k8s.io/kind/pkg/log"

var _ log.Logger = quiet{}

// Warn prints a warning of kind's.
func (q quiet) Warn(message string) { q.p.Printf("kind: %s", message) }

// Warnf prints a warning of kind's.
func (q quiet) Warnf(format string, args ...any) { q.p.Printf("kind: "+format, args...) }

// Error prints an error of kind's.
func (q quiet) Error(message string) { q.p.Printf("kind: %s", message) }

// Errorf prints an error of kind's.
func (q quiet) Errorf(format string, args ...any) { q.p.Printf("kind: "+format, args...) }

// V drops what kind does step by step: the step as a whole is shown.
func (q quiet) V(log.Level) log.InfoLogger { return log.NoopInfoLogger{} }
