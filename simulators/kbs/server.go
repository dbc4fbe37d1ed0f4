// Package kbs is a simulator of Trustee, for tests: the key broker service with protocol 0.4.0, built-in attestation
// service, reference values and a resource store in memory.
//
// What it decides, it decides for real: quotes are verified, policies evaluated, resources encrypted to the key that was
// attested. Its trust anchors are for tests: an attestation key of a plain TPM vouches for itself, as with Trustee. It
// says what it is in its log, in its tokens' issuer and in its metrics. It must not know the pods or the TPMs of a run.
package kbs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/admin"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/attestation"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/config"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/policy"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/token"
)

const (
	protocolVersion = "0.4.0"
	apiPrefix       = "/kbs/v0/"
	maxHeader       = 128 << 10 // bytes; Trustee's server refuses larger ones too
	shutdownTime    = 4 * time.Second
)

// Options are for tests.
type Options struct {
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
}

// Server is a KBS. It is safe for concurrent use.
type Server struct {
	config      *config.Config
	now         func() time.Time
	journal     *journal
	metrics     *metrics
	gate        *admin.Gate
	attestation *attestation.Service
	verifier    *token.Verifier
	sessions    *sessions
	resources   *resources
	policy      atomic.Pointer[policy.Resource]
}

// New makes a server with the default policies and no resources. It logs to log.
func New(configuration *config.Config, log io.Writer, options Options) (*Server, error) {
	if options.Now == nil {
		options.Now = time.Now
	}
	s := &Server{config: configuration, now: options.Now, journal: newJournal(log), resources: newResources()}
	var err error
	if s.gate, err = admin.New(&configuration.Admin, s.now); err != nil {
		return nil, err
	}
	if s.verifier, err = newVerifier(&configuration.Token); err != nil {
		return nil, err
	}
	service, err := attestationOptions(&configuration.Attestation)
	if err != nil {
		return nil, err
	}
	service.Now = s.now
	if s.attestation, err = attestation.New(service); err != nil {
		return nil, fmt.Errorf("attestation service: %w", err)
	}
	compiled, err := policy.CompileResource(policy.DefaultResource)
	if err != nil {
		return nil, err
	}
	s.policy.Store(compiled)
	s.sessions = newSessions(configuration.Attestation.SessionTimeout(), s.now)
	s.metrics = newMetrics(s.sessions.count)
	return s, nil
}

// newVerifier reads what tokens may be signed with.
func newVerifier(c *config.Token) (*token.Verifier, error) {
	verifier := &token.Verifier{InsecureHeaderJWK: c.InsecureHeaderJWK}
	for i, path := range c.TrustedCerts {
		certificates, err := token.ReadCertificates(path)
		if err != nil {
			return nil, fmt.Errorf("field attestation_token.trusted_certs_paths[%d]: %w", i, err)
		}
		verifier.Roots = append(verifier.Roots, certificates...)
	}
	for i, uri := range c.TrustedJWKSets {
		keys, err := admin.ReadJWKSet(strings.TrimPrefix(uri, "file://"))
		if err != nil {
			return nil, fmt.Errorf("field attestation_token.trusted_jwk_sets[%d]: %w", i, err)
		}
		verifier.JWKs = append(verifier.JWKs, keys...)
	}
	return verifier, nil
}

// attestationOptions reads what the attestation service needs.
func attestationOptions(c *config.Attestation) (attestation.Options, error) {
	broker := c.Broker
	options := attestation.Options{
		Issuer: broker.Issuer, Developer: broker.Developer, Build: broker.Build, Profile: broker.Profile,
		TokenLifetime: broker.TokenLifetime(), Terse: broker.Verbose != nil && !*broker.Verbose,
	}
	var err error
	if broker.Signer.Key != "" {
		options.Signer, err = token.LoadSigner(broker.Signer.Key, broker.Signer.Certificate, broker.Signer.URL)
		if err != nil {
			return options, fmt.Errorf("field attestation_service.attestation_token_broker.signer: %w", err)
		}
	}
	if c.Verifier.TestRoots != "" {
		if options.Roots, err = evidence.LoadRoots(c.Verifier.TestRoots); err != nil {
			return options, fmt.Errorf("field attestation_service.verifier_config.test_roots: %w", err)
		}
	}
	return options, nil
}

// Run serves until ctx ends, then lets requests in progress finish for some seconds.
func (s *Server) Run(ctx context.Context) error {
	listeners, err := s.listen(ctx)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: s, MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(s.journal.Handler(), slog.LevelWarn),
	}
	s.banner(listeners)
	group, ctx := errgroup.WithContext(ctx)
	for _, listener := range listeners {
		group.Go(func() error {
			var err error
			if s.config.HTTP.InsecureHTTP {
				err = server.Serve(listener)
			} else {
				err = server.ServeTLS(listener, s.config.HTTP.Certificate, s.config.HTTP.PrivateKey)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		s.journal.Info("stopping")
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if err := server.Shutdown(limited); err != nil {
			s.journal.Warn("requests were cut off", "error", err.Error())
			return server.Close()
		}
		return nil
	})
	return group.Wait()
}

func (s *Server) listen(ctx context.Context) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, socket := range s.config.HTTP.Sockets {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", socket)
		if err != nil {
			for _, open := range listeners {
				_ = open.Close()
			}
			return nil, fmt.Errorf("field http_server.sockets: %w", err)
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

func (s *Server) banner(listeners []net.Listener) {
	var addresses []string
	for _, listener := range listeners {
		addresses = append(addresses, listener.Addr().String())
	}
	s.journal.Info("coco-e2e's simulator of Trustee (KBS with attestation service), for tests only: it keeps no secret safe",
		"protocol", protocolVersion, "addresses", addresses, "tls", !s.config.HTTP.InsecureHTTP, "admin", s.config.Admin.Mode)
	if s.config.Admin.Mode == config.AdminAllowAll {
		s.journal.Warn("everyone may administer", "field", "admin.authorization_mode", "value", config.AdminAllowAll)
	}
	if s.config.Token.InsecureHeaderJWK {
		s.journal.Warn("tokens signed with any key in their header are taken", "field", "attestation_token.insecure_header_jwk")
	}
	if s.config.Attestation.Verifier.TestRoots != "" {
		s.journal.Warn("evidence of simulated hardware is taken", "field", "attestation_service.verifier_config.test_roots")
	}
}

// ServeHTTP routes as Trustee does (kbs/src/api_server.rs): paths are taken as they are, never cleaned or redirected.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	switch {
	case path == "/healthz":
		only(http.MethodGet, w, r, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	case path == "/metrics":
		only(http.MethodGet, w, r, s.metrics.handler)
	case strings.HasPrefix(path, apiPrefix):
		switch r.Method {
		case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete:
			s.metrics.trustee.httpActive.Inc()
			defer s.metrics.trustee.httpActive.Dec()
			s.api(w, r, strings.TrimPrefix(path, apiPrefix))
		default:
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func only(method string, w http.ResponseWriter, r *http.Request, handler http.Handler) {
	if r.Method != method {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	handler.ServeHTTP(w, r)
}

// queryOf gives the query as a map; of a name that occurs twice, the last value.
func queryOf(r *http.Request) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	query := make(map[string]string, len(values))
	for name, list := range values {
		query[name] = list[len(list)-1]
	}
	return query, nil
}
