// Package release_test asserts who gets a secret and who does not: for every
// kind of TEE, every way to present init-data, and every way to cheat on the
// way from quote to resource.
package release_test

import (
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// bed is what this process's specs run against.
var bed = suite.Testbed()

func TestRelease(t *testing.T) { suite.Run(t, "release") }

// limit bounds a spec; setting up a kind's pods may take as long.
const limit = 2 * time.Minute
