package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
)

// Why `report diff` exits with 1.
var (
	errNewlyFailing = errors.New("requirements or specs of them fail that did not fail before")
	errLost         = errors.New("MUSTs that passed before are not asked any more (--allow-lost takes that)")
)

func reportCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "report", Short: "Validate, render, compare, merge and sign conformance reports"}
	cmd.AddCommand(validateCommand(), renderCommand(), diffCommand(), mergeCommand(), signCommand(), verifyCommand())
	return cmd
}

func validateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "validate FILE…", Short: "Check reports and what is rendered from them", Args: cobra.MinimumNArgs(1),
		Long: "Check each report.yaml: by its schema, that its verdicts follow from its results, and that artefacts beside it are those that it names;\n" +
			"and each report.html, summary.md and junit.xml: that it is what the report.yaml beside it is rendered to.",
		RunE: func(cmd *cobra.Command, files []string) error {
			var errs []error
			for _, file := range files {
				check := validateReport
				if slices.Contains([]string{".html", ".md", ".xml"}, filepath.Ext(file)) {
					check = validateRendered
				}
				text, err := check(file)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", file, text)
			}
			return errors.Join(errs...)
		},
	}
}

// validateReport checks a report, and says what it is.
func validateReport(file string) (string, error) {
	r, err := report.Read(file)
	if err != nil {
		return "", err
	}
	compared, absent, err := r.CheckFiles(filepath.Dir(file))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	text := fmt.Sprintf("valid, %s of %s", r.Claim, r.Implementation.Name)
	if compared+absent > 0 {
		text += fmt.Sprintf("; %d artefacts are as it says, %d are not beside it", compared, absent)
	}
	if !r.CatalogueKnown() {
		text += fmt.Sprintf("; its catalogue %s is not this program's, with which its requirements would be compared", r.Suite.Catalogue)
	}
	return text, nil
}

// validateRendered compares a rendered report with what the report beside it gives.
func validateRendered(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	of := filepath.Join(filepath.Dir(file), report.FileName)
	r, err := report.Read(of)
	if err != nil {
		return "", fmt.Errorf("%s is checked against the report that it is of: %w", file, err)
	}
	for format, f := range formats {
		if filepath.Ext(f.file) != filepath.Ext(file) {
			continue
		}
		var want bytes.Buffer
		if err := f.render(r, &want); err != nil {
			return "", err
		}
		if !bytes.Equal(want.Bytes(), content) {
			return "", fmt.Errorf("%s is not what %s is rendered to: it was changed, is of another run, or of another version of coco-e2e; `coco-e2e report render %s --format %s -o %s` makes it anew", file, of, of, format, file)
		}
	}
	return "valid, it is of " + of, nil
}

// output writes to a file, whole or not at all, or to the command's output.
func output(cmd *cobra.Command, file string, write func(io.Writer) error) error {
	if file == "" || file == "-" {
		return write(cmd.OutOrStdout())
	}
	return renderTo(file, write)
}

func unknownFormat(format string, known ...string) error {
	return fmt.Errorf("--format %s: want one of %s", format, strings.Join(known, ", "))
}

func renderCommand() *cobra.Command {
	var format, out string
	cmd := &cobra.Command{
		Use: "render FILE", Short: "Render a report", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, ok := formats[format]
			if !ok {
				return unknownFormat(format, slices.Sorted(maps.Keys(formats))...)
			}
			r, err := report.Read(args[0])
			if err != nil {
				return err
			}
			return output(cmd, out, func(w io.Writer) error { return f.render(r, w) })
		},
	}
	cmd.Flags().StringVar(&format, "format", "html", "html, markdown or junit")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write (standard output)")
	return cmd
}

func diffCommand() *cobra.Command {
	var format string
	var allowLost bool
	cmd := &cobra.Command{
		Use: "diff OLD NEW", Short: "Say what newly fails, newly passes and still fails; exit with 1 when something newly fails, or a MUST that passed is not asked", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			old, err := report.Read(args[0])
			if err != nil {
				return err
			}
			now, err := report.Read(args[1])
			if err != nil {
				return err
			}
			d := report.Compare(old, now)
			switch format {
			case "text":
				err = d.Text(cmd.OutOrStdout())
			case "markdown":
				err = d.Markdown(cmd.OutOrStdout())
			case "json":
				err = writeJSON(cmd.OutOrStdout(), d)
			default:
				return unknownFormat(format, "text", "markdown", "json")
			}
			if n := len(d.NewlyFailing); n > 0 {
				err = errors.Join(err, fmt.Errorf("%w: %d", errNewlyFailing, n))
			}
			if n := len(d.Lost()); n > 0 && !allowLost {
				err = errors.Join(err, fmt.Errorf("%w: %d", errLost, n))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text, markdown or json")
	cmd.Flags().BoolVar(&allowLost, "allow-lost", false, "do not exit with 1 for MUSTs that passed and are now skipped, not run or not applicable")
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func mergeCommand() *cobra.Command {
	var format, out string
	cmd := &cobra.Command{
		Use: "merge FILE…", Short: "Join the reports of several platforms into one matrix", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			var reports []*report.Report
			for _, file := range files {
				r, err := report.Read(file)
				if err != nil {
					return err
				}
				reports = append(reports, r)
			}
			m, err := report.Merge(reports...)
			if err != nil {
				return err
			}
			return output(cmd, out, func(w io.Writer) error {
				switch format {
				case "markdown":
					return m.Markdown(w)
				case "html":
					return m.HTML(w)
				case "yaml":
					b, err := yaml.Marshal(m)
					if err != nil {
						return err
					}
					_, err = w.Write(b)
					return err
				}
				return unknownFormat(format, "markdown", "html", "yaml")
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "markdown", "markdown, html or yaml")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write (standard output)")
	return cmd
}

func signCommand() *cobra.Command {
	var key, out string
	cmd := &cobra.Command{
		Use: "sign FILE", Short: "Sign a report: an in-toto statement over its digest in a DSSE envelope", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			content, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			private, err := os.ReadFile(key)
			if err != nil {
				return fmt.Errorf("--key: %w", err)
			}
			envelope, err := report.Sign(cmd.Context(), filepath.Base(args[0]), content, private)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if out == "" {
				out = args[0] + ".dsse.json"
			}
			return output(cmd, out, func(w io.Writer) error { _, err := w.Write(append(envelope, '\n')); return err })
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "file with an Ed25519 or ECDSA P-256 private key, PEM (required)")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write (FILE.dsse.json)")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}

func verifyCommand() *cobra.Command {
	var key, envelope string
	cmd := &cobra.Command{
		Use: "verify FILE", Short: "Check a report's signature, its digest and the report itself", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			content, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			public, err := os.ReadFile(key)
			if err != nil {
				return fmt.Errorf("--key: %w", err)
			}
			if envelope == "" {
				envelope = args[0] + ".dsse.json"
			}
			signed, err := os.ReadFile(envelope)
			if err != nil {
				return fmt.Errorf("--envelope: %w", err)
			}
			s, err := report.Verify(cmd.Context(), signed, content, public)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: signed by this key, %s\n", args[0], s.Predicate.Claim)
			for _, profile := range slices.Sorted(maps.Keys(s.Predicate.Verdicts)) {
				fmt.Fprintf(cmd.OutOrStdout(), "  %-15s %s\n", profile, s.Predicate.Verdicts[profile])
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "file with the public key, PEM (required)")
	cmd.Flags().StringVar(&envelope, "envelope", "", "the envelope (FILE.dsse.json)")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}
