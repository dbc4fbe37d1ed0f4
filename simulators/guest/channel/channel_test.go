package channel

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"

	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

type resources struct{}

func (resources) GetResource(_ context.Context, request *guestpb.GetResourceRequest) (*guestpb.GetResourceResponse, error) {
	return &guestpb.GetResourceResponse{Resource: []byte("got " + request.GetResourcePath())}, nil
}

// serve serves resources at address until stop is called.
func serve(t *testing.T, address string) (stop func()) {
	t.Helper()
	listener, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, listener, func(server *ttrpc.Server) {
			guestpb.RegisterGetResourceServiceService(server, resources{})
		})
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func get(t *testing.T, client *Client) (string, error) {
	var resource []byte
	err := client.Call(t.Context(), func(connection *ttrpc.Client) error {
		response, err := guestpb.NewGetResourceServiceClient(connection).GetResource(t.Context(), &guestpb.GetResourceRequest{ResourcePath: "x"})
		resource = response.GetResource()
		return err
	})
	return string(resource), err
}

func TestClientSurvivesARestart(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "a", "b.sock")
	client := &Client{Peer: "CDH", Address: address}
	defer func() { _ = client.Close() }()
	for range 3 {
		stop := serve(t, address)
		for range 2 {
			if got, err := get(t, client); got != "got x" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		}
		stop()
	}
	var connect *ConnectError
	if _, err := get(t, client); !errors.As(err, &connect) || !strings.HasPrefix(err.Error(), "ttrpc connect to CDH addr: "+address+" failed") {
		t.Errorf("error %v", err)
	}
}

func TestSocketIsPrivateAndGoesWithItsServer(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "sock")
	if err := os.WriteFile(path, []byte("stale"), 0o644); err != nil {
		t.Fatal(err)
	}
	stop := serve(t, "unix://"+path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != os.ModeSocket|0o600 {
		t.Errorf("mode %v", got)
	}
	stop()
	entries, err := os.ReadDir(directory)
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// TestSocketAppearsReady connects as soon as the name exists.
func TestSocketAppearsReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := os.Stat(path); err == nil {
				connection, err := net.Dial("unix", path)
				if err == nil {
					err = connection.Close()
				}
				done <- err
				return
			}
		}
	}()
	listener, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPath(t *testing.T) {
	for _, test := range []struct{ address, want string }{
		{"unix:///run/cdh.sock", "/run/cdh.sock"},
		{"unix://run/cdh.sock", ""},
		{"/run/cdh.sock", ""},
		{"vsock://3:5000", ""},
		{"", ""},
		{"unix:///" + strings.Repeat("x", 106), ""},
	} {
		got, err := Path(test.address)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%q: %q, %v", test.address, got, err)
		}
	}
}
