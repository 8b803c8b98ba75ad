package directory

import (
	"context"
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
	// unfitFor is how long a server that cannot be asked is not looked at again.
	unfitFor = 5 * time.Second
)

var (
	errClosed = errors.New("the Mapper is closed")
	// errBusy is the cause of a wait for other questions that has ended without an answer.
	errBusy = errors.New("others take too long")
)

// server is one of the servers of a Connection. What changes is guarded by the
// client's mutex.
type server struct {
	name, host, address string
	ldaps, plaintext    bool

	idle     []*conn
	failed   time.Time // when it last did; zero: it has answered since
	rest     time.Duration
	failures int
	mute     bool // it failed by silence

	unfit   error     // why filters with a negation are not asked there
	unfitAt time.Time // as of then
}

// client asks the servers of a directory. It is safe for concurrent use.
type client struct {
	Connection
	slots chan struct{} // one for each connection in use

	passwords passwords

	mu      sync.Mutex
	servers []*server
	closed  bool
}

func newClient(c Connection, servers []*server) *client {
	return &client{Connection: c, servers: servers, slots: make(chan struct{}, c.MaxConns), passwords: passwords{untried: make(chan struct{}, 1)}}
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
	if err := c.wait(ctx); err != nil {
		return fmt.Errorf("all %d connections are in use: %w", c.MaxConns, err)
	}
	defer func() { <-c.slots }()
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience(), errLong)
	defer cancel()
	servers := c.order()
	if servers == nil {
		return errClosed
	}
	text, answered, asked := "", false, false
	for _, s := range servers {
		err := c.on(ctx, s, func(ctx context.Context, cn *conn) error {
			cn.answered = false
			defer func() { asked = asked || cn.answered }()
			return work(ctx, cn)
		})
		if !unanswered(err) {
			if answered && errors.Is(err, errBusy) {
				return errors.New(text + "; " + s.name + ": " + err.Error())
			}
			return err
		}
		var said saidError
		switch {
		case errors.Is(err, errLong): // may be the account's fault, unless nobody says anything
			answered = answered || asked
		case errors.As(err, &said):
			answered = true
			if !said.account {
				c.failed(s, err, false)
			}
		default:
			c.failed(s, err, true)
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

// patience is how long one lookup may take once it has a connection, and how long it may
// wait for others before. A server that hangs is found out earlier.
func (c *client) patience() time.Duration {
	return min(c.Timeout*time.Duration(2*len(c.servers)+2), time.Minute+c.Timeout)
}

// wait takes the place of a connection, which others may have. That they take long says nothing of the
// directory: the error is errBusy, but where no server answers anybody.
func (c *client) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience(), errBusy)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
	}
	err := context.Cause(ctx)
	if c.silent() {
		return unansweredError{err}
	}
	if err != errBusy {
		err = fmt.Errorf("%w: %w", errBusy, err)
	}
	return err
}

// answers notes that a server has answered a search, whatever it says. That it takes a
// password says nothing of accounts.
func (c *client) answers(s *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.mute = false
}

// silent reports whether every server has failed to answer lately, and has answered
// nothing since. That a question has no answer yet proves nothing.
func (c *client) silent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Now()
	return !slices.ContainsFunc(c.servers, func(s *server) bool { return !s.mute || !s.rests(now) })
}

// on does the work with one server.
func (c *client) on(ctx context.Context, s *server, work func(context.Context, *conn) error) error {
	if err := c.unfit(s); err != nil {
		return err
	}
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
		switch x, y := a.rests(now), b.rests(now); {
		case x && y:
			return a.failed.Add(a.rest).Compare(b.failed.Add(b.rest))
		case x:
			return 1
		case y:
			return -1
		}
		return 0
	})
	return list
}

// rests reports whether the server has failed lately. A clock that was set back does
// not keep it at rest.
func (s *server) rests(now time.Time) bool { return lately(s.failed, s.rest, now) }

// lately reports whether at was, and no longer ago than the duration.
func lately(at time.Time, d time.Duration, now time.Time) bool {
	return !at.IsZero() && !now.Before(at) && now.Before(at.Add(d))
}

// failures is how often the server has failed since it answered.
func (c *client) failures(s *server) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.failures
}

func (c *client) failed(s *server, err error, mute bool) {
	c.mu.Lock()
	s.mute = mute
	s.failed, s.rest = c.Now(), min(restFirst<<min(s.failures, 10), restMost)
	s.failures++
	c.mu.Unlock()
	c.drop(s)
	c.Logger.Warn("mtls: directory server does not answer", "server", s.name, "error", err)
}

// unfit returns why the server cannot be asked, as it was found within the last seconds.
func (c *client) unfit(s *server) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if lately(s.unfitAt, unfitFor, c.Now()) {
		return s.unfit
	}
	return nil
}

// setUnfit has the server not looked at for a while.
func (c *client) setUnfit(s *server, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.unfit, s.unfitAt = err, c.Now()
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
	s.failures, s.failed, s.mute = 0, time.Time{}, false
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
