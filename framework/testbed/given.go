package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/kbs"
)

// GivenRepository is the repository of a given KBS that a run's resources are in, and the only one that its policies
// are for.
const GivenRepository = "coco-e2e"

// Given says that the KBS is somebody's, who gets it back as it was: not the run's own, and not a chart's that the run
// installed.
func (k ExternalKBS) Given() bool { return k.URL != "" && k.Chart == "" }

// restoreTimeout bounds what a KBS that may be gone is asked for at the end.
const restoreTimeout = 30 * time.Second

// resourcesFile lists the resources that a run has put into a given KBS, a path a line, so that a killed run's can be
// removed too.
func (h *Handle) resourcesFile() string {
	return filepath.Join(h.StateRoot, h.Name, "kbs-resources")
}

// WillChangeKBS notes, before it is so, that a given KBS gets a resource, or with an empty path another policy.
func (h *Handle) WillChangeKBS(path string) error {
	f, err := os.OpenFile(h.resourcesFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, path)
	return errors.Join(err, f.Close())
}

// restoreKBS gives a KBS back as it was: without the run's resources, and with the resource policy that it had.
func restoreKBS(ctx context.Context, h *Handle) error {
	if h == nil || !h.ExternalKBS.Given() {
		return nil
	}
	k := h.ExternalKBS
	paths, err := lines(h.resourcesFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil // no spec changed it
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	client, err := kbs.New(kbs.Options{URL: k.AdminURL, CA: []byte(k.CA), AdminToken: k.AdminToken})
	if err != nil {
		return err
	}
	var errs []error
	if k.ResourcePolicy != "" {
		errs = append(errs, client.SetResourcePolicy(ctx, k.ResourcePolicy))
	}
	for _, path := range paths {
		var answer *kbs.Error
		// A resource that is not there is answered as a plugin's failure: a spec may have removed it, or not have come to
		// setting it.
		if err := client.DeleteResource(ctx, path); !errors.As(err, &answer) || answer.Type != kbs.TypePluginInternalError {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the KBS %s is not as it was found: resources of the repository %s may be left there, and the policy from KBS_RESOURCE_POLICY has to be set again: %w",
			k.AdminURL, GivenRepository, err)
	}
	return os.Remove(h.resourcesFile())
}

// lines are the distinct lines of a file that are not empty.
func lines(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := slices.Sorted(strings.FieldsSeq(string(text)))
	return slices.Compact(all), nil
}
