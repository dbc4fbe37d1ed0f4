package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/onsi/ginkgo/v2/types"
	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// listed is a requirement with the specs that prove it.
type listed struct {
	conformance.Requirement
	Specs []string `json:"specs"`
}

func requirementsCommand() *cobra.Command {
	var format, profile string
	var check bool
	cmd := &cobra.Command{
		Use: "requirements", Short: "List the requirements, with the specs that prove each", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			catalogue, err := conformance.Load()
			if err != nil {
				return err
			}
			if profile != "" && !slices.Contains(conformance.Profiles, conformance.Profile(profile)) {
				return fmt.Errorf("--profile %s: want one of %v", profile, conformance.Profiles)
			}
			o, err := testbed.FromEnvironment()
			if err != nil {
				return err
			}
			o.Provider = testbed.Local
			suites, err := drySpecs(o)
			if err != nil {
				return err
			}
			list, orphans := proofs(catalogue, suites)
			if check {
				return complete(cmd.OutOrStdout(), list, orphans)
			}
			if profile != "" {
				list = slices.DeleteFunc(list, func(l listed) bool { return string(l.Profile) != profile })
			}
			return writeRequirements(cmd.OutOrStdout(), list, format)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table, json or markdown")
	cmd.Flags().StringVar(&profile, "profile", "", "only those of this profile")
	cmd.Flags().BoolVar(&check, "check", false, "fail when a requirement has no spec, or a spec no requirement")
	return cmd
}

// drySpecs compiles the suites and has Ginkgo list their specs without running them.
func drySpecs(o testbed.Options) ([]types.Report, error) {
	binaries, err := compileSuites(o, nil)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "coco-e2e-requirements-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args := append([]string{"tool", "ginkgo", "run", "--dry-run", "--no-color", "--silence-skips", "--output-dir", dir, "--json-report", ginkgoReport}, binaries...)
	cmd := command(o.Root, "go", args...)
	cmd.Env = append(os.Environ(), "COCO_E2E_ROOT="+o.Root)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the specs cannot be listed: %w\n%s", err, out)
	}
	return report.ReadGinkgo(filepath.Join(dir, ginkgoReport))
}

// proofs ties specs to requirements, and returns those that have none.
func proofs(c *conformance.Catalogue, suites []types.Report) (list []listed, orphans []string) {
	specs := map[string][]string{}
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			if !s.LeafNodeType.Is(types.NodeTypeIt) {
				continue
			}
			name, proves := suite.SuiteDescription+": "+s.FullText(), false
			for _, label := range s.Labels() {
				if id, ok := strings.CutPrefix(label, conformance.LabelPrefix); ok {
					specs[id], proves = append(specs[id], name), true
				}
			}
			if !proves {
				orphans = append(orphans, name)
			}
		}
	}
	for _, q := range c.Requirements {
		slices.Sort(specs[q.ID])
		list = append(list, listed{q, slices.Compact(specs[q.ID])})
	}
	return list, orphans
}

// complete fails with what lacks its other half.
func complete(w io.Writer, list []listed, orphans []string) error {
	var errs []error
	n := 0
	for _, l := range list {
		n += len(l.Specs)
		if len(l.Specs) == 0 {
			errs = append(errs, fmt.Errorf("requirement %s has no spec: write one, or take it out of manifests/conformance/requirements.yaml", l.ID))
		}
	}
	for _, o := range orphans {
		errs = append(errs, fmt.Errorf("spec %q proves no requirement: import framework/conformance/proof in its suite, and add proof.Of(id)", o))
	}
	if len(errs) == 0 {
		fmt.Fprintf(w, "requirements: %d, each with a spec; %d proofs\n", len(list), n)
	}
	return errors.Join(errs...)
}

func writeRequirements(w io.Writer, list []listed, format string) error {
	switch format {
	case "json":
		return writeJSON(w, list)
	case "markdown":
		fmt.Fprint(w, "| id | level | profile | requirement | source | specs |\n|---|---|---|---|---|---|\n")
		cell := strings.NewReplacer("|", `\|`, "<", "&lt;")
		for _, l := range list {
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", l.ID, l.Level, l.Profile, cell.Replace(l.Text), cell.Replace(l.Source), strings.ReplaceAll(cell.Replace(strings.Join(l.Specs, "\n")), "\n", "<br>"))
		}
		return nil
	case "table":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ID\tLEVEL\tPROFILE\tSPECS\tREQUIREMENT")
		for _, l := range list {
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", l.ID, l.Level, l.Profile, len(l.Specs), l.Text)
		}
		return t.Flush()
	}
	return fmt.Errorf("--output %s: want table, json or markdown", format)
}
