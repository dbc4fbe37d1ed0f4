package main

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/measure"
)

func evidenceCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "evidence", Short: "Verify or show attestation evidence",
		Long: "Verify or show attestation evidence, as a guest's /aa/evidence gives it or a KBS attest message carries it. FILE may be - for standard input.",
	}
	command.AddCommand(evidenceVerifyCommand(), evidenceShowCommand())
	return command
}

// evidenceFlags are what a user demands of evidence.
type evidenceFlags struct {
	kind, reportData, initData, trustedAK, testRoots, eventLog, output string
	eventPCR                                                           uint32
	allowDebug                                                         bool
}

func (f *evidenceFlags) common(command *cobra.Command) *cobra.Command {
	command.Flags().StringVar(&f.kind, "kind", "", fmt.Sprintf("kind of evidence, one of %q; told by its fields if absent", evidence.Kinds))
	command.Flags().StringVarP(&f.output, "output", "o", "table", "table or json")
	return command
}

func evidenceVerifyCommand() *cobra.Command {
	var flags evidenceFlags
	command := &cobra.Command{
		Use: "verify FILE", Short: "Verify evidence, name the first broken link, print the claims", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return flags.verify(c.OutOrStdout(), c.ErrOrStderr(), args[0])
		},
	}
	command.Flags().StringVar(&flags.reportData, "report-data", "",
		"report data that must be bound: hex, or text:… for the bytes of a text; an attest message's own if absent")
	command.Flags().StringVar(&flags.initData, "init-data", "", "init-data file that must be bound; an attest message's own if absent")
	command.Flags().StringVar(&flags.trustedAK, "trusted-ak", "", "file with the only TPM attestation keys to trust, in PEM or as base64 of DER")
	command.Flags().StringVar(&flags.testRoots, "test-roots", "", "directory with test roots to trust beside the vendors' (amd-ark.pem, amd-ask.pem, intel-root.pem)")
	command.Flags().Uint32Var(&flags.eventPCR, "event-pcr", 0, "PCR that the guest's agent measures into, for --event-log: attestation-agent's eventlog_config.init_pcr (default 17)")
	command.Flags().StringVar(&flags.eventLog, "event-log", "",
		"event log that must lead to the quoted registers, such as a guest's /run/attestation-agent/eventlog")
	command.Flags().BoolVar(&flags.allowDebug, "allow-debug", false, "accept guests that their host may debug")
	return flags.common(command)
}

func evidenceShowCommand() *cobra.Command {
	var flags evidenceFlags
	return flags.common(&cobra.Command{
		Use: "show FILE", Short: "Print the claims in evidence without verifying anything", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			kind, message, err := flags.read(args[0])
			if err != nil {
				return err
			}
			claims, err := evidence.Unverified(kind, message.Evidence)
			if err != nil {
				return err
			}
			return flags.print(c.OutOrStdout(), map[string]any{"kind": kind, "verified": false, "claims": claims.Map()})
		},
	})
}

func (f *evidenceFlags) read(path string) (kind string, message *evidence.Message, err error) {
	if f.output != "table" && f.output != "json" {
		return "", nil, fmt.Errorf("--output %q: use table or json", f.output)
	}
	var raw []byte
	if path == "-" {
		raw, err = io.ReadAll(os.Stdin)
	} else {
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return "", nil, err
	}
	if message, err = evidence.ParseMessage(raw); err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	if kind = f.kind; kind == "" {
		if kind, err = evidence.Detect(message.Evidence); err != nil {
			return "", nil, fmt.Errorf("%s: %w; name the kind with --kind", path, err)
		}
	}
	return kind, message, nil
}

