package evidence

import (
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// statement is one list or one OCSP response, verified under the key of an issuer
// or of somebody that it has authorised. It is immutable.
type statement struct {
	list   *crl.List
	answer *ocsp.Answer
	// signer is the certificate whose key verified the list where that is not
	// the issuer's own, and by the certificate that certified it.
	signer, by *x509.Certificate
}

func (st *statement) thisUpdate() time.Time {
	if st.list != nil {
		return st.list.ThisUpdate
	}
	return st.answer.ThisUpdate
}

// nextUpdate is when the statement itself lapses.
func (st *statement) nextUpdate() time.Time {
	if st.list != nil {
		return st.list.NextUpdate
	}
	if st.answer.NextUpdate.IsZero() {
		return st.answer.ThisUpdate.Add(noNextUpdateAge)
	}
	return st.answer.NextUpdate
}

// signerUntil is when the certificate of whoever signed in the issuer's place
// expires, and no later time than t (CVE-2026-42791).
func (st *statement) signerUntil(t time.Time) time.Time {
	if st.signer != nil {
		earlier(&t, st.signer.NotAfter)
	}
	if st.answer != nil && st.answer.Responder != nil {
		earlier(&t, st.answer.Responder.NotAfter)
	}
	return t
}

func (st *statement) until() time.Time { return st.signerUntil(st.nextUpdate()) }

// checkTime decides whether the statement counts now, or within the grace after
// its nextUpdate, and until when.
func (st *statement) checkTime(now time.Time, grace time.Duration) (until time.Time, late bool, err error) {
	at := now
	until = st.nextUpdate()
	if late = now.After(until) && !now.After(until.Add(grace)); late {
		at, until = until, until.Add(grace)
	}
	if st.list != nil {
		err = st.list.CheckTime(at, clockSkew)
	} else {
		err = st.answer.CheckTime(at, clockSkew, noNextUpdateAge)
	}
	until = st.signerUntil(until)
	if err == nil && now.After(until) {
		err = fmt.Errorf("the certificate of whoever signed it expired at %s", until.UTC().Format(time.RFC3339))
	}
	if err == nil && st.signer != nil && now.Add(clockSkew).Before(st.signer.NotBefore) {
		err = fmt.Errorf("the certificate of whoever signed it is valid from %s", st.signer.NotBefore.UTC().Format(time.RFC3339))
	}
	return until, late, err
}

// supersedes reports whether the statement may take the place of an earlier one
// from the same source. Of two of the same second the one that says revoked
// stays, and the list with the higher number or, where numbers do not tell, with
// more entries: otherwise a recorded "good" could be replayed over the revocation
// that followed it.
func (st *statement) supersedes(old *statement) bool {
	if !st.thisUpdate().Equal(old.thisUpdate()) {
		return st.thisUpdate().After(old.thisUpdate())
	}
	if st.list != nil && old.list != nil {
		if a, b := st.list.Number, old.list.Number; a != nil && b != nil && a.Cmp(b) != 0 {
			return a.Cmp(b) > 0
		}
		return st.list.Len() >= old.list.Len()
	}
	if st.answer != nil && old.answer != nil {
		return old.answer.Status != ocsp.Revoked || st.answer.Status == ocsp.Revoked
	}
	return true
}

// repeats reports whether an OCSP response says what an earlier one did.
func (st *statement) repeats(old *statement) bool {
	a, b := *st.answer, *old.answer
	sameResponder := a.Responder == b.Responder || a.Responder != nil && b.Responder != nil && a.Responder.Equal(b.Responder)
	a.ProducedAt, a.Responder, a.Nonce = b.ProducedAt, b.Responder, b.Nonce
	return sameResponder && a == b
}

// held is what a slot holds: one statement, or all that a source of the
// operator's gave. It is immutable.
type held struct {
	said    []*statement // at least one
	kept    []*statement // of a place for one list: those of other scopes that it gave before
	taken   time.Time    // when it was fetched; zero: read from the store
	version string       // of a source of the operator's
	mark    *mark
}

// mark is void once a slot no longer holds what it held when the mark was
// looked at, or is no longer found itself. It refers to neither, so that whoever
// rests on a statement does not keep it in memory.
type mark struct{ void atomic.Bool }

// all are the statements that count.
func (h *held) all() []*statement { return slices.Concat(h.said, h.kept) }

// maxKept bounds the lists of other scopes in one place.
const maxKept = 3

// keepScopes keeps what was held of other scopes until it lapses: whoever serves
// the list of another scope, or of a signer who counts no more, must not take a
// revocation out of memory with it. Those of the issuer's own key come first.
func (h *held) keepScopes(old *held) error {
	st := h.said[0]
	for _, o := range old.all() {
		switch {
		case o.list.ScopeID() != st.list.ScopeID():
			if !h.taken.After(o.nextUpdate()) {
				h.kept = append(h.kept, o)
			}
		case !st.supersedes(o):
			return fmt.Errorf("a statement of %s does not supersede the one of %s that is held",
				st.thisUpdate().UTC().Format(time.RFC3339), o.thisUpdate().UTC().Format(time.RFC3339))
		}
	}
	slices.SortStableFunc(h.kept, func(a, b *statement) int {
		own := func(st *statement) int {
			if st.signer == nil {
				return 0
			}
			return 1
		}
		return own(a) - own(b)
	})
	h.kept = h.kept[:min(len(h.kept), maxKept)]
	return nil
}

// thisUpdate is that of the newest statement.
func (h *held) thisUpdate() time.Time {
	var t time.Time
	for _, st := range h.said {
		if u := st.thisUpdate(); u.After(t) {
			t = u
		}
	}
	return t
}

// until is when the first of the statements lapses.
func (h *held) until() time.Time {
	t := h.said[0].until()
	for _, st := range h.said[1:] {
		earlier(&t, st.until())
	}
	return t
}

// undecided reports whether a responder did not know the certificate.
func (h *held) undecided() bool {
	return len(h.said) == 1 && h.said[0].answer != nil && h.said[0].answer.Status == ocsp.Unknown
}

// size is how many bytes the lists take.
func (h *held) size() int {
	n := 0
	for _, st := range h.all() {
		if st.list != nil {
			n += st.list.Size()
		}
	}
	return n
}

// needsCheck returns the certificate of whoever signed in the issuer's place, if
// it must itself be shown not to be revoked, and who issued it.
func (st *statement) needsCheck(q *Query) (cert, issuer *x509.Certificate) {
	switch {
	case st.answer != nil && st.answer.ResponderNeedsCheck:
		return st.answer.Responder, q.Issuer
	case st.signer != nil && q.Cert != nil && st.signer.Equal(q.Cert) && speaksForItself(q.Cert):
	case st.signer != nil && !q.inChain(st.signer):
		return st.signer, st.by
	}
	return nil, nil
}

func sameKey(a, b *x509.Certificate) bool { return x509ext.KeyHash(a) == x509ext.KeyHash(b) }
