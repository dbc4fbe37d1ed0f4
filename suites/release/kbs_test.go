package release_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/suite"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// subject is a pod of the default RuntimeClass with a document for a KBS, and a
// secret there.
type subject struct {
	guest
	k            *suite.KBS
	raw          []byte
	path, secret string
}

// newSubject makes one and waits until it runs.
func newSubject(ctx context.Context, k *suite.KBS, more ...string) *subject {
	GinkgoHelper()
	s := &subject{guest: guest{bed.Namespace(ctx, "release"), "subject", bed.TEE}, k: k, secret: leak.Secret()}
	s.path = suite.ResourcePath(s.ns, "secret")
	s.raw = documentTrusting(k.CA, "sha256", k.URL, s.ns, more...)
	confidential(ctx, s.ns, s.name, bed.RuntimeClass, s.raw)
	Expect(k.SetResource(ctx, s.path, []byte(s.secret))).To(Succeed())
	Expect(k.SetResourcePolicy(ctx, allowAll)).To(Succeed())
	bed.Ready(ctx, s.ns, s.name)
	return s
}

// control has the KBS release the secret.
func (s *subject) control(ctx context.Context) {
	GinkgoHelper()
	By("control: the secret is released")
	releases(ctx, s.k, s, text(s.raw), s.path, s.secret)
}

// sign makes a token of an existing one's claims, with a key and claims of
// one's own choice.
func sign(claims map[string]any, key *ecdsa.PrivateKey) kbs.Token {
	GinkgoHelper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("jwk", jose.JSONWebKey{Key: &key.PublicKey, Algorithm: "ES256"}))
	Expect(err).NotTo(HaveOccurred())
	payload, err := json.Marshal(claims)
	Expect(err).NotTo(HaveOccurred())
	signed, err := signer.Sign(payload)
	Expect(err).NotTo(HaveOccurred())
	text, err := signed.CompactSerialize()
	Expect(err).NotTo(HaveOccurred())
	return kbs.Token(text)
}

// otherClaims is a token with a claim changed under the signature of the old ones.
func otherClaims(token kbs.Token) kbs.Token {
	GinkgoHelper()
	parts := strings.Split(string(token), ".")
	Expect(parts).To(HaveLen(3))
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	Expect(err).NotTo(HaveOccurred())
	var claims map[string]any
	Expect(json.Unmarshal(payload, &claims)).To(Succeed())
	claims["exp"] = time.Now().Add(24 * time.Hour).Unix()
	payload, err = json.Marshal(claims)
	Expect(err).NotTo(HaveOccurred())
	return kbs.Token(parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + parts[2])
}

func newKey() *ecdsa.PrivateKey {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	return key
}

