package directory

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// refusedFor is how long a refused password is not sent again.
	refusedFor = time.Minute
	// mostRefused is how many of them are remembered.
	mostRefused = 4
)

// passwords is what servers have said to the passwords of the service, by SHA-256.
type passwords struct {
	untried chan struct{} // the place of the one that tries what no server has accepted

	mu       sync.Mutex
	refused  []refusedPassword // the last ones
	refusals uint64            // how many there were
	accepted *[sha256.Size]byte
}

// refusedPassword is a password that a server has refused.
type refusedPassword struct {
	sum    [sha256.Size]byte
	number uint64
	at     time.Time
	err    error
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
	_, err = c.passwords.known(sha256.Sum256([]byte(password)), c.Now())
	return password, err
}

// bind sends the password. Until a server has accepted it one connection does at a time,
// so that a wrong one is sent once, and not by all of them.
func (c *client) bind(ctx context.Context, cn *conn, password string) error {
	p, sum := &c.passwords, sha256.Sum256([]byte(password))
	accepted, err := p.known(sum, c.Now())
	if err == nil && !accepted {
		failures := c.failures(cn.server)
		select {
		case p.untried <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("another connection tries the password of %s: %w: %w", quote(c.User), errBusy, context.Cause(ctx))
		}
		release := sync.OnceFunc(func() { <-p.untried })
		defer release()
		if c.failures(cn.server) > failures { // the other one has found that out
			return unansweredError{fmt.Errorf("bind as %s: the server has just failed", quote(c.User))}
		}
		if accepted, err = p.known(sum, c.Now()); accepted {
			release()
		}
	}
	if err != nil {
		return err
	}
	before := p.count()
	err = c.within(ctx, cn.raw, func() error { return cn.ldap.Bind(c.User, password) })
	if err != nil {
		return c.bindError(err, sum)
	}
	p.accept(sum, before)
	return nil
}

// count is how many refusals there were.
func (p *passwords) count() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusals
}

// known reports whether a server has accepted the password, or why it is not sent.
func (p *passwords) known(sum [sha256.Size]byte, now time.Time) (accepted bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.refused {
		if r.sum == sum && lately(r.at, refusedFor, now) {
			return false, r.err
		}
	}
	return p.accepted != nil && *p.accepted == sum, nil
}

// accept notes that a server has accepted the password, unless one has refused it since
// there were so many refusals.
func (p *passwords) accept(sum [sha256.Size]byte, refusals uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.ContainsFunc(p.refused, func(r refusedPassword) bool { return r.sum == sum && r.number > refusals }) {
		p.accepted = &sum
	}
}

func (p *passwords) refuse(sum [sha256.Size]byte, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accepted != nil && *p.accepted == sum {
		p.accepted = nil
	}
	p.refused = slices.DeleteFunc(p.refused, func(r refusedPassword) bool { return r.sum == sum })
	p.refusals++
	p.refused = append(p.refused, refusedPassword{sum, p.refusals, now, err})
	p.refused = p.refused[max(0, len(p.refused)-mostRefused):]
}
