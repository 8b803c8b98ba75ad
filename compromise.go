package mtls

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// maxCompromisedKeys bounds what is remembered of one authority.
const maxCompromisedKeys = 16384

// compromisedKeys is the set of CA keys that are known to be in other hands,
// because a certificate of theirs was revoked for it. Such a key counts for
// nothing, whatever certificate it appears in: the sender chooses which of them
// it shows. It is not forgotten while the process lives and Roots hold the
// authority whose word it is.
//
// Any CA can certify anybody's public key, and revoke that. So a partner's CA
// could condemn a CA that all share; removing it from Roots undoes that. And an
// anchor, which the operator trusts by name, is not condemned by an authority
// that may not speak for the client's names.
type compromisedKeys struct {
	news atomic.Uint64 // counts the additions, so that a verdict need not look in vain

	mu   sync.RWMutex
	keys map[KeyHash][]declaration
	told map[string]int // keys declared, by authority
}

// declaration is the word of one authority about a key.
type declaration struct {
	authority string
	domains   []string // its scope; empty: any name
	why       string
}

// add records a declaration by the authority under which the revoked certificate
// was found.
func (c *compromisedKeys) add(key KeyHash, a *authority, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.keys[key], func(d declaration) bool { return d.authority == a.Name }) {
		return
	}
	if c.keys == nil {
		c.keys, c.told = map[KeyHash][]declaration{}, map[string]int{}
	}
	if c.told[a.Name]++; c.told[a.Name] <= maxCompromisedKeys {
		c.keys[key] = append(c.keys[key], declaration{a.Name, a.domains, why})
	}
	c.news.Add(1)
}

// why returns why a key counts for nothing in a chain, and whether it does. An
// authority that has declared more than can be remembered vouches for nobody any
// more.
func (c *compromisedKeys) why(key KeyHash, chain candidate) (string, bool) {
	a := chain.authority
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.told[a.Name] > maxCompromisedKeys {
		return "its authority has too many compromised CA keys", true
	}
	for _, d := range c.keys[key] {
		if !a.roots.has(d.authority) {
			continue
		}
		if d.authority == a.Name || !a.keys[key] || len(d.domains) == 0 || slices.ContainsFunc(chain.names, d.speaksFor) {
			return d.why, true
		}
	}
	return "", false
}

func (d declaration) speaksFor(name string) bool {
	return slices.ContainsFunc(d.domains, func(scope string) bool { return dnsname.InSubtree(name, scope) })
}

// condemned returns why one of the chain's CA keys counts for nothing, and
// whether one does.
func (c *compromisedKeys) condemned(chain candidate) (string, bool) {
	for _, k := range chain.keys {
		if why, bad := c.why(k, chain); bad {
			return why, true
		}
	}
	return "", false
}