var _ = Describe("tokens", suite.OneKBS, Label("token"), func() {
	It("that somebody else signed are refused", proof.Of("RELEASE-TOKEN-001"), SpecTimeout(limit), func(ctx SpecContext) {
		k := bed.NewKBS(ctx, testbed.KBSOptions{TrustedTokens: true})
		s := newSubject(ctx, k)
		token, key := attested(ctx, k, s, text(s.raw))
		claims, err := kbs.ParseToken(token, kbs.VerifyOptions{})
		Expect(err).NotTo(HaveOccurred())
		counted := k.Count(ctx)
		_, err = k.GetResource(ctx, s.path, sign(claims.Raw, newKey()), key)
		refused(err, kbs.TypeTokenVerifierError)
		for name, bad := range map[string]kbs.Token{"other claims": otherClaims(token), "another header": token[:40] + "A" + token[41:], "no signature": token[:len(token)-86], "no token": "x"} {
			By(name)
			_, err = k.GetResource(ctx, s.path, bad, key)
			refused(err, kbs.TypeTokenVerifierError)
		}
		By("without any")
		_, err = k.GetResource(ctx, s.path, "", key)
		refused(err, kbs.TypeTokenNotFound)
		counted.Grew(ctx, map[string]int{})
		By("control: the token itself is taken")
		got, err := k.GetResource(ctx, s.path, token, key)
		Expect(err).NotTo(HaveOccurred())
		Expect(fingerprint(string(got))).To(Equal(fingerprint(s.secret)))
		By("control: inside the pod too")
		status, content := s.resource(ctx, s.path)
		Expect(status).To(Equal("200"))
		Expect(fingerprint(content)).To(Equal(fingerprint(s.secret)))
	})

	It("that bring their own key count where the KBS is told so, and nowhere else", proof.Of("RELEASE-TOKEN-002"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		token, key := attested(ctx, s.k, s, text(s.raw))
		claims, err := kbs.ParseToken(token, kbs.VerifyOptions{})
		Expect(err).NotTo(HaveOccurred())
		// Trustee's insecure_header_jwk: the reason why it is called so.
		got, err := s.k.GetResource(ctx, s.path, sign(claims.Raw, newKey()), key)
		Expect(err).NotTo(HaveOccurred())
		Expect(fingerprint(string(got))).To(Equal(fingerprint(s.secret)))
		strict := bed.NewKBS(ctx, testbed.KBSOptions{TrustedTokens: true})
		Expect(strict.SetResourcePolicy(ctx, allowAll)).To(Succeed())
		counted := strict.Count(ctx)
		_, err = strict.GetResource(ctx, s.path, token, key)
		refused(err, kbs.TypeTokenVerifierError)
		counted.Grew(ctx, map[string]int{})
	})

	It("that have expired are refused", proof.Of("RELEASE-TOKEN-003"), SpecTimeout(limit), func(ctx SpecContext) {
		k := bed.NewKBS(ctx, testbed.KBSOptions{TokenMinutes: -2})
		s := newSubject(ctx, k)
		token, key := attested(ctx, k, s, text(s.raw))
		counted := k.Count(ctx)
		_, err := k.GetResource(ctx, s.path, token, key)
		refused(err, kbs.TypeTokenVerifierError)
		counted.Grew(ctx, map[string]int{})
		status, _ := s.resource(ctx, s.path)
		Expect(status).To(Equal("500"))
		By("control: another KBS, with the same pod and tokens of five minutes, releases")
		fresh := newSubject(ctx, bed.KBS(ctx))
		fresh.control(ctx)
	})

	It("without the TEE's key are refused", proof.Of("RELEASE-TOKEN-004"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		token, key := attested(ctx, s.k, s, text(s.raw))
		claims, err := kbs.ParseToken(token, kbs.VerifyOptions{})
		Expect(err).NotTo(HaveOccurred())
		without := map[string]any{"exp": claims.Raw["exp"], "iat": claims.Raw["iat"], "submods": map[string]any{}}
		counted := s.k.Count(ctx)
		_, err = s.k.GetResource(ctx, s.path, sign(without, newKey()), key)
		refused(err, kbs.TypeTokenVerifierError)
		// The policy, which allows all, is asked before the key is looked for.
		counted.Grew(ctx, map[string]int{suite.PolicyApprovals: 1})
		s.control(ctx)
	})
})

