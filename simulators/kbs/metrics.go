package kbs

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are this server's, in a registry of its own. Their names say that it is a simulator.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	handler  http.Handler
}

const metricsPrefix = "coco_e2e_kbs_simulator_"

func newMetrics(sessions func() int) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricsPrefix + "requests_total", Help: "Requests by event and by how they were decided.",
		}, []string{"event", "decision"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricsPrefix + "request_duration_seconds", Help: "Time that requests took.", Buckets: prometheus.DefBuckets,
		}, []string{"event"}),
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
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.requests, m.duration, info, count)
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return m
}
