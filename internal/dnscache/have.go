package dnscache

import "github.com/mtlsguard/mtls/internal/dnsclient"

// Have is Get for a caller who does not wait: it is false where Get would have to
// ask for what it returns.
func (c *Cache) Have(name string, t dnsclient.Type) (*Result, bool) {
	e := c.index.find(Key{name, t})
	if e == nil {
		return nil, false
	}
	if r, now := c.living(e); r != nil && e.idle(now) {
		return r, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if e.live(now) {
		c.use(e, now)
	}
	r := e.known(now)
	return r, r != nil
}
