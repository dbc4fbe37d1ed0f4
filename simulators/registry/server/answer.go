package server

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// noTime keeps ServeContent from sending a time of change.
var noTime time.Time

func blobPath(dir, digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(dir, "blobs", algorithm, hex)
}

// head sets the headers that every manifest and blob is answered with; size is -1 when it is not known.
func head(w http.ResponseWriter, mediaType, digest string, size int64) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Docker-Content-Digest", digest)
	h.Set("Etag", strconv.Quote(digest))
	if size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(size, 10))
	}
}

// fail answers with an error of the distribution specification.
func fail(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client went away: nobody is left to tell
}
