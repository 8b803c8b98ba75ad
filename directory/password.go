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
	accepted *[sha256.Size]byte
}

// refusedPassword is a password that a server has refused.
type refusedPassword struct {
	sum [sha256.Size]byte
	at  time.Time
	err error
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
		if err := c.wait(ctx, p.untried); err != nil {
			return fmt.Errorf("another connection tries the password of %s: %w", quote(c.User), err)
		}
		if accepted, err = p.known(sum, c.Now()); accepted || err != nil {
			<-p.untried
		} else {
			defer func() { <-p.untried }()
		}
	}
	if err != nil {
		return err
	}
	err = c.within(ctx, cn.raw, func() error { return cn.ldap.Bind(c.User, password) })
	if err == nil || says(err) {
		c.hears()
	}
	if err != nil {
		return c.bindError(err, sum)
	}
	p.accept(sum)
	return nil
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

func (p *passwords) accept(sum [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted = &sum
}

func (p *passwords) refuse(sum [sha256.Size]byte, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accepted != nil && *p.accepted == sum {
		p.accepted = nil
	}
	p.refused = slices.DeleteFunc(p.refused, func(r refusedPassword) bool { return r.sum == sum })
	p.refused = append(p.refused, refusedPassword{sum, now, err})
	p.refused = p.refused[max(0, len(p.refused)-mostRefused):]
}
