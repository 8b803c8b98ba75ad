package evidence

import (
	"fmt"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Reason codes of RFC 5280 section 5.3.1 that decide something.
const (
	keyCompromise   = 1
	caCompromise    = 2
	certificateHold = 6
	removeFromCRL   = 8
	aaCompromise    = 10
)

// view is what one statement says of one certificate.
type view struct {
	source     sourceID
	scope      [32]byte // of a list
	status     Status
	reasons    x509ext.ReasonFlags // for which a list says good
	delegated  bool                // a list that another key than the issuer's has signed
	foreign    bool                // and that is not certified by the issuer's either
	by         [32]byte            // but by this one, for a list of the issuer's name (namesake) or of another
	namesake   bool
	proof      Proof
	detail     string // of a revocation
	problem    string // why nothing usable is said
	silent     bool   // the source did not answer
	compromise bool
	deps       []Dep
}

// item is a statement and where it is held.
type item struct {
	slot *slot
	*statement
}

func (it item) source() sourceID {
	switch {
	case it.slot.kind == kindDelta:
		// A newer list of its scope, and no other, undoes what it said alone.
		id := it.list.ScopeID()
		return sourceOf(kindDelta, []string{string(id[:])})
	case it.slot.kind != kindOwn:
		return it.slot.id
	case it.list != nil:
		// Each list of a folder is a source of its own.
		id := it.list.ScopeID()
		return sourceOf(kindOwn, []string{it.slot.source.ID, string(id[:])})
	}
	return sourceOf(kindOwn, []string{it.slot.source.ID, "ocsp"})
}

func (it item) proof() Proof {
	p := Proof{Kind: it.slot.kind.String(), Source: it.slot.name(), From: it.thisUpdate()}
	if it.slot.kind == kindOwn || it.slot.kind == kindDelta {
		if p.Kind = kindCRL.String(); it.answer != nil {
			p.Kind = kindOCSP.String()
		}
	}
	return p
}

// view reads what a statement says of a certificate at a time; of a list, with
// the deltas that are held. Nothing is believed for having been held: times, scope
// and signer are checked each time. A statement that says revoked counts even when
// it has lapsed: it is no proof of anything better.
func (e *Engine) view(it item, deltas []item, q Query, now time.Time) view {
	it.statement = e.vouchedFor(it.statement, q, now)
	v := view{source: it.source(), reasons: x509ext.AllReasons, proof: it.proof()}
	var says revocation
	var expires time.Time
	var late bool
	var problem error
	if it.list != nil {
		reasons, err := it.list.Covers(q.Cert)
		if err == nil && it.list.Version1 && !q.AllowVersion1 {
			err = errVersion1
		}
		if err != nil {
			return view{problem: fmt.Sprintf("%s: %v", it.slot.name(), err)}
		}
		v.reasons, v.scope = reasons, it.list.ScopeID()
		q.standing(&v, it.statement)
		expires, late, problem = it.checkTime(now, q.Grace)
		says = listed(it, q)
		if d, ok := newest(it, deltas); ok {
			change := listed(d, q)
			until, _, err := d.checkTime(now, 0)
			switch {
			case change.revoked:
				says = change
			case change.removed && err == nil && says.revoked && says.reason == certificateHold:
				// Nothing else can be undone.
				says.revoked = false
				earlier(&expires, until)
			}
			if err == nil || says.revoked {
				v.proof.From = later(v.proof.From, d.thisUpdate())
			}
		}
	} else {
		a := it.answer
		says = revocation{revoked: a.Status == ocsp.Revoked, at: a.RevokedAt, reason: a.Reason, stated: a.HasReason}
		expires, late, problem = it.checkTime(now, q.Grace)
	}
	signer, err := e.vouched(it.statement, q)
	v.deps = signer.Deps
	if says.revoked && signer.Status != Revoked {
		v.revoke(it, says, expires)
		return v
	}
	if problem == nil {
		problem = err
	}
	if !signer.Expires.IsZero() {
		earlier(&expires, signer.Expires)
	}
	if age := q.maxAge(); age > 0 {
		earlier(&expires, it.thisUpdate().Add(age))
	}
	if it.slot.kind == kindStaple {
		earlier(&expires, it.thisUpdate().Add(stapleAge))
	}
	if problem == nil && now.After(expires) {
		problem = fmt.Errorf("its statement of %s is too old", it.thisUpdate().UTC().Format(time.RFC3339))
	}
	if problem == nil && q.Nonce && (it.slot.kind == kindStaple || it.slot.kind == kindOCSP && it.answer.Nonce == "") {
		problem = errNonce
	}
	if problem != nil {
		// A source that does not answer any more said nothing wrong.
		silent := now.After(expires) && it.slot.silent()
		if err := it.slot.lastError(); err != nil {
			problem = fmt.Errorf("%w; refresh: %w", problem, err)
		}
		return view{problem: fmt.Sprintf("%s: %v", it.slot.name(), problem), silent: silent, deps: v.deps}
	}
	v.proof.Expires = expires
	v.proof.Late = late || slices.ContainsFunc(signer.Proofs, func(p Proof) bool { return p.Late })
	if it.list != nil || it.answer.Status == ocsp.Good {
		v.status = Good
	}
	v.proof.Status = v.status.String()
	return v
}

// changes is the view of a delta that no held list can be combined with: what it
// revokes is revoked, and what it does not mention is not known.
func (e *Engine) changes(it item, q Query) (view, bool) {
	if it.list.Amends(q.Cert) != nil {
		return view{}, false
	}
	says := listed(it, q)
	if !says.revoked {
		return view{}, false
	}
	it.statement = e.vouchedFor(it.statement, q, e.now())
	signer, _ := e.vouched(it.statement, q)
	if signer.Status == Revoked {
		return view{}, false
	}
	v := view{source: it.source(), proof: it.proof(), deps: signer.Deps}
	q.standing(&v, it.statement)
	v.revoke(it, says, it.until())
	return v, true
}

// revocation is what a statement says against a certificate.
type revocation struct {
	revoked bool
	removed bool // a delta takes it off the list
	at      time.Time
	reason  int
	stated  bool
}

func listed(it item, q Query) revocation {
	entry, found := it.list.Lookup(q.Cert)
	if !found {
		return revocation{}
	}
	removed := it.list.Delta() && entry.HasReason && entry.Reason == removeFromCRL
	return revocation{!removed, removed, entry.Date, entry.Reason, entry.HasReason}
}

// newest returns the delta with the highest number that fits a list.
func newest(it item, deltas []item) (item, bool) {
	var best item
	for _, d := range deltas {
		if d.list.UsableWith(it.list) == nil && (best.statement == nil || d.list.Number.Cmp(best.list.Number) > 0) {
			best = d
		}
	}
	return best, best.statement != nil
}

// obsolete reports whether a list says all that a delta says: by its
// number, and by its time, since a CA that was restored may count from the
// beginning again.
func obsolete(d, it item) bool {
	return it.list.SameScope(d.list) && it.list.Number != nil && d.list.Number != nil &&
		it.list.Number.Cmp(d.list.Number) >= 0 && !d.list.ThisUpdate.After(it.list.ThisUpdate)
}

// included reports whether what a list says, with the deltas that are held, is all
// that a delta says.
func included(d, it item) bool { return d.list.UsableWith(it.list) == nil || obsolete(d, it) }

func (v *view) revoke(it item, r revocation, expires time.Time) {
	v.status, v.proof.Status, v.proof.Expires = Revoked, Revoked.String(), expires
	v.compromise = !r.stated || r.reason == 0 || r.reason == keyCompromise || r.reason == caCompromise || r.reason == aaCompromise
	v.detail = fmt.Sprintf("%s says revoked since %s, reason %s", it.slot.name(), r.at.UTC().Format(time.RFC3339), reasonName(r.reason, r.stated))
}

func earlier(t *time.Time, u time.Time) {
	if u.Before(*t) {
		*t = u
	}
}

func later(t, u time.Time) time.Time {
	if u.After(t) {
		return u
	}
	return t
}

func reasonName(code int, has bool) string {
	if !has {
		return "not given"
	}
	names := map[int]string{0: "unspecified", 1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged", 4: "superseded",
		5: "cessationOfOperation", 6: "certificateHold", 8: "removeFromCRL", 9: "privilegeWithdrawn", 10: "aACompromise"}
	if n, ok := names[code]; ok {
		return n
	}
	return fmt.Sprintf("code %d", code)
}
