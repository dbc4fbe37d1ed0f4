package local

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// bootstrapToken makes the token by which workers prove that they belong to
// the cluster: 6 and 16 of 0-9 and a-z (Kubernetes, bootstrap token format).
func bootstrapToken() (string, error) {
	b := make([]byte, 11)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:3]) + "." + hex.EncodeToString(b[3:]), nil
}

// initialise makes the control plane.
func (c *Cluster) initialise(ctx context.Context, token string) error {
	m := c.machines[0]
	err := m.kubeadm(ctx, "init", "node/kubeadm.yaml", map[string]string{
		"NodeIP": m.ip().String(), "NodeName": m.state.Name, "Name": c.o.Name, "Version": node.KubernetesVersion, "Token": token,
	})
	if err != nil {
		return err
	}
	admin, err := os.ReadFile(m.path("etc/kubernetes/admin.conf"))
	if err != nil {
		return fmt.Errorf("kubeadm left no admin.conf: %w", err)
	}
	return os.WriteFile(c.GetKubeconfig(), admin, 0o600)
}

// join makes the workers part of the cluster, all at once.
func (c *Cluster) join(ctx context.Context, workers []*machine, token string) error {
	hash, err := caKeyHash(c.machines[0].path("etc/kubernetes/pki/ca.crt"))
	if err != nil {
		return fmt.Errorf("the cluster's CA: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range workers {
		g.Go(func() error {
			return m.kubeadm(ctx, "join", "node/kubeadm-join.yaml", map[string]string{
				"NodeIP": m.ip().String(), "NodeName": m.state.Name, "Token": token, "CAHash": hash,
				"Endpoint": c.machines[0].ip().String() + ":6443",
			})
		})
	}
	return g.Wait()
}

// kubeadm runs one of its verbs on the node with a configuration of ours.
func (m *machine) kubeadm(ctx context.Context, verb, manifest string, data map[string]string) error {
	config, err := manifests.Fill(manifest, data)
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.path("etc/kubeadm.yaml"), config, 0o600); err != nil {
		return err
	}
	log, err := os.Create(m.path("var/log/kubeadm.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	if err := m.Exec(ctx, nil, log, "kubeadm", verb, "--config", "/etc/kubeadm.yaml"); err != nil {
		return fmt.Errorf("kubeadm %s on %s: %w\nlogs: %s", verb, m.state.Name, err, m.Logs())
	}
	return nil
}

// caKeyHash is what kubeadm's discovery pins: sha256 of the CA's SubjectPublicKeyInfo.
func caKeyHash(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return "", errors.New("no PEM block")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
