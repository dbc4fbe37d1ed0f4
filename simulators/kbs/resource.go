package kbs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/coco-e2e/coco-e2e/simulators/kbs/admin"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/jwe"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/message"
	"github.com/coco-e2e/coco-e2e/simulators/kbs/policy"
)

// maxResources bounds the store; each resource is bounded by the size of a request.
const maxResources = 4096

var (
	errResourcePath = errors.New("illegal ResourceDesc format.") //nolint:staticcheck // Trustee's text
	errNoResource   = errors.New("resource not found")
	resourceSegment = regexp.MustCompile(`^[a-zA-Z0-9_\-]+[a-zA-Z0-9_\-.]*$`)
)

// resourceName gives the name that a path has in the store.
func resourceName(path []string) (string, error) {
	if len(path) != 3 {
		return "", errResourcePath
	}
	for _, segment := range path {
		if !resourceSegment.MatchString(segment) {
			return "", errResourcePath
		}
	}
	return strings.Join(path, "/"), nil
}

// resources are the store. It is safe for concurrent use.
type resources struct {
	mu     sync.RWMutex
	byName map[string][]byte
}

func newResources() *resources { return &resources{byName: map[string][]byte{}} }

func (r *resources) get(name string) ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	content, ok := r.byName[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s", errNoResource, name)
	}
	return content, nil
}

func (r *resources) set(name string, content []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.byName[name]; !known && len(r.byName) >= maxResources {
		return fmt.Errorf("there are %d resources already", maxResources)
	}
	r.byName[name] = bytes.Clone(content)
	return nil
}

func (r *resources) remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byName, name)
}

// resource is the plugin of that name: administrators store and delete, attested TEEs fetch what the policy lets them.
func (s *Server) resource(x *exchange) (*reply, *failure) {
	if x.Method == http.MethodPost || x.Method == http.MethodDelete {
		return s.storeResource(x)
	}
	claims, failed := s.claims(x)
	if failed != nil {
		return nil, failed
	}
	// The policy comes before the look-up, so that a denial does not tell what exists.
	x.judged = true
	request := policy.Request{Plugin: x.plugin, Path: x.path, Query: x.query}
	allowed, err := s.policy.Load().Allow(x.Context(), claims, request)
	if err != nil {
		return nil, policyEngineFailed(err)
	}
	if !allowed {
		x.notes = append(x.notes, "why", s.policy.Load().Why(x.Context(), claims, request))
		return nil, policyDenies()
	}
	if x.Method != http.MethodGet {
		return nil, pluginFailed(errors.New("Illegal HTTP method. Only GET, POST and DELETE are supported")) //nolint:staticcheck // as Trustee
	}
	return s.release(x, claims)
}

func (s *Server) storeResource(x *exchange) (*reply, *failure) {
	if err := s.gate.Check(x.Request); err != nil {
		return nil, adminRefusedByPlugin(err)
	}
	name, err := resourceName(x.path)
	if err != nil {
		return nil, pluginFailed(err)
	}
	decision := "stored"
	if x.Method == http.MethodDelete {
		decision = "deleted"
		s.resources.remove(name)
	} else if err := s.resources.set(name, x.body); err != nil {
		return nil, pluginFailed(err)
	}
	return &reply{decision: decision, contentType: "text/xml"}, nil
}

// claims gives those of the request's token: the session's, if a cookie names one that is attested, else the bearer's.
func (s *Server) claims(x *exchange) (map[string]any, *failure) {
	bearer := ""
	if found, err := s.sessions.find(x.Request); err == nil && found.token != "" {
		bearer, x.session = found.token, fingerprint(found.id)
	} else if sent, ok := admin.Bearer(x.Request); ok {
		bearer = sent
	} else {
		return nil, tokenNotFound()
	}
	x.token = fingerprint(bearer)
	claims, err := s.verifier.Verify(bearer, s.now())
	if err != nil {
		return nil, tokenRefused(err)
	}
	return claims, nil
}

// release encrypts a resource to the key that the token certifies.
func (s *Server) release(x *exchange, claims map[string]any) (*reply, *failure) {
	name, err := resourceName(x.path)
	if err != nil {
		return nil, pluginFailed(err)
	}
	content, err := s.resources.get(name)
	if err != nil {
		return nil, pluginFailed(err)
	}
	raw, ok := findKey(claims, s.config.Token.ExtraTEEKeyPaths)
	if !ok {
		return nil, tokenRefused(errors.New("no TEE public key in the token"))
	}
	key, err := message.ParsePublicKey(raw)
	if err != nil {
		return nil, jweFailed(fmt.Errorf("tee-pubkey: %w", err))
	}
	encrypted, err := jwe.Encrypt(key, content)
	if err != nil {
		return nil, jweFailed(err)
	}
	return &reply{decision: "released", contentType: contentJSON, body: encrypted}, nil
}

// keyPaths are where tokens have the TEE's key, as JSON pointers (Trustee kbs/src/token/mod.rs).
var keyPaths = []string{
	"/tdx/attester_runtime_data/tee-pubkey",
	"/tdx/attester_user_data/tee-pubkey",
	"/customized_claims/runtime_data/tee-pubkey",
	"/submods/cpu0/ear.veraison.annotated-evidence/runtime_data_claims/tee-pubkey",
	"/tee-pubkey",
}

func findKey(claims map[string]any, extra []string) ([]byte, bool) {
	for _, path := range slices.Concat(extra, keyPaths) {
		value := pointed(claims, path)
		if value == nil {
			continue
		}
		raw, err := json.Marshal(value)
		return raw, err == nil
	}
	return nil, false
}

// pointed follows a JSON pointer (RFC 6901) through objects; nil when there is nothing.
func pointed(value any, pointer string) any {
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, name := range strings.Split(pointer, "/")[1:] {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[unescape.Replace(name)]
	}
	return value
}
