package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Options of a client.
type Options struct {
	// Session tells clients of one device apart: requests of a session and number are carried out once.
	Session uint64
	// Resend is how long to wait for an answer before a request is sent again; 0 is a second.
	Resend time.Duration
	// Pad is sent behind every frame. (Some emulated serial ports keep back the last bytes.)
	Pad []byte
	// Noise takes lines that are no frames, as a console has them.
	Noise func(line []byte)
}

// RemoteError is an error of the device, not of the connection.
type RemoteError struct{ Method, Message string }

func (e *RemoteError) Error() string { return e.Method + ": " + e.Message }

// Client is the host's side of a connection. Its methods may be called from any goroutine.
type Client struct {
	conn    io.ReadWriteCloser
	send    chan frame // to the goroutine that writes: a device that does not read must not hold up who waits for it
	session uint64
	resend  time.Duration

	mu      sync.Mutex
	number  uint64
	waiting map[id]chan []byte
	ended   chan struct{}
	err     error // why it ended
}

// NewClient speaks over a connection, which the client closes.
func NewClient(conn io.ReadWriteCloser, o Options) *Client {
	if o.Resend == 0 {
		o.Resend = time.Second
	}
	c := &Client{conn: conn, send: make(chan frame), session: o.Session, resend: o.Resend, waiting: map[id]chan []byte{}, ended: make(chan struct{})}
	go func() {
		c.err = frames(conn, answer, c.take, o.Noise)
		close(c.ended)
	}()
	go c.write(o.Pad)
	return c
}

// write writes what is sent, until the connection ends. When it cannot, it ends it.
func (c *Client) write(pad []byte) {
	for {
		select {
		case f := <-c.send:
			if err := f.write(c.conn, pad); err != nil {
				c.conn.Close()
				return
			}
		case <-c.ended:
			return
		}
	}
}

func (c *Client) take(f frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting[f.id]; w != nil {
		w <- f.payload // it holds one, and is taken out with it
		delete(c.waiting, f.id)
	}
}

// Call has the device carry out a method, once. result may be nil. A refusal by the device is a *RemoteError.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	q := request{Method: method}
	if params != nil {
		text, err := json.Marshal(params)
		if err != nil {
			return fmt.Errorf("agent: %s: parameters: %w", method, err)
		}
		q.Params = text
	}
	payload, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("agent: %s: %w", method, err)
	}
	text, err := c.exchange(ctx, payload)
	if err != nil {
		return fmt.Errorf("agent: %s: %w", method, err)
	}
	var r reply
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("agent: %s: answer: %w", method, err)
	}
	if r.Error != "" {
		return &RemoteError{method, r.Error}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.Result, result); err != nil {
		return fmt.Errorf("agent: %s: answer: %w", method, err)
	}
	return nil
}

// ErrEnded is the error of calls on a connection that has ended.
var ErrEnded = errors.New("the connection has ended")

func (c *Client) exchange(ctx context.Context, payload []byte) ([]byte, error) {
	c.mu.Lock()
	c.number++
	f := frame{question, id{c.session, c.number}, payload}
	back := make(chan []byte, 1)
	c.waiting[f.id] = back
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, f.id)
		c.mu.Unlock()
	}()
	again := time.NewTicker(c.resend)
	defer again.Stop()
	send := c.send
	for {
		select {
		case send <- f:
			send = nil
		case text := <-back:
			return text, nil
		case <-again.C:
			send = c.send
		case <-c.ended:
			return nil, fmt.Errorf("%w: %w", ErrEnded, c.err)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Close ends the connection.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.ended
	return err
}
