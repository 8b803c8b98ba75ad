package mtls

import (
	"slices"
	"sync"
	"sync/atomic"
)

// maxCompromisedKeys bounds what is remembered of one anchor.
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
	told map[KeyHash]int // keys declared, by anchor or the CA right below it
}

// declaration is the word of one authority about a key.
type declaration struct {
	authority string
	anchor    KeyHash // of the chain in which the revoked certificate was found
	why       string
}

// add records the word of the authority of a chain.
func (c *compromisedKeys) add(key KeyHash, chain candidate, why string) {
	a, anchor := chain.authority, chain.keys[len(chain.keys)-1]
	// Whose word it is: the anchor's, or that of the CA right below it, below which
	// a partner may have any number of CAs revoked.
	by := anchor
	if i := slices.Index(chain.keys, key); i >= 0 && i < len(chain.keys)-2 {
		by = chain.keys[len(chain.keys)-2]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.keys[key], func(d declaration) bool { return d.authority == a.Name && d.anchor == anchor }) {
		return
	}
	if c.keys == nil {
		c.keys, c.told = map[KeyHash][]declaration{}, map[KeyHash]int{}
	}
	if c.told[by]++; c.told[by] <= maxCompromisedKeys {
		c.keys[key] = append(c.keys[key], declaration{a.Name, anchor, why})
	}
	c.news.Add(1)
}

// why returns why a key counts for nothing in a chain, and whether it does. An
// anchor under which more was declared than can be remembered vouches for nobody
// any more.
func (c *compromisedKeys) why(key KeyHash, chain candidate) (string, bool) {
	a := chain.authority
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, k := range chain.keys[max(0, len(chain.keys)-2):] {
		if c.told[k] > maxCompromisedKeys {
			return "its anchor, or the CA right below, has too many compromised CA keys", true
		}
	}
	for _, d := range c.keys[key] {
		by := a.roots.find(d.authority, d.anchor)
		if by == nil {
			continue
		}
		if by == a || !a.keys[key] || len(by.domains) == 0 || slices.ContainsFunc(chain.names, by.mayName) {
			return d.why, true
		}
	}
	return "", false
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
