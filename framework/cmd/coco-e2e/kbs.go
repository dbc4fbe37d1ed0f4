package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// kbsFlags say which KBS, and as whom.
type kbsFlags struct {
	url, certFile, adminTokenFile string
}

func kbsCommand() *cobra.Command {
	var flags kbsFlags
	command := &cobra.Command{
		Use: "kbs", Short: "Talk to a KBS: attest, fetch a resource, administer",
		Long: "Talk to a Trustee KBS (protocol " + kbs.ProtocolVersion + ") with the verbs of kbs-client. Works with a real Trustee and with the simulator.",
	}
	command.PersistentFlags().StringVar(&flags.url, "url", "http://127.0.0.1:8080", "the KBS")
	command.PersistentFlags().StringVar(&flags.certFile, "cert-file", "", "PEM file of the only authority to trust for https")
	command.AddCommand(kbsAttestCommand(&flags), kbsGetResourceCommand(&flags), kbsConfigCommand(&flags), kbsExplainCommand())
	return command
}

// client makes a client, an administrator's when admin is set.
func (f *kbsFlags) client(admin bool) (*kbs.Client, error) {
	options := kbs.Options{URL: f.url}
	var err error
	if f.certFile != "" {
		if options.CA, err = os.ReadFile(f.certFile); err != nil {
			return nil, fmt.Errorf("--cert-file: %w", err)
		}
	}
	if admin {
		if options.AdminToken, err = f.adminToken(); err != nil {
			return nil, err
		}
	}
	return kbs.New(options)
}

// adminToken reads the token; without --admin-token-file, kbs-client's own
// place, where it need not be: a KBS may let everybody administer it.
func (f *kbsFlags) adminToken() (string, error) {
	path := f.adminTokenFile
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", nil
		}
		path = filepath.Join(home, ".trustee", "admin-token")
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return "", nil
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("--admin-token-file: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// teeFlags say whose evidence attests.
type teeFlags struct {
	kind, guest, keyFile, initData string
}

func (t *teeFlags) register(command *cobra.Command) {
	command.Flags().StringVar(&t.guest, "guest", "", "address of a guest's api-server-rest that gives evidence, such as http://127.0.0.1:8006")
	command.Flags().StringVar(&t.kind, "tee", "", "kind of evidence that the guest gives; asked of the guest if absent. Without --guest only sample, which proves nothing")
	command.Flags().StringVar(&t.keyFile, "tee-key-file", "", "file with the private key that resources are encrypted to, PEM; a new one if absent")
}

// attester finds who gives evidence.
func (t *teeFlags) attester(ctx context.Context) (kbs.Attester, error) {
	switch {
	case t.guest == "" && (t.kind == "" || t.kind == "sample"):
		return sampleTEE{}, nil
	case t.guest == "":
		return nil, fmt.Errorf("--tee %s: this machine is asked for no evidence; name a guest with --guest", t.kind)
	}
	guest, err := kbs.NewGuest(ctx, t.guest, t.kind, nil)
	if err != nil {
		return nil, fmt.Errorf("--guest: %w; kubectl port-forward POD 8006 reaches a pod's", err)
	}
	return guest, nil
}

func (t *teeFlags) key() (kbs.TEEKey, error) {
	if t.keyFile == "" {
		return kbs.GenerateTEEKey(kbs.ECP256)
	}
	text, err := os.ReadFile(t.keyFile)
	if err != nil {
		return kbs.TEEKey{}, fmt.Errorf("--tee-key-file: %w", err)
	}
	key, err := kbs.ParseTEEKey(text)
	if err != nil {
		return kbs.TEEKey{}, fmt.Errorf("--tee-key-file %s: %w", t.keyFile, err)
	}
	return key, nil
}

func (t *teeFlags) document() (*string, error) {
	if t.initData == "" {
		return nil, nil
	}
	text, err := os.ReadFile(t.initData)
	if err != nil {
		return nil, fmt.Errorf("init-data: %w", err)
	}
	document := string(text)
	return &document, nil
}

// session attests, and gives the session with its token.
func (t *teeFlags) session(ctx context.Context, flags *kbsFlags) (*kbs.Session, kbs.Token, error) {
	client, err := flags.client(false)
	if err != nil {
		return nil, "", err
	}
	key, err := t.key()
	if err != nil {
		return nil, "", err
	}
	document, err := t.document()
	if err != nil {
		return nil, "", err
	}
	attester, err := t.attester(ctx)
	if err != nil {
		return nil, "", err
	}
	session := client.NewSession(key)
	token, err := session.Attest(ctx, attester, document)
	return session, token, err
}

// sampleTEE gives evidence that proves nothing.
type sampleTEE struct{}

// TEE implements [kbs.Attester].
func (sampleTEE) TEE() string { return "sample" }

// Evidence implements [kbs.Attester].
func (sampleTEE) Evidence(_ context.Context, reportData []byte) (json.RawMessage, error) {
	return json.Marshal(map[string]string{"svn": "1", "report_data": base64.StdEncoding.EncodeToString(reportData)})
}

func kbsAttestCommand(flags *kbsFlags) *cobra.Command {
	var t teeFlags
	command := &cobra.Command{
		Use: "attest [INIT_DATA]", Short: "Perform the handshake and print the token", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				t.initData = args[0]
			}
			_, token, err := t.session(c.Context(), flags)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), string(token))
			return err
		},
	}
	t.register(command)
	return command
}

