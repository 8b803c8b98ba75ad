package evidence

import (
	"strconv"
	"time"

	"github.com/mtlsguard/mtls/internal/crl"
)

// RefreshAt is the schedule of a list that was fetched at taken (zero: read
// from the Store), for the source with the key and an asker with a MaxAge.
func RefreshAt(this, next, taken time.Time, key string, maxAge time.Duration) time.Time {
	return refreshAt(&held{said: []*statement{{list: &crl.List{ThisUpdate: this, NextUpdate: next}}}, taken: taken}, key, maxAge, time.Time{})
}

// CRLKey, OCSPKey and StapleKey are the keys of slots and of a Store.
func CRLKey(q Query, urls ...string) string { return slotKey(kindCRL, issuer(q), q, place{urls: urls}) }
func OCSPKey(q Query, urls ...string) string {
	return slotKey(kindOCSP, issuer(q), q, place{urls: urls})
}
func StapleKey(q Query) string { return slotKey(kindStaple, issuer(q), q, place{}) }

func issuer(q Query) [32]byte { return q.path() }

// Quotas of one owner, and of all.
const (
	MaxSlots      = maxSlots
	MaxOwners     = maxOwners
	MaxUpdates    = maxUpdates
	MaxFetches    = maxFetches
	MaxBackground = maxBackground
)

// Slots is how many slots there are.
func (e *Engine) Slots() int {
	n := 0
	for _, o := range e.owners.Values() {
		n += o.slots.Len()
	}
	return n
}

// Owners is how many owners there are.
func (e *Engine) Owners() int { return e.owners.Len() }

// Crowd makes as many slots as an owner has room for, of other sources.
func (e *Engine) Crowd(q Query) {
	for i := range maxSlots {
		e.owner(q.Owner, true).slot(kindCRL, issuer(q), q, place{urls: []string{strconv.Itoa(i)}}, true)
	}
}

// ListBytes sets the bound on the bytes of an owner's lists.
func (e *Engine) ListBytes(owner [32]byte, most int) { e.owner(owner, true).most = most }

// Occupy takes all places for updates and returns a function that frees them.
func (e *Engine) Occupy() func() {
	for range maxFlights {
		e.flights <- struct{}{}
	}
	return func() {
		for range maxFlights {
			<-e.flights
		}
	}
}

// MaxKnown is how many certificates have records.
const MaxKnown = maxKnown

// Record settles what one source says of a certificate.
func (e *Engine) Record(key CertKey, url string, status Status, at time.Time) {
	e.known.settle(key, []view{{source: sourceOf(kindCRL, []string{url}), status: status, proof: Proof{From: at}}}, true)
}

// Records is how many revocations of a certificate are on record.
func (e *Engine) Records(key CertKey) int { return len(e.known.settle(key, nil, false)) }

// Candidates is how many certificates of possible signers a source of the query
// keeps at most.
func (e *Engine) Candidates(q Query) (n int) {
	for _, s := range e.sources(q, false).slots {
		n = max(n, len(s.asker().Candidates))
	}
	return n
}
