package agent

import (
	"context"
	"net"
	"sync"
)

// callers is a listener that knows how many of its connections are open.
type callers struct {
	net.Listener

	mu   sync.Mutex
	open int
	// left is told when the last connection has been closed.
	left chan struct{}
}

func newCallers(l net.Listener) *callers { return &callers{Listener: l, left: make(chan struct{}, 1)} }

// Accept implements [net.Listener].
func (c *callers) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	return &call{Conn: conn, of: c}, nil
}

// wait returns when no connection is open, or when ctx ends.
func (c *callers) wait(ctx context.Context) {
	for {
		c.mu.Lock()
		open := c.open
		c.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-c.left:
		case <-ctx.Done():
			return
		}
	}
}

// call is a connection of a caller.
type call struct {
	net.Conn
	of   *callers
	once sync.Once
}

// Close implements [net.Conn].
func (c *call) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		if c.of.open--; c.of.open == 0 {
			select {
			case c.of.left <- struct{}{}:
			default:
			}
		}
	})
	return c.Conn.Close()
}
