package main

import (
	"encoding/hex"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/measure"
)

func initDataCommand() *cobra.Command {
	return &cobra.Command{
		Use: "initdata FILE", Short: "Print an init-data file's digest, expected PCR8 and annotation", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			raw, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			d, err := initdata.Parse(raw)
			if err != nil {
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
			fmt.Printf("digest (%s): %s\n", d.Algorithm, hex.EncodeToString(digest))
			if pcr8, err := measure.PCR8(digest); err == nil {
				fmt.Printf("PCR8: %s\n", hex.EncodeToString(pcr8))
			} else {
				fmt.Printf("PCR8: none: %v\n", err)
			}
			fmt.Printf("%s: %s\n", initdata.AnnotationKey, annotation)
			return nil
		},
	}
}
