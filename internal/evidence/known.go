package evidence

import (
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Bounds on what is remembered of revocations.
const (
	maxKnown       = 65536 // certificates
	maxKnownOfEach = 18    // sources of each: maxSources, the staple and one more
)

// CertKey names a certificate by what a statement about it names: the key and
// name of its issuer, and its serial number. It is the same under each of the
// certificates that an issuer has, whoever's anchor they lead to.
type CertKey [sha256.Size]byte

// KeyOf returns the CertKey of a certificate under its issuer.
func KeyOf(cert, issuer *x509.Certificate) CertKey {
	h := sha256.New()
	for _, part := range [][]byte{
		issuer.RawSubjectPublicKeyInfo, issuer.RawSubject, cert.SerialNumber.Append(nil, 16), // with its sign
	} {
		writePart(h, part)
	}
	return CertKey(h.Sum(nil))
}

// record is what one source said of one certificate. It refers to no slot and no
// list: it must not keep them in memory.
type record struct {
	source     sourceID
	scope      [32]byte // of a list
	at         time.Time
	revoked    bool // false: a newer statement has undone what was recorded
	detail     string
	compromise bool
	proof      Proof
}

// sourceID names a source, whichever of its issuer's certificates its slot is
// under.
type sourceID [sha256.Size]byte

func sourceOf(k kind, urls []string) sourceID {
	h := sha256.New()
	writePart(h, []byte(k.String()))
	for _, u := range urls {
		writePart(h, []byte(u))
	}
	return sourceID(h.Sum(nil))
}

// known is what memory knows of revoked certificates. Slots are found under one
// certificate of the issuer and one anchor: a client that presents another
// cross-certificate of its CA has empty slots, into which it could staple a
// response from before its revocation.
type known struct {
	news atomic.Uint64
	// undone is told of a revocation that its own source has taken back: a hold that
	// has ended, or a CA that loses entries (CVE-2021-29653).
	undone func(record)

	mu    sync.RWMutex
	certs *simplelru.LRU[CertKey, []record] // a slice is never changed
}

func newKnown() *known {
	certs, err := simplelru.NewLRU[CertKey, []record](maxKnown, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &known{certs: certs}
}

// Keys name a certificate in a chain: whatever the chain, and, for what those have
// signed whom only a CA above its issuer has certified, in the chains that have that
// CA. Another anchor, which has certified the issuer once more, must not speak against
// it for all.
func (q *Query) Keys() []CertKey {
	keys := []CertKey{KeyOf(q.Cert, q.Issuer)}
	for i, c := range q.above() {
		if i == 1 { // whom it may certify who signs in the issuer's name
			keys = append(keys, keys[0].by(x509ext.KeyHash(c), true))
		}
		if i > 0 {
			keys = append(keys, keys[0].by(x509ext.KeyHash(c), false))
		}
	}
	return keys
}

// by is the key for what is said by those whom a CA has certified.
func (k CertKey) by(ca [32]byte, namesake bool) CertKey {
	return sha256.Sum256(strconv.AppendBool(slices.Concat(k[:], ca[:]), namesake))
}

// settleAll is settle for all keys of a certificate.
func (k *known) settleAll(q Query, said []view) []record {
	var records []record
	keys := q.Keys()
	for _, key := range keys {
		about := slices.DeleteFunc(slices.Clone(said), func(v view) bool {
			switch {
			case !v.foreign:
				return key != keys[0] && v.status == Revoked
			default:
				return key != keys[0].by(v.by, v.namesake)
			}
		})
		records = append(records, k.settle(key, about, q.keep)...)
	}
	return records
}

// settle returns the revocations on record that what is said now does not undo.
// With keep set it also records what is said now. Both happen at once, so that a
// decision that ends well leaves no record that speaks against it.
func (k *known) settle(key CertKey, said []view, keep bool) []record {
	k.mu.RLock()
	old, ok := k.certs.Peek(key)
	k.mu.RUnlock()
	if !keep {
		return live(merge(old, said))
	}
	if !ok && !slices.ContainsFunc(said, func(v view) bool { return v.status == Revoked }) {
		return nil
	}
	var undone []record
	defer func() { // once the lock is free: it runs the caller's code
		for _, r := range undone {
			k.undone(r)
		}
	}()
	k.mu.Lock()
	defer k.mu.Unlock()
	old, _ = k.certs.Peek(key)
	merged := merge(old, said)
	if len(merged) > 0 {
		k.certs.Add(key, merged) // as the one used last
	}
	for _, r := range old {
		if r.revoked && k.undone != nil && !slices.ContainsFunc(live(merged), func(m record) bool { return m.source == r.source }) {
			undone = append(undone, r)
		}
	}
	for _, r := range live(merged) {
		if !slices.ContainsFunc(old, func(o record) bool { return o.revoked && o.source == r.source }) {
			k.news.Add(1)
		}
	}
	return live(merged)
}

// merge is what is on record once something is said. What was undone stays, as
// such, so that the same old revocation in another slot is no news again.
func merge(old []record, said []view) []record {
	merged := slices.Clone(old)
	for _, v := range said {
		i := slices.IndexFunc(merged, func(r record) bool { return r.source == v.source })
		at := v.proof.From
		switch v.status {
		case Revoked:
			r := record{source: v.source, scope: v.scope, at: at, revoked: true, detail: v.detail, compromise: v.compromise, proof: v.proof}
			switch {
			case i >= 0 && !at.Before(merged[i].at):
				r.compromise = r.compromise || merged[i].revoked && merged[i].compromise && at.Equal(merged[i].at)
				merged[i] = r
			case i >= 0:
			case len(merged) < maxKnownOfEach:
				merged = append(merged, r)
			default:
				// Only what was undone makes room: the others say it already.
				if i := slices.IndexFunc(merged, func(r record) bool { return !r.revoked }); i >= 0 {
					merged[i] = r
				}
			}
		case Good:
			// A list that covers only some reasons says nothing of what one that
			// covers others has said at the same place; and whoever certifies the
			// issuer once more could certify a signer of its name as well.
			if i >= 0 && at.After(merged[i].at) && (v.reasons == x509ext.AllReasons && !v.delegated || v.scope == merged[i].scope) {
				merged[i] = record{source: v.source, scope: v.scope, at: at}
			}
		}
	}
	return merged
}

func live(records []record) []record {
	return slices.DeleteFunc(slices.Clone(records), func(r record) bool { return !r.revoked })
}

// News counts the revocations that Check has put on record. Recording one again
// is no news. Who rests on a decision asks KnownRevoked once the number changes.
func (e *Engine) News() uint64 { return e.known.news.Load() }

// KnownRevoked reports whether a revocation of one of the certificates is on
// record that no Check has found undone. After a Check that says good it is false
// for that certificate. It takes a read lock only.
func (e *Engine) KnownRevoked(keys ...CertKey) bool {
	e.known.mu.RLock()
	defer e.known.mu.RUnlock()
	for _, key := range keys {
		if records, ok := e.known.certs.Peek(key); ok && slices.ContainsFunc(records, func(r record) bool { return r.revoked }) {
			return true
		}
	}
	return false
}