func (f *evidenceFlags) verify(out, notes io.Writer, path string) error {
	kind, message, err := f.read(path)
	if err != nil {
		return err
	}
	reportData := message.ReportData
	switch {
	case f.reportData != "":
		if reportData, err = parseReportData(f.reportData); err != nil {
			return err
		}
	case reportData != nil:
		fmt.Fprintln(notes, "note: report data is of the message's own nonce, which says nothing about freshness; --report-data demands another")
	default:
		return errors.New("evidence alone does not say what it was made for: give --report-data")
	}
	options, err := f.options(message)
	if err != nil {
		return err
	}
	claims, err := evidence.Verify(kind, message.Evidence, reportData, options)
	if err != nil {
		link := evidence.Link(err)
		if f.output == "json" {
			_ = f.print(out, map[string]any{"kind": kind, "verified": false, "broken_link": link, "error": err.Error()})
		}
		return fmt.Errorf("%s is refused: broken link: %s: %w", path, link, err)
	}
	if claims.TestRoot {
		fmt.Fprintln(notes, "note: no hardware vouches for this evidence: it leads to a test root, or is of kind sample")
	}
	if claims.Kind == evidence.KindTPM && options.TrustedAKs == nil {
		fmt.Fprintln(notes, "note: any key may have signed this: --trusted-ak names those to trust")
	}
	return f.print(out, map[string]any{"kind": kind, "verified": true, "test_root": claims.TestRoot, "claims": claims.Map()})
}

func parseReportData(value string) ([]byte, error) {
	if text, ok := strings.CutPrefix(value, "text:"); ok {
		return []byte(text), nil
	}
	raw, err := hex.DecodeString(strings.TrimPrefix(value, "hex:"))
	if err != nil {
		return nil, fmt.Errorf("--report-data %q: %w; for the bytes of a text write text:…", value, err)
	}
	return raw, nil
}

func (f *evidenceFlags) options(message *evidence.Message) (options evidence.Options, err error) {
	options.AllowDebug = f.allowDebug
	if f.testRoots != "" {
		if options.Roots, err = evidence.LoadRoots(f.testRoots); err != nil {
			return options, fmt.Errorf("--test-roots: %w", err)
		}
	}
	if f.trustedAK != "" {
		if options.TrustedAKs, err = loadKeys(f.trustedAK); err != nil {
			return options, fmt.Errorf("--trusted-ak %s: %w", f.trustedAK, err)
		}
	}
	if options.EventPCR = f.eventPCR; f.eventLog == "" && f.eventPCR != 0 {
		return options, errors.New("--event-pcr is the register of --event-log: give that too")
	}
	if f.eventLog != "" {
		if err := evidence.CheckEventPCR(f.eventPCR); err != nil {
			return options, fmt.Errorf("--event-pcr: %w", err)
		}
		raw, err := os.ReadFile(f.eventLog)
		if err != nil {
			return options, err
		}
		if options.EventLog, err = measure.ParseEventLog(raw); err != nil {
			return options, fmt.Errorf("--event-log %s: %w", f.eventLog, err)
		}
	}
	document := message.InitData
	if f.initData != "" {
		if document, err = os.ReadFile(f.initData); err != nil {
			return options, err
		}
	}
	if document != nil {
		parsed, err := initdata.Parse(document)
		if err != nil {
			return options, fmt.Errorf("init-data: %w", err)
		}
		if options.InitDataDigest, err = parsed.Digest(); err != nil {
			return options, fmt.Errorf("init-data: %w", err)
		}
	}
	return options, nil
}

// loadKeys reads SubjectPublicKeyInfos: PEM blocks, or one in base64 as the claim ak_public has it.
func loadKeys(path string) ([]*rsa.PublicKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var encoded [][]byte
	for rest := raw; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		encoded = append(encoded, block.Bytes)
	}
	if encoded == nil {
		der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(raw)))
		if err != nil {
			return nil, errors.New("neither PEM nor base64")
		}
		encoded = [][]byte{der}
	}
	keys := make([]*rsa.PublicKey, 0, len(encoded))
	for _, der := range encoded {
		key, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return nil, err
		}
		ak, ok := key.(*rsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("a %T, want an RSA key", key)
		}
		keys = append(keys, ak)
	}
	return keys, nil
}

func (f *evidenceFlags) print(out io.Writer, result map[string]any) error {
	if f.output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(result)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	printRows(table, "", result)
	return table.Flush()
}

// printRows writes one row for each value, with the path to it.
func printRows(table io.Writer, prefix string, values map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch value := values[name].(type) {
		case map[string]any:
			printRows(table, prefix+name+".", value)
		case []any:
			for i, item := range value {
				printRows(table, fmt.Sprintf("%s%s[%d].", prefix, name, i), map[string]any{"": item})
			}
		default:
			fmt.Fprintf(table, "%s\t%v\n", strings.TrimSuffix(prefix+name, "."), value)
		}
	}
}