func kbsGetResourceCommand(flags *kbsFlags) *cobra.Command {
	var t teeFlags
	var path, tokenFile string
	command := &cobra.Command{
		Use: "get-resource --path REPOSITORY/TYPE/TAG", Short: "Fetch a resource and print it in base64", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			content, err := getResource(c.Context(), flags, &t, path, tokenFile)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), base64.StdEncoding.EncodeToString(content))
			return err
		},
	}
	t.register(command)
	command.Flags().StringVar(&t.initData, "init-data", "", "init-data file to present")
	command.Flags().StringVar(&path, "path", "", "the resource (required)")
	command.Flags().StringVar(&tokenFile, "attestation-token", "", "file with a token to use instead of attesting; needs --tee-key-file")
	_ = command.MarkFlagRequired("path")
	return command
}

func getResource(ctx context.Context, flags *kbsFlags, t *teeFlags, path, tokenFile string) ([]byte, error) {
	if tokenFile == "" {
		session, _, err := t.session(ctx, flags)
		if err != nil {
			return nil, err
		}
		return session.GetResource(ctx, path)
	}
	if t.keyFile == "" {
		return nil, errors.New("--attestation-token needs --tee-key-file: the resource is encrypted to the token's key")
	}
	text, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, fmt.Errorf("--attestation-token: %w", err)
	}
	key, err := t.key()
	if err != nil {
		return nil, err
	}
	client, err := flags.client(false)
	if err != nil {
		return nil, err
	}
	return client.GetResource(ctx, path, kbs.Token(strings.TrimSpace(string(text))), key)
}

func kbsConfigCommand(flags *kbsFlags) *cobra.Command {
	command := &cobra.Command{Use: "config", Short: "Administer the KBS"}
	command.PersistentFlags().StringVar(&flags.adminTokenFile, "admin-token-file", "", "file with an administrator's token (~/.trustee/admin-token if it is there)")
	admin := func(use, short string, args cobra.PositionalArgs, run func(c *cobra.Command, client *kbs.Client, args []string) error) *cobra.Command {
		sub := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(c *cobra.Command, args []string) error {
			client, err := flags.client(true)
			if err != nil {
				return err
			}
			return run(c, client, args)
		}}
		command.AddCommand(sub)
		return sub
	}
	addPolicyCommands(admin)
	addResourceCommands(admin)
	addReferenceValueCommands(admin)
	return command
}

// adminCommand makes a command that needs a client with an administrator's
// rights.
type adminCommand = func(use, short string, args cobra.PositionalArgs, run func(c *cobra.Command, client *kbs.Client, args []string) error) *cobra.Command

func addPolicyCommands(admin adminCommand) {
	var file, kind, id string
	attestation := admin("set-attestation-policy --policy-file FILE", "Replace an attestation policy", cobra.NoArgs, func(c *cobra.Command, client *kbs.Client, _ []string) error {
		if kind != "rego" {
			return fmt.Errorf("--type %s: want rego", kind)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--policy-file: %w", err)
		}
		return client.SetAttestationPolicy(c.Context(), id, string(text))
	})
	attestation.Flags().StringVar(&file, "policy-file", "", "Rego file (required)")
	attestation.Flags().StringVar(&kind, "type", "rego", "kind of policy")
	attestation.Flags().StringVar(&id, "id", "default_cpu", "id of the policy; default_cpu is the one that counts for a machine's own evidence")
	_ = attestation.MarkFlagRequired("policy-file")

	var resourceFile string
	ready := map[string]*bool{}
	resource := admin("set-resource-policy", "Replace the resource policy", cobra.NoArgs, func(c *cobra.Command, client *kbs.Client, _ []string) error {
		text, err := resourcePolicy(resourceFile, ready)
		if err != nil {
			return err
		}
		return client.SetResourcePolicy(c.Context(), text)
	})
	resource.Flags().StringVar(&resourceFile, "policy-file", "", "Rego file")
	for name, help := range map[string]string{
		"allow-all": "everybody gets everything", "deny-all": "nobody gets anything",
		"affirming": "affirming appraisals get everything", "default": "what a new Trustee has: all evidence but sample gets everything (kbs-client --default sends deny-all)",
	} {
		ready[name] = resource.Flags().Bool(name, false, help)
	}
}