var _ = Describe("resources", suite.OneKBS, Label("resource"), func() {
	It("are released by path", proof.Of("RELEASE-PATH-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		Expect(s.k.SetResourcePolicy(ctx, `package policy
import rego.v1
default allow := false
allow if concat("/", data["resource-path"]) == "`+s.path+`"
`)).To(Succeed())
		s.control(ctx)
		other := suite.ResourcePath(s.ns, "other")
		Expect(s.k.SetResource(ctx, other, []byte(leak.Secret()))).To(Succeed())
		deniesResource(ctx, s.k, s, text(s.raw), other)
		By("a path that nothing is at is denied alike: denials do not tell what exists")
		deniesResource(ctx, s.k, s, text(s.raw), suite.ResourcePath(s.ns, "absent"))
	})

	It("that do not exist are an error, and no denial", proof.Of("RELEASE-ABSENT-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		absent := suite.ResourcePath(s.ns, "absent")
		token, key := attested(ctx, s.k, s, text(s.raw))
		counted := s.k.Count(ctx)
		_, err := s.k.GetResource(ctx, absent, token, key)
		Expect(kbs.Classify(err)).To(HaveField("Kind", kbs.Inconclusive), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(kbs.TypePluginInternalError)))
		counted.Grew(ctx, map[string]int{suite.PolicyApprovals: 1})
		By("control: once it exists it is released")
		Expect(s.k.SetResource(ctx, absent, []byte(s.secret))).To(Succeed())
		got, err := s.k.GetResource(ctx, absent, token, key)
		Expect(err).NotTo(HaveOccurred())
		Expect(fingerprint(string(got))).To(Equal(fingerprint(s.secret)))
		By("and once it is deleted it is not")
		Expect(s.k.DeleteResource(ctx, absent)).To(Succeed())
		_, err = s.k.GetResource(ctx, absent, token, key)
		Expect(kbs.Classify(err)).To(HaveField("Kind", kbs.Inconclusive), "%v", err)
	})

	It("are released to a session that has attested, by its cookie", proof.Of("RELEASE-SESSION-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		held := session(s.k)
		_, err := held.Attest(ctx, s, text(s.raw))
		Expect(err).NotTo(HaveOccurred())
		got, err := held.GetResource(ctx, s.path)
		Expect(err).NotTo(HaveOccurred())
		Expect(fingerprint(string(got))).To(Equal(fingerprint(s.secret)))
	})

	It("are released for keys of all kinds", proof.Of("RELEASE-KEY-002"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		for _, kind := range []kbs.KeyAlgorithm{kbs.ECP256, kbs.ECP521, kbs.RSAOAEP} {
			By(string(kind))
			key, err := kbs.GenerateTEEKey(kind)
			Expect(err).NotTo(HaveOccurred())
			held := s.k.NewSession(key)
			_, err = held.Attest(ctx, s, text(s.raw))
			Expect(err).NotTo(HaveOccurred())
			got, err := held.GetResource(ctx, s.path)
			Expect(err).NotTo(HaveOccurred())
			Expect(fingerprint(string(got))).To(Equal(fingerprint(s.secret)))
		}
	})

	DescribeTable("reach a guest whose aa.toml asks for a key of kind", proof.Of("RELEASE-KEY-002"), func(ctx context.Context, kind string) {
		s := newSubject(ctx, bed.KBS(ctx), "tee_key_algorithm = '"+kind+"'\n")
		status, content := s.resource(ctx, s.path)
		Expect(status).To(Equal("200"))
		Expect(fingerprint(content)).To(Equal(fingerprint(s.secret)))
	},
		Entry(nil, SpecTimeout(limit), "ECDH-ES+A256KW-P256"),
		Entry(nil, SpecTimeout(limit), "ECDH-ES+A256KW-P521"),
		Entry(nil, SpecTimeout(limit), "RSA-OAEP-256"),
	)
})

var _ = Describe("policies", suite.OneKBS, Label("policy"), func() {
	It("without a rule allow deny", proof.Of("RELEASE-POLICY-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		for name, policy := range map[string]string{
			"no rule": "package policy\n", "another package": "package other\ndefault allow := true\n", "no boolean": "package policy\nallow := \"yes\"\n",
		} {
			By(name)
			Expect(s.k.SetResourcePolicy(ctx, policy)).To(Succeed())
			deniesResource(ctx, s.k, s, text(s.raw), s.path)
		}
		Expect(s.k.SetResourcePolicy(ctx, allowAll)).To(Succeed())
		s.control(ctx)
	})

	It("that are no Rego are not taken, and the old one stays", proof.Of("RELEASE-POLICY-002"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		counted := s.k.Count(ctx)
		var answer *kbs.Error
		err := s.k.SetResourcePolicy(ctx, "package policy\nallow if {")
		Expect(errors.As(err, &answer)).To(BeTrue(), "%v", err)
		Expect(answer.Type).To(Equal(kbs.TypePolicyEngineError))
		counted.Grew(ctx, map[string]int{})
		s.control(ctx)
	})

	It("that miss a reference value do not affirm", proof.Of("RELEASE-POLICY-003"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.NewKBS(ctx, testbed.KBSOptions{}))
		Expect(s.k.SetAttestationPolicy(ctx, "default_cpu", `package policy
import rego.v1
default executables := 33
executables := 3 if input.init_data in query_reference_value("release_init_data")
trust_claims := {"executables": executables, "hardware": 2}
`)).To(Succeed())
		Expect(s.k.SetResourcePolicy(ctx, affirming)).To(Succeed())
		deniesResource(ctx, s.k, s, text(s.raw), s.path)
		By("nor with the reference value of other init-data")
		Expect(s.k.SetReferenceValue(ctx, "release_init_data", []string{pcr8(digest(oneByteChanged(s.raw)))})).To(Succeed())
		deniesResource(ctx, s.k, s, text(s.raw), s.path)
		Expect(s.k.SetReferenceValue(ctx, "release_init_data", []string{pcr8(digest(s.raw))})).To(Succeed())
		s.control(ctx)
	})
})

var _ = Describe("the KBS", suite.OneKBS, Label("kbs"), func() {
	It("that is down refuses nothing: that is inconclusive", proof.Of("RELEASE-KBS-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.NewKBS(ctx, testbed.KBSOptions{}))
		s.control(ctx)
		token, key := attested(ctx, s.k, s, text(s.raw))
		zero := int64(0)
		Expect(bed.Pods.Kube.AppsV1().Deployments(s.k.Namespace).Delete(ctx, "kbs", metav1.DeleteOptions{})).To(Succeed())
		Expect(bed.Pods.Kube.CoreV1().Pods(s.k.Namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{LabelSelector: "app=kbs"})).To(Succeed())
		Eventually(ctx, func() kbs.Kind {
			call, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, err := s.k.GetResource(call, s.path, token, key)
			return kbs.Classify(err).Kind
		}).WithPolling(100 * time.Millisecond).Should(Equal(kbs.Inconclusive))
		_, _, err := s.k.Handshake(ctx, s, text(s.raw))
		Expect(kbs.Classify(err)).To(HaveField("Kind", kbs.Inconclusive), "%v", err)
	})

	It("is believed by its certificate only", proof.Of("RELEASE-KBS-002"), SpecTimeout(limit), func(ctx SpecContext) {
		k := bed.NewKBS(ctx, testbed.KBSOptions{TLS: true})
		s := newSubject(ctx, k)
		s.control(ctx)
		By("control: the pod knows the certificate")
		status, content := s.resource(ctx, s.path)
		Expect(status).To(Equal("200"))
		Expect(fingerprint(content)).To(Equal(fingerprint(s.secret)))

		By("a pod that trusts another authority")
		impostor := bed.NewKBS(ctx, testbed.KBSOptions{TLS: true})
		wrong := guest{s.ns, "wrong", bed.TEE}
		confidential(ctx, s.ns, wrong.name, bed.RuntimeClass, documentTrusting(impostor.CA, "sha256", k.URL, "wrong authority"))
		bed.Ready(ctx, s.ns, wrong.name)
		counted := k.Count(ctx)
		status, _ = wrong.resource(ctx, s.path)
		Expect(status).To(Equal("500"))
		counted.Grew(ctx, map[string]int{})

		By("a client that trusts another authority: inconclusive, no verdict")
		client, err := kbs.New(kbs.Options{URL: k.Address, CA: []byte(impostor.CA)})
		Expect(err).NotTo(HaveOccurred())
		_, _, err = client.Handshake(ctx, s, text(s.raw))
		Expect(kbs.Classify(err)).To(HaveField("Kind", kbs.Inconclusive), "%v", err)
	})

	It("of the init-data is the one that a pod talks to", proof.Of("RELEASE-KBS-003"), SpecTimeout(limit), func(ctx SpecContext) {
		one, other := bed.KBS(ctx), bed.NewKBS(ctx, testbed.KBSOptions{})
		s := newSubject(ctx, other)
		before, here := one.Count(ctx), other.Count(ctx)
		status, content := s.resource(ctx, s.path)
		Expect(status).To(Equal("200"))
		Expect(fingerprint(content)).To(Equal(fingerprint(s.secret)))
		before.Grew(ctx, map[string]int{})
		here.Grew(ctx, map[string]int{suite.AttestationSuccesses: 1, suite.PolicyApprovals: 1})
	})

	It("is administered by administrators only", proof.Of("RELEASE-ADMIN-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		administrator := func(expires time.Duration) kbs.AdminClaims {
			return kbs.AdminClaims{Role: "admin", Expires: time.Now().Add(expires)}
		}
		tokens := map[string]string{"nobody": "", "another's key": mint(strangersKey(), administrator(time.Hour))}
		// The key of a KBS that was given is not the run's to sign with.
		if s.k.AdminKey != "" {
			tokens["another role"] = mint(s.k.AdminKey, kbs.AdminClaims{Role: "auditor", Expires: time.Now().Add(time.Hour)})
			tokens["a token of the past"] = mint(s.k.AdminKey, administrator(-time.Hour))
		}
		clients := map[string]*kbs.Client{}
		for name, token := range tokens {
			client, err := kbs.New(kbs.Options{URL: s.k.Address, CA: []byte(s.k.CA), AdminToken: token})
			Expect(err).NotTo(HaveOccurred())
			clients[name] = client
		}
		counted := s.k.Count(ctx)
		for name, c := range clients {
			By(name)
			refused(c.SetResourcePolicy(ctx, allowAll), kbs.TypeAdminAuthAccess)
			refused(c.SetAttestationPolicy(ctx, "default_cpu", allowAll), kbs.TypeAdminAuthAccess)
			refused(c.SetReferenceValue(ctx, "x", 1), kbs.TypeAdminAuthAccess)
			_, err := c.ResourcePolicies(ctx)
			refused(err, kbs.TypeAdminAuthAccess)
			refused(c.SetResource(ctx, s.path, []byte("other")), kbs.TypeAdminAuthInitialization)
			refused(c.DeleteResource(ctx, s.path), kbs.TypeAdminAuthInitialization)
		}
		By("nothing has changed")
		counted.Grew(ctx, map[string]int{})
		s.control(ctx)
	})
})

// mint makes an administrator's token.
func mint(key string, claims kbs.AdminClaims) string {
	GinkgoHelper()
	token, err := claims.Sign([]byte(key))
	Expect(err).NotTo(HaveOccurred())
	return token
}

// strangersKey is an administrator's key of no KBS.
func strangersKey() string {
	GinkgoHelper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	Expect(err).NotTo(HaveOccurred())
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
