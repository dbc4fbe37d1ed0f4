package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// upstreamManifest hands a manifest or an index of another registry through.
func (s *Server) upstreamManifest(w http.ResponseWriter, r *http.Request, ns string, what request) {
	ref, err := reference(ns, what)
	if err != nil {
		fail(w, http.StatusBadRequest, "NAME_INVALID", err.Error())
		return
	}
	if r.Method == http.MethodHead {
		d, err := remote.Head(ref, options(r.Context())...)
		if err != nil {
			s.upstreamFailed(w, ref, "MANIFEST_UNKNOWN", err)
			return
		}
		head(w, string(d.MediaType), d.Digest.String(), d.Size)
		return
	}
	d, err := remote.Get(ref, options(r.Context())...)
	if err != nil {
		s.upstreamFailed(w, ref, "MANIFEST_UNKNOWN", err)
		return
	}
	head(w, string(d.MediaType), d.Digest.String(), d.Size)
	http.ServeContent(w, r, "", noTime, bytes.NewReader(d.Manifest))
}

// upstreamBlob hands a blob of another registry through.
func (s *Server) upstreamBlob(w http.ResponseWriter, r *http.Request, ns string, what request) {
	ref, err := reference(ns, what)
	if err != nil {
		fail(w, http.StatusBadRequest, "NAME_INVALID", err.Error())
		return
	}
	// Every blob can be fetched as a "layer", configurations too.
	blob, err := remote.Layer(ref.(name.Digest), options(r.Context())...)
	if err != nil {
		s.upstreamFailed(w, ref, "BLOB_UNKNOWN", err)
		return
	}
	size, err := blob.Size()
	if err != nil {
		s.upstreamFailed(w, ref, "BLOB_UNKNOWN", err)
		return
	}
	if r.Method == http.MethodHead {
		head(w, "application/octet-stream", what.reference, size)
		return
	}
	content, err := blob.Compressed()
	if err != nil {
		s.upstreamFailed(w, ref, "BLOB_UNKNOWN", err)
		return
	}
	defer content.Close()
	head(w, "application/octet-stream", what.reference, size)
	if _, err := io.Copy(w, content); err != nil {
		s.Log.Error("upstream blob", "blob", ref.String(), "error", err)
		// Too late for a status: a broken connection is how the client learns that this is not all, or not right.
		panic(http.ErrAbortHandler)
	}
}

func reference(ns string, what request) (name.Reference, error) {
	repository, err := name.NewRepository(registryHost(ns)+"/"+what.repository, name.StrictValidation)
	if err != nil {
		return nil, err
	}
	if digestPattern.MatchString(what.reference) {
		return repository.Digest(what.reference), nil
	}
	return repository.Tag(what.reference), nil
}

func options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
}

// upstreamFailed tells what the other registry refused from what could not be asked.
func (s *Server) upstreamFailed(w http.ResponseWriter, ref name.Reference, unknown string, err error) {
	s.Log.Error("upstream", "reference", ref.String(), "error", err)
	var refused *transport.Error
	switch {
	case !errors.As(err, &refused):
		fail(w, http.StatusBadGateway, "UNAVAILABLE", "not among the images here, and its own registry could not be asked: "+err.Error())
	case refused.StatusCode == http.StatusNotFound:
		fail(w, http.StatusNotFound, unknown, err.Error())
	case refused.StatusCode == http.StatusTooManyRequests:
		fail(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", err.Error())
	case refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden:
		// The credentials that were refused are this machine's, not the client's: it must not be asked for any.
		fail(w, http.StatusForbidden, "DENIED", err.Error())
	default:
		fail(w, http.StatusBadGateway, "UNAVAILABLE", err.Error())
	}
}
