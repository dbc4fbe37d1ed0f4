package main

import (
	"encoding/hex"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/measure"
)

func initDataCommand() *cobra.Command {
	return &cobra.Command{
		Use: "initdata FILE", Short: "Print an init-data file's digest, expected PCR8 and annotation", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			out := c.OutOrStdout()
			raw, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			d, err := initdata.Parse(raw)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if err := d.Validate(); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			digest, err := d.Digest()
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			annotation, err := initdata.EncodeAnnotation(raw)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "digest (%s): %s\n", d.Algorithm, hex.EncodeToString(digest))
			if pcr8, err := measure.PCR8(digest); err == nil {
				fmt.Fprintf(out, "PCR8: %s\n", hex.EncodeToString(pcr8))
			} else {
				fmt.Fprintf(out, "PCR8: none: %v\n", err)
			}
			fmt.Fprintf(out, "size: %d bytes, %d in the annotation (Kubernetes takes %d bytes of keys and values in all of a pod's annotations)\n",
				len(raw), len(annotation), apivalidation.TotalAnnotationSizeLimitB)
			fmt.Fprintf(out, "%s: %s\n", initdata.AnnotationKey, annotation)
			return nil
		},
	}
}
