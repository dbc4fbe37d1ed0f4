package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/specs"
	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// proofPackage ties specs to requirements; every suite imports it.
const proofPackage = "github.com/coco-e2e/coco-e2e/framework/conformance/proof"

// requirementsPage is the generated page of requirements, below the checkout's root.
const requirementsPage = "docs/requirements.md"

func requirementsCommand() *cobra.Command {
	var output, profile string
	var check, write bool
	cmd := &cobra.Command{
		Use: "requirements", Short: "List the requirements of the catalogue with the specs that prove each", Args: cobra.NoArgs,
		Long: "List the requirements of the catalogue with the specs that prove each. Specs are found in a checkout, whose suites are compiled; elsewhere the catalogue alone is listed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			printer, err := requirementsPrinter(output)
			if err != nil {
				return err
			}
			catalogue, err := conformance.Load()
			if err != nil {
				return err
			}
			chosen, err := ofProfile(catalogue, profile)
			if err != nil {
				return err
			}
			o, err := testbed.FromEnvironment()
			o.Progress = progress.New(cmd.ErrOrStderr())
			if errors.Is(err, testbed.ErrNoCheckout) && !check && !write {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: %v; the catalogue is listed without specs\n", err)
				return printer(cmd.OutOrStdout(), chosen, nil)
			}
			if err != nil {
				return err
			}
			suites, err := findSpecs(o)
			if err != nil {
				return err
			}
			switch proofs := specs.Prove(suites); {
			case check:
				return checkRequirements(cmd.OutOrStdout(), o.Root, catalogue, suites)
			case write:
				var page bytes.Buffer
				if err := specs.Markdown(&page, catalogue.Requirements, proofs); err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(o.Root, requirementsPage), page.Bytes(), 0o644)
			default:
				return printer(cmd.OutOrStdout(), chosen, proofs)
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or markdown")
	cmd.Flags().StringVar(&profile, "profile", "", fmt.Sprintf("list this profile only, one of %v", conformance.Profiles))
	cmd.Flags().BoolVar(&check, "check", false, "fail when a requirement has no spec, a spec no requirement, a suite no check of its specs, or "+requirementsPage+" is not current")
	cmd.Flags().BoolVar(&write, "write", false, "write "+requirementsPage)
	cmd.MarkFlagsMutuallyExclusive("check", "write", "profile")
	cmd.MarkFlagsMutuallyExclusive("check", "write", "output")
	return cmd
}

func requirementsPrinter(output string) (func(io.Writer, []conformance.Requirement, specs.Proofs) error, error) {
	switch output {
	case "table":
		return specs.Table, nil
	case "json":
		return specs.JSON, nil
	case "markdown":
		return specs.Markdown, nil
	}
	return nil, fmt.Errorf("--output %q: use table, json or markdown", output)
}

// ofProfile returns a profile's requirements, or all when profile is "".
func ofProfile(c *conformance.Catalogue, profile string) ([]conformance.Requirement, error) {
	if profile == "" {
		return c.Requirements, nil
	}
	if !slices.Contains(conformance.Profiles, conformance.Profile(profile)) {
		return nil, fmt.Errorf("--profile %q: use one of %v", profile, conformance.Profiles)
	}
	return slices.DeleteFunc(slices.Clone(c.Requirements), func(r conformance.Requirement) bool { return string(r.Profile) != profile }), nil
}

// findSpecs compiles every suite of the checkout and asks it for its specs.
func findSpecs(o testbed.Options) ([]specs.Suite, error) {
	names, err := allSuites(o.Root)
	if err != nil {
		return nil, err
	}
	binaries, err := compile(o, names)
	if err != nil {
		return nil, err
	}
	suites := make([]specs.Suite, 0, len(names))
	for i, name := range names {
		found, err := drySpecs(name, binaries[i])
		if err != nil {
			return nil, err
		}
		checked, err := importsProof(o.Root, name)
		if err != nil {
			return nil, err
		}
		suites = append(suites, specs.Suite{Name: name, Checked: checked, Specs: found})
	}
	return suites, nil
}

// drySpecs runs a suite dry: its tree is built, and no set-up and no spec runs.
func drySpecs(name, binary string) ([]specs.Spec, error) {
	dir, err := os.MkdirTemp("", "coco-e2e-specs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "report.json")
	cmd := command(dir, binary, "-ginkgo.dry-run", "-ginkgo.no-color", "-ginkgo.json-report="+report)
	// Who is not root may look too: with an agent that is given, the suite of
	// the agent builds its tree as it does with its own.
	if os.Getuid() != 0 {
		cmd.Env = append(os.Environ(), "AGENT_ADDRESS=unix:///nowhere")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("suite %s: dry run: %w\n%s", name, err, out)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		return nil, fmt.Errorf("suite %s: dry run: %w", name, err)
	}
	return specs.Parse(name, text)
}

// importsProof reports whether the tests of a suite import package proof.
func importsProof(root, name string) (bool, error) {
	out, err := command(root, "go", "list", "-f", `{{join .TestImports "\n"}}{{"\n"}}{{join .XTestImports "\n"}}`, "./suites/"+name).Output()
	if err != nil {
		return false, fmt.Errorf("go list ./suites/%s: %w", name, err)
	}
	return slices.Contains(strings.Fields(string(out)), proofPackage), nil
}

// checkRequirements prints what is wrong, or how many specs prove how many requirements.
func checkRequirements(w io.Writer, root string, c *conformance.Catalogue, suites []specs.Suite) error {
	wrong := specs.Check(c, suites)
	var page bytes.Buffer
	if err := specs.Markdown(&page, c.Requirements, specs.Prove(suites)); err != nil {
		return err
	}
	if text, err := os.ReadFile(filepath.Join(root, requirementsPage)); err != nil || !bytes.Equal(text, page.Bytes()) {
		wrong = append(wrong, requirementsPage+" is not current: run make requirements")
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n  "))
	}
	count := 0
	for _, s := range suites {
		count += len(s.Specs)
	}
	_, err := fmt.Fprintf(w, "%d requirements, each with a spec; %d specs in %d suites, each with a requirement\n", len(c.Requirements), count, len(suites))
	return err
}