func resourcePolicy(file string, ready map[string]*bool) (string, error) {
	var chosen []string
	for name, on := range ready {
		if *on {
			chosen = append(chosen, name)
		}
	}
	switch {
	case len(chosen) == 1 && file == "":
		return string(manifests.Read("kbs/policies/" + chosen[0] + ".rego")), nil
	case len(chosen) == 0 && file != "":
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("--policy-file: %w", err)
		}
		return string(text), nil
	}
	return "", errors.New("give one of --policy-file FILE, --allow-all, --deny-all, --affirming and --default")
}

func addResourceCommands(admin adminCommand) {
	var path, file, gone string
	set := admin("set-resource --path REPOSITORY/TYPE/TAG --resource-file FILE", "Store a resource", cobra.NoArgs, func(c *cobra.Command, client *kbs.Client, _ []string) error {
		content, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--resource-file: %w", err)
		}
		return client.SetResource(c.Context(), path, content)
	})
	set.Flags().StringVar(&path, "path", "", "the resource (required)")
	set.Flags().StringVar(&file, "resource-file", "", "its content (required)")
	remove := admin("delete-resource --path REPOSITORY/TYPE/TAG", "Delete a resource", cobra.NoArgs, func(c *cobra.Command, client *kbs.Client, _ []string) error {
		return client.DeleteResource(c.Context(), gone)
	})
	remove.Flags().StringVar(&gone, "path", "", "the resource (required)")
	for command, names := range map[*cobra.Command][]string{set: {"path", "resource-file"}, remove: {"path"}} {
		for _, name := range names {
			_ = command.MarkFlagRequired(name)
		}
	}
}

func addReferenceValueCommands(admin adminCommand) {
	var id string
	get := admin("get-reference-value --id NAME", "Print a reference value", cobra.NoArgs, func(c *cobra.Command, client *kbs.Client, _ []string) error {
		value, err := client.GetReferenceValue(c.Context(), id)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), string(value))
		return err
	})
	get.Flags().StringVar(&id, "id", "", "name of the value (required)")
	_ = get.MarkFlagRequired("id")

	var integer, boolean, single bool
	set := admin("set-sample-reference-value NAME VALUE", "Set a reference value", cobra.ExactArgs(2), func(c *cobra.Command, client *kbs.Client, args []string) error {
		value, err := referenceValue(args[1], integer, boolean)
		if err != nil {
			return err
		}
		if !single {
			value = []any{value}
		}
		return client.SetReferenceValue(c.Context(), args[0], value)
	})
	set.Flags().BoolVar(&integer, "as-integer", false, "VALUE is a number")
	set.Flags().BoolVar(&boolean, "as-bool", false, "VALUE is true or false")
	set.Flags().BoolVar(&single, "as-single-value", false, "set VALUE itself, not a list of it")
}

func referenceValue(text string, integer, boolean bool) (any, error) {
	switch {
	case integer && boolean:
		return nil, errors.New("give one of --as-integer and --as-bool")
	case integer:
		value, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("--as-integer: VALUE %q is no number", text)
		}
		return value, nil
	case boolean:
		value, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("--as-bool: VALUE %q is neither true nor false", text)
		}
		return value, nil
	}
	return text, nil
}

func kbsExplainCommand() *cobra.Command {
	var file string
	command := &cobra.Command{
		Use: "explain", Short: "Say where handshakes stopped and why, from the log of a KBS simulator", Args: cobra.NoArgs,
		Long: "Say where handshakes stopped and why, from the log of a KBS simulator:\n  kubectl -n coco-tenant logs deploy/kbs | coco-e2e kbs explain --log -",
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := cmd.InOrStdin()
			if file != "-" {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			requests, err := kbs.ReadJournal(in)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			text, err := kbs.Explain(requests)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	command.Flags().StringVar(&file, "log", "", "the log, - for standard input (required)")
	_ = command.MarkFlagRequired("log")
	return command
}
