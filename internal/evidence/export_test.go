package evidence

import (
	"time"

	"github.com/mtlsguard/mtls/internal/crl"
)

// RefreshAt is the schedule of a list that was fetched at taken (zero: read
// from the Store), for the source with the key.
func RefreshAt(this, next, taken time.Time, key string) time.Time {
	return refreshAt(&held{list: &crl.List{ThisUpdate: this, NextUpdate: next}, taken: taken}, key)
}

// CRLKey, OCSPKey and StapleKey are the keys of slots and of a Store.
func CRLKey(q Query, urls ...string) string  { return slotKey(kindCRL, q, urls) }
func OCSPKey(q Query, urls ...string) string { return slotKey(kindOCSP, q, urls) }
func StapleKey(q Query) string               { return slotKey(kindStaple, q, nil) }

// Slots is how many slots there are.
func (e *Engine) Slots() int { return e.slots.Len() }

// Crowd makes as many slots as there is room for, of other sources.
func (e *Engine) Crowd(q Query) {
	for i := range maxSlots {
		e.slots.Add(string(rune(i)), newSlot("", kindStaple, q, nil))
	}
}

// Occupy takes all places for updates and returns a function that frees them.
func (e *Engine) Occupy() func() {
	for range maxFlights {
		e.places <- struct{}{}
	}
	return func() {
		for range maxFlights {
			<-e.places
		}
	}
}
