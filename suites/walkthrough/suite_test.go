// Package walkthrough_test is the article "Policing a Sandbox" as specs: what
// it shows a reader by hand is shown here by a machine, step by step.
package walkthrough_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// bed is what this process's specs run against.
var bed = suite.Testbed()

func TestWalkthrough(t *testing.T) { suite.Run(t, "walkthrough") }

// container is the name of the article's container.
const container = "nginx"

// confidentialPod is a pod that runs image as the article's does.
func confidentialPod(ns, name, image string, annotations map[string]string) *corev1.Pod {
	return bed.Pod(ns, name, func(p *corev1.Pod) {
		p.Annotations = annotations
		p.Spec.Containers = []corev1.Container{{Name: container, Image: image}}
	})
}
