package channel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
)

// ConnectError says that no one answers at a socket.
type ConnectError struct {
	Peer    string // such as "AA"
	Address string
	Err     error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("ttrpc connect to %s addr: %s failed: %v", e.Peer, e.Address, e.Err)
}

func (e *ConnectError) Unwrap() error { return e.Err }

// Client is a connection to a peer, made at the first call and made again after the peer restarted. It is safe for
// concurrent use.
type Client struct {
	// Peer names the other side in errors.
	Peer string
	// Address is the other side's, unix:///path.
	Address string

	mutex  sync.Mutex // guards client
	client *ttrpc.Client
}

// Call runs call with a connection. If the connection turns out to be closed, it runs call once more with a new one. An
// unreachable peer is a [*ConnectError].
func (c *Client) Call(ctx context.Context, call func(*ttrpc.Client) error) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	err = call(client)
	if !errors.Is(err, ttrpc.ErrClosed) || ctx.Err() != nil {
		return err
	}
	c.drop(client)
	if client, err = c.connect(ctx); err != nil {
		return err
	}
	return call(client)
}

// Close closes the connection, if there is one.
func (c *Client) Close() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.client == nil {
		return nil
	}
	client := c.client
	c.client = nil
	return client.Close()
}

func (c *Client) connect(ctx context.Context) (*ttrpc.Client, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.client != nil {
		return c.client, nil
	}
	path, err := Path(c.Address)
	if err != nil {
		return nil, &ConnectError{c.Peer, c.Address, err}
	}
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, &ConnectError{c.Peer, c.Address, err}
	}
	c.client = ttrpc.NewClient(connection)
	return c.client, nil
}

// drop forgets client, unless another call has replaced it already.
func (c *Client) drop(client *ttrpc.Client) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.client == client {
		c.client = nil
	}
	_ = client.Close()
}
