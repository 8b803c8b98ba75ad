package dnscache

import (
	"time"

	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// Have is Get for a caller who does not wait: it is false where Get would have to
// ask for what it returns.
func (c *Cache) Have(name string, t dnsclient.Type) (*Result, bool) {
	return c.HaveAt(c.now(), name, t)
}

// HaveAt is Have for a caller who has just read the cache's clock.
func (c *Cache) HaveAt(now time.Time, name string, t dnsclient.Type) (*Result, bool) {
	e := c.index.find(Key{name, t})
	if e == nil {
		return nil, false
	}
	if r := e.answer.Load(); r != nil && now.Before(r.Expires) && e.idle(now) {
		return r, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.live(now) {
		c.use(e, now)
	}
	r := e.known(now)
	return r, r != nil
}
