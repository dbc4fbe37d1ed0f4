// Package recording has what the unmodified Kata Containers 4.1.0 Go shim sent
// for one pod, so that shims can be compared with it and guests driven by it.
//
// It was recorded in remote-hypervisor mode with forced guest pull, under
// containerd 2.4.2 and Kubernetes 1.37.2 on a node with cgroup v1, against a
// stub of the pod VM. Contents of the service account's token and certificate
// are removed. The package must not know who reads it.
package recording

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

//go:embed simple-pod.jsonl
var simplePod []byte

// Request is one that the shim sent.
type Request struct {
	// Seq numbers requests in the order in which they arrived, from 1.
	Seq int
	// Service is the full name, such as grpc.AgentService, and Method the RPC's.
	Service, Method string
	// JSON is the message with every field under its proto name, bytes in
	// base64, unset messages null.
	JSON json.RawMessage
	// Answered are the numbers of the requests that had been answered when the
	// shim sent this one: it may have waited for any of them.
	Answered []int
}

// removed stands for content that is not in the recording.
const removed = "<removed>"

// SimplePod returns the requests for the pod of one container that sleeps, in
// which whoami was run once, and which was deleted.
func SimplePod() ([]Request, error) {
	var requests []Request
	var answered []int
	lines := bufio.NewScanner(bytes.NewReader(simplePod))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Kind   string          `json:"kind"`
			Seq    int             `json:"seq"`
			Method string          `json:"method"`
			Req    json.RawMessage `json:"req"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("recording: %w", err)
		}
		if line.Kind == "resp" {
			answered = append(answered, line.Seq)
		}
		if line.Kind != "req" {
			continue
		}
		service, method, ok := strings.Cut(strings.TrimPrefix(line.Method, "/"), "/")
		if !ok {
			return nil, fmt.Errorf("recording: request %d has the method %q", line.Seq, line.Method)
		}
		requests = append(requests, Request{Seq: line.Seq, Service: service, Method: method, JSON: line.Req, Answered: slices.Clone(answered)})
	}
	return requests, lines.Err()
}

// Into fills m with the request. What is removed from the recording is zeros,
// as many as there were bytes.
func (r Request) Into(m proto.Message) error {
	var fields map[string]any
	text := r.JSON
	if err := json.Unmarshal(text, &fields); err != nil {
		return fmt.Errorf("recorded request %d: %w", r.Seq, err)
	}
	if fields["data"] == removed {
		size, _ := fields["file_size"].(float64)
		// encoding/json gives bytes the form that protojson reads.
		fields["data"] = make([]byte, int(size))
		var err error
		if text, err = json.Marshal(fields); err != nil {
			return err
		}
	}
	if err := protojson.Unmarshal(text, m); err != nil {
		return fmt.Errorf("recorded request %d, %s: %w", r.Seq, r.Method, err)
	}
	return nil
}
