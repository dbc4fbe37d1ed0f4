package kbs

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are this server's, in a registry of its own: those of Trustee by their names (kbs/docs/metrics.md), and the
// simulator's, which say more and say what they are of.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	trustee  trusteeMetrics
	handler  http.Handler
}

// trusteeMetrics have Trustee's names and labels.
type trusteeMetrics struct {
	httpRequests                                                    prometheus.Counter
	httpActive                                                      prometheus.Gauge
	httpDuration, requestSize, responseSize                         prometheus.Histogram
	reads, writes, attestationSuccesses, attestationFailures        *prometheus.CounterVec
	policyEvaluations, policyApprovals, policyViolations, policyErr prometheus.Counter
	attestationRequests, attestationErrors                          prometheus.Counter
	authRequests, authSuccesses, authErrors                         prometheus.Counter
}

const metricsPrefix = "coco_e2e_kbs_simulator_"

func newMetrics(sessions func() int) *metrics {
	registry := prometheus.NewRegistry()
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricsPrefix + "requests_total", Help: "Requests by event and by how they were decided.",
		}, []string{"event", "decision"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricsPrefix + "request_duration_seconds", Help: "Time that requests took.", Buckets: prometheus.DefBuckets,
		}, []string{"event"}),
		trustee: newTrusteeMetrics(registry),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        metricsPrefix + "info",
		Help:        "1: this is coco-e2e's simulator of Trustee, for tests only.",
		ConstLabels: prometheus.Labels{"protocol": protocolVersion},
	})
	info.Set(1)
	count := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: metricsPrefix + "sessions", Help: "Sessions that are kept.",
	}, func() float64 { return float64(sessions()) })
	registry.MustRegister(m.requests, m.duration, info, count)
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return m
}

func newTrusteeMetrics(registry *prometheus.Registry) trusteeMetrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		registry.MustRegister(c)
		return c
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		registry.MustRegister(h)
		return h
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kbs_build_info", Help: "1: what was built.",
		ConstLabels: prometheus.Labels{"version": "coco-e2e simulator", "git_hash": "", "build_date": ""},
	})
	info.Set(1)
	registry.MustRegister(info)
	active := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kbs_http_active_connections", Help: "Requests that are being answered."})
	registry.MustRegister(active)
	sizes := prometheus.ExponentialBuckets(32, 4, 5)
	return trusteeMetrics{
		httpActive:           active,
		httpRequests:         counter("kbs_http_requests_total", "HTTP requests."),
		httpDuration:         histogram("kbs_http_request_duration_seconds", "Time that requests took.", []float64{0.0005, 0.001, 0.005, 0.01, 0.05, 0.5, 1}),
		requestSize:          histogram("kbs_http_request_size_bytes", "Sizes of requests' bodies.", sizes),
		responseSize:         histogram("kbs_http_response_size_bytes", "Sizes of responses' bodies.", sizes),
		reads:                counters("kbs_resource_reads_total", "Resources read, by path.", "resource_path"),
		writes:               counters("kbs_resource_writes_total", "Resources written, by path.", "resource_path"),
		policyEvaluations:    counter("kbs_policy_evaluations_total", "Evaluations of the resource policy."),
		policyApprovals:      counter("kbs_policy_approvals_total", "Requests that the resource policy allowed."),
		policyViolations:     counter("kbs_policy_violations_total", "Requests that the resource policy denied."),
		policyErr:            counter("kbs_policy_errors_total", "Evaluations of the resource policy that failed."),
		attestationRequests:  counter("kbs_attestation_requests_total", "Attestations asked for."),
		attestationSuccesses: counters("kbs_attestation_successes_total", "Evidence that was verified and appraised.", "tee_type"),
		attestationFailures:  counters("kbs_attestation_failures_total", "Evidence that was refused.", "tee_type"),
		attestationErrors:    counter("kbs_attestation_errors_total", "Attestations that came to no evidence."),
		authRequests:         counter("kbs_auth_requests_total", "Challenges asked for."),
		authSuccesses:        counter("kbs_auth_successes_total", "Challenges given."),
		authErrors:           counter("kbs_auth_errors_total", "Challenges refused."),
	}
}

// account counts a request that was decided.
func (m *metrics) account(x *exchange, took time.Duration, response int, decision string, failed *failure) {
	m.requests.WithLabelValues(x.event(), decision).Inc()
	m.duration.WithLabelValues(x.event()).Observe(took.Seconds())
	t := &m.trustee
	t.httpRequests.Inc()
	t.httpDuration.Observe(took.Seconds())
	t.requestSize.Observe(float64(len(x.body)))
	t.responseSize.Observe(float64(response))
	switch {
	case x.Method == http.MethodPost && x.plugin == "auth":
		t.authRequests.Inc()
		count(failed == nil, t.authSuccesses, t.authErrors)
	case x.Method == http.MethodPost && x.plugin == "attest":
		t.attestationRequests.Inc()
		switch {
		case x.judged && failed == nil:
			t.attestationSuccesses.WithLabelValues(x.tee).Inc()
		case x.judged:
			t.attestationFailures.WithLabelValues(x.tee).Inc()
		case failed == nil || errors.Is(failed.cause, errNonce):
			// Trustee counts neither a token given again nor another nonce (kbs/src/attestation/backend.rs, __attest).
		default:
			t.attestationErrors.Inc()
		}
	case x.plugin == "resource" && x.judged:
		t.policyEvaluations.Inc()
		switch {
		case failed != nil && failed.variant == "PolicyDeny":
			t.policyViolations.Inc()
		case failed != nil && failed.variant == "PolicyEngineError":
			t.policyErr.Inc()
		default:
			t.policyApprovals.Inc()
		}
	}
	if x.plugin == "resource" && failed == nil {
		path := strings.Join(x.path, "/")
		switch decision {
		case "released":
			t.reads.WithLabelValues(path).Inc()
		case "stored":
			t.writes.WithLabelValues(path).Inc()
		}
	}
}

func count(good bool, yes, no prometheus.Counter) {
	if good {
		yes.Inc()
	} else {
		no.Inc()
	}
}
