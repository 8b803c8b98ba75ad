package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// restFirst and restMost are how long a server that failed is asked last.
	restFirst, restMost = 5 * time.Second, time.Minute
	// maxConnAge is the age at which a connection is replaced, so that a changed
	// password, server or certificate counts.
	maxConnAge = 10 * time.Minute
	// refusedFor is how long a refused password is not sent again.
	refusedFor = time.Minute
)

var errClosed = errors.New("the Mapper is closed")

// server is one of the servers of a Connection. What changes is guarded by the
// client's mutex.
type server struct {
	name, host, address string
	ldaps, plaintext    bool

	idle       []*conn
	restsUntil time.Time
	failures   int
}

// client asks the servers of a directory. It is safe for concurrent use.
type client struct {
	Connection
	slots chan struct{} // one for each connection in use

	mu      sync.Mutex
	servers []*server
	closed  bool
	refused refusedPassword
}

// refusedPassword is the last password that a server has refused.
type refusedPassword struct {
	sum   [sha256.Size]byte
	until time.Time
	err   error
}

func newClient(c Connection, servers []*server) *client {
	return &client{Connection: c, servers: servers, slots: make(chan struct{}, c.MaxConns)}
}

// An unansweredError is of a server that did not answer, or did not want to. Any other
// error is about what it has answered, or about the configuration: another server
// would give the same.
type unansweredError struct{ error }

func (e unansweredError) Unwrap() error { return e.error }

// A saidError is within an unansweredError of a server that did answer, though not what
// was asked: too much, or a result that says no. Another server may do better, but
// no earlier answer counts: whoever can bring that about must not live on one.
type saidError struct {
	error
	account bool // may be the account's fault: the server does not rest
}

func (e saidError) Unwrap() error { return e.error }

func unanswered(err error) bool {
	var u unansweredError
	return errors.As(err, &u)
}

// do does the work, which only reads, with a connection to the first server that
// answers. All of the work is done with one server, which may know of changes that
// another does not.
func (c *client) do(ctx context.Context, work func(context.Context, *conn) error) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return unansweredError{fmt.Errorf("all %d connections are in use: %w", c.MaxConns, context.Cause(ctx))}
	}
	servers := c.order()
	if servers == nil {
		return errClosed
	}
	text, answered := "", false
	for _, s := range servers {
		err := c.on(ctx, s, work)
		if !unanswered(err) {
			return err
		}
		var said saidError
		switch {
		case errors.Is(err, errLong): // may be the account's fault
			answered = true
		case errors.As(err, &said):
			answered = true
			if !said.account {
				c.failed(s, err)
			}
		default:
			c.failed(s, err)
		}
		if text != "" {
			text += "; "
		}
		text += s.name + ": " + err.Error()
		if ctx.Err() != nil {
			break
		}
	}
	if answered {
		return errors.New(text)
	}
	return unansweredError{errors.New(text)}
}

// on does the work with one server.
func (c *client) on(ctx context.Context, s *server, work func(context.Context, *conn) error) error {
	if cn := c.take(s); cn != nil {
		err := c.use(ctx, s, cn, work)
		var said saidError
		if !unanswered(err) || errors.As(err, &said) || errors.Is(err, errSlow) || ctx.Err() != nil {
			return err
		}
		// The server may have closed its connections meanwhile, or been restarted.
		c.drop(s)
	}
	c.makeRoom()
	cn, err := c.open(ctx, s)
	if err != nil {
		return err
	}
	return c.use(ctx, s, cn, work)
}

// use does the work and keeps the connection if it is good for more.
func (c *client) use(ctx context.Context, s *server, cn *conn, work func(context.Context, *conn) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err, cn.broken = fmt.Errorf("panic: %v", p), true
		}
		if cn.broken || unanswered(err) || !c.keep(s, cn) {
			cn.close()
		}
	}()
	return work(ctx, cn)
}

// order returns the servers, those that failed lately last.
func (c *client) order() []*server {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	now := c.Now()
	list := slices.Clone(c.servers)
	slices.SortStableFunc(list, func(a, b *server) int {
		switch x, y := a.restsUntil.After(now), b.restsUntil.After(now); {
		case x && y:
			return a.restsUntil.Compare(b.restsUntil)
		case x:
			return 1
		case y:
			return -1
		}
		return 0
	})
	return list
}

// resting reports whether every server has failed lately.
func (c *client) resting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Now()
	return !slices.ContainsFunc(c.servers, func(s *server) bool { return !s.restsUntil.After(now) })
}

func (c *client) failed(s *server, err error) {
	c.mu.Lock()
	rest := min(restFirst<<min(s.failures, 10), restMost)
	s.failures++
	s.restsUntil = c.Now().Add(rest)
	c.mu.Unlock()
	c.drop(s)
	c.Logger.Warn("mtls: directory server does not answer", "server", s.name, "error", err)
}

// take returns an idle connection to the server, or nil.
func (c *client) take(s *server) *conn {
	now := c.Now()
	for {
		c.mu.Lock()
		if len(s.idle) == 0 {
			c.mu.Unlock()
			return nil
		}
		cn := s.idle[len(s.idle)-1]
		s.idle = s.idle[:len(s.idle)-1]
		c.mu.Unlock()
		if !cn.ldap.IsClosing() && now.Sub(cn.made) < maxConnAge && !now.Before(cn.made) {
			return cn
		}
		cn.close()
	}
}

// keep makes a connection idle, and reports whether it did.
func (c *client) keep(s *server, cn *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.failures, s.restsUntil = 0, time.Time{}
	if !c.closed {
		s.idle = append(s.idle, cn)
	}
	return !c.closed
}

// makeRoom closes idle connections until those in use, and the one that is to be
// opened, are at most MaxConns with the idle ones.
func (c *client) makeRoom() {
	var surplus []*conn
	c.mu.Lock()
	idle := 0
	for _, s := range c.servers {
		idle += len(s.idle)
	}
	for _, s := range slices.Backward(c.servers) {
		for len(s.idle) > 0 && idle+len(c.slots) > c.MaxConns {
			surplus, s.idle = append(surplus, s.idle[0]), s.idle[1:]
			idle--
		}
	}
	c.mu.Unlock()
	for _, cn := range surplus {
		cn.close()
	}
}

// drop closes the idle connections to the server.
func (c *client) drop(s *server) {
	c.mu.Lock()
	idle := s.idle
	s.idle = nil
	c.mu.Unlock()
	for _, cn := range idle {
		cn.close()
	}
}

func (c *client) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	for _, s := range c.servers {
		c.drop(s)
	}
}

// password returns the password, unless a server has refused it within the last
// minute.
func (c *client) password(ctx context.Context) (string, error) {
	password, err := c.Password(ctx)
	if err != nil {
		return "", fmt.Errorf("the password of %s: %w", quote(c.User), err)
	}
	if password == "" { // which would be an anonymous bind (RFC 4513 section 5.1.2)
		return "", fmt.Errorf("the password of %s is empty", quote(c.User))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.Now(); c.refused.err != nil && c.refused.sum == sha256.Sum256([]byte(password)) && now.Before(c.refused.until) {
		return "", c.refused.err
	}
	return password, nil
}

// passwordRefused remembers a refused password.
func (c *client) passwordRefused(password string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = refusedPassword{sha256.Sum256([]byte(password)), c.Now().Add(refusedFor), err}
}
