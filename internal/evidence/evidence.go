// Package evidence finds out whether a certificate is revoked, from the signed
// statements of its issuer: CRLs and OCSP responses.
//
// A source is a place that a certificate names: a CRL distribution point or an
// OCSP responder. Each has a slot, which holds the newest statement that was
// fetched from it and verified in full. Deciding only reads slots; fetching
// only fills them. A statement counts while it is current, for the certificates
// it covers, and is looked at anew for every decision.
package evidence

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/fetch"
	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Status is what is known of a certificate. The zero value is Unknown, which
// never admits.
type Status int

// Statuses, in the order in which a worse one wins over a better one being
// Revoked, Unknown by an issuer's own word, Good.
const (
	Unknown Status = iota
	Good
	Revoked
)

// String returns "unknown", "good" or "revoked".
func (s Status) String() string {
	switch s {
	case Good:
		return "good"
	case Revoked:
		return "revoked"
	default:
		return "unknown"
	}
}

// ShortLived is the longest validity of a leaf that needs no revocation (the
// bound of the CA/Browser Forum's Baseline Requirements; RFC 9608 has none).
const ShortLived = 7 * 24 * time.Hour

// Bounds on the age of statements.
const (
	clockSkew       = 5 * time.Minute // thisUpdate in the future
	noNextUpdateAge = time.Hour       // OCSP without nextUpdate
	stapleAge       = 24 * time.Hour  // a response that the client stapled
)

// Query asks for one certificate of a verified chain.
type Query struct {
	Cert, Issuer *x509.Certificate // Issuer is the next certificate of the chain
	Leaf         bool
	MaxAge       time.Duration // oldest thisUpdate of a statement that says good; zero: its nextUpdate
	Fetch        *fetch.Client
	Staple       []byte // an OCSP response that the client sent, or nil
	// Owner is who answers for the certificate: the SHA-256 of the key of its
	// chain's anchor. Each has quotas of its own. Zero is an owner like any other.
	Owner [32]byte

	crlOnly bool // for the certificate of an OCSP responder
	keep    bool // what is found revoked goes on record
}

// maxAge is MaxAge where it counts: for a client's certificate.
func (q *Query) maxAge() time.Duration {
	if !q.Leaf {
		return 0
	}
	return q.MaxAge
}

// Proof is a statement that was looked at.
type Proof struct {
	Kind    string
	Source  string
	Status  string
	From    time.Time
	Expires time.Time
}

// Finding is the answer to a Query. The zero Finding is unknown.
type Finding struct {
	Status     Status
	Missing    bool   // no source is known at all
	Detail     string // for the operator
	Proofs     []Proof
	Expires    time.Time // when a good status lapses; zero: with the certificate
	Deps       []Dep     // what the answer rests on
	Compromise bool      // a revoked certificate whose key may be in other hands
	RetryAfter time.Duration
}

// Dep is what a slot held when it was looked at.
type Dep struct{ mark *mark }

// Current reports whether the slot still holds the same statement, and is still
// the one that news would reach.
func (d Dep) Current() bool { return !d.mark.void.Load() }

// Peek answers from memory alone: it waits for nothing, fetches nothing and
// stores nothing. It is for the handshake, before the client has proved that it
// holds its key.
func (e *Engine) Peek(q Query) Finding {
	return e.find(q, e.sources(q, false), nil)
}

// Check answers after asking the sources that have no usable statement, and
// waits for them until ctx ends; fetches then go on. A staple that is verified
// and counts makes it wait for nothing.
func (e *Engine) Check(ctx context.Context, q Query) Finding {
	q.keep = true
	src := e.sources(q, true)
	stapled := e.takeStaple(q, src)
	waits := e.startDue(q, src)
	f := e.find(q, src, nil)
	if len(waits) == 0 || stapled && f.Status != Unknown {
		return f
	}
	return e.find(q, src, wait(ctx, waits))
}

// Prime starts the fetches that Check would wait for, so that those of several
// certificates run side by side. Like Check it makes the slot of a client's
// staple, so that what one of its connections staples voids what is known to the
// others.
func (e *Engine) Prime(q Query) {
	e.startDue(q, e.sources(q, true))
}

// find looks at every slot and lets the worst answer win: revoked over unknown
// by the issuer's own word, over good. A slot that holds nothing usable says
// nothing; with no slot that says good the status is unknown. A revocation that was
// found before, under whichever certificate of the issuer, counts like one that a
// slot holds.
func (e *Engine) find(q Query, src sources, waited error) Finding {
	now := e.now()
	f := Finding{}
	var details []string
	goods, unknowns, responses := 0, 0, 0
	var said []statement
	consider := func(id sourceID, v view) {
		said = append(said, statement{id, v})
		f.Deps = append(f.Deps, v.deps...)
		if v.problem != "" {
			details = append(details, v.problem)
		}
		if v.proof.Kind == "" {
			return
		}
		f.Proofs = append(f.Proofs, v.proof)
		switch v.status {
		case Revoked:
			f.Status = Revoked
			f.Compromise = f.Compromise || v.compromise
			f.Detail = v.detail
		case Good:
			goods++
			if v.proof.Kind != kindCRL.String() {
				responses++
			}
			if f.Expires.IsZero() || v.proof.Expires.Before(f.Expires) {
				f.Expires = v.proof.Expires
			}
		default:
			unknowns++
			details = append(details, v.proof.Source+" says that it does not know the certificate")
		}
	}
	for _, s := range src.slots {
		h := s.held.Load()
		f.Deps = append(f.Deps, Dep{s.markOf(h)})
		v := e.view(s, h, q, now)
		if h == nil {
			v.problem = s.problem(waited)
		}
		consider(s.id, v)
		f.RetryAfter = max(f.RetryAfter, s.retryAfter(now, q.maxAge()))
	}
	if src.staple != nil {
		h := src.staple.held.Load()
		f.Deps = append(f.Deps, Dep{src.staple.markOf(h)})
		consider(src.staple.id, e.view(src.staple, h, q, now))
	}
	if src.peek && q.Leaf && len(q.Staple) > 0 {
		consider(sourceOf(kindStaple, nil), e.peekStaple(q, now))
	}
	for _, r := range e.known.settle(KeyOf(q.Cert, q.Issuer), said, q.keep) {
		f.Status = Revoked
		f.Compromise = f.Compromise || r.compromise
		if !slices.Contains(f.Proofs, r.proof) {
			f.Detail = r.detail
			f.Proofs = append(f.Proofs, r.proof)
		}
	}
	details = append(details, src.unusable...)
	switch {
	case f.Status == Revoked:
		return f
	case unknowns > 0:
	case q.Leaf && !q.crlOnly && responses == 0 && x509ext.MustStaple(q.Cert):
		// A client of TLS 1.2 cannot staple, so a response that we fetched does as
		// well (RFC 7633 section 4.3.3 is about servers).
		details = append(details, "its TLS feature extension asks for an OCSP response, and there is none")
	case goods > 0:
		f.Status = Good
		return f
	case !Named(q.Cert):
		if q.Leaf && q.Cert.NotAfter.Sub(q.Cert.NotBefore) <= ShortLived {
			f.Status = Good
			f.Proofs = append(f.Proofs, Proof{Kind: "short-lived", Status: "good", Expires: q.Cert.NotAfter})
			return f
		}
		f.Missing = true
		details = append(details, "it names no source of revocation evidence")
	case !src.askable:
		f.Missing = true
		details = append(details, "it names no source of revocation evidence that can be used")
	}
	f.Expires = time.Time{}
	if len(details) == 0 {
		details = append(details, "no evidence in memory")
	}
	f.Detail = strings.Join(details, "; ")
	return f
}

// view is what one slot says of one certificate.
type view struct {
	status     Status
	proof      Proof
	detail     string // of a revocation
	problem    string // why nothing usable is said
	compromise bool
	deps       []Dep
}

// view reads what a slot holds for a certificate at a time. Nothing is believed
// for having been held: times and scope are checked each time. A statement that
// says revoked counts even when it has lapsed: it is no proof of anything
// better.
func (e *Engine) view(s *slot, h *held, q Query, now time.Time) view {
	if h == nil {
		return view{}
	}
	v := view{proof: Proof{Kind: s.kind.String(), Source: s.name(), From: h.thisUpdate()}}
	var revoked, good bool
	var revokedAt time.Time
	var reason int
	var hasReason bool
	var problem error
	expires := h.until()
	switch {
	case h.list != nil:
		if problem = h.list.Covers(q.Cert); problem != nil {
			return view{problem: fmt.Sprintf("%s: %v", s.name(), problem)}
		}
		entry, listed := h.list.Lookup(q.Cert.SerialNumber)
		revoked, good = listed, !listed
		revokedAt, reason, hasReason = entry.Date, entry.Reason, entry.HasReason
		problem = h.list.CheckTime(now, clockSkew)
	default:
		a := h.answer
		revoked, good = a.Status == ocsp.Revoked, a.Status == ocsp.Good
		revokedAt, reason, hasReason = a.RevokedAt, a.Reason, a.HasReason
		problem = a.CheckTime(now, clockSkew, noNextUpdateAge)
		if problem == nil && a.ResponderNeedsCheck {
			var until time.Time
			until, v.deps, problem = e.responder(a.Responder, q)
			if !until.IsZero() {
				earlier(&expires, until)
			}
		}
	}
	if revoked {
		v.status, v.proof.Status = Revoked, Revoked.String()
		v.proof.Expires = expires
		v.compromise = !hasReason || reason == 0 || reason == 1 || reason == 2 || reason == 10
		v.detail = fmt.Sprintf("%s says revoked since %s, reason %s", s.name(), revokedAt.UTC().Format(time.RFC3339), reasonName(reason, hasReason))
		return v
	}
	if age := q.maxAge(); age > 0 {
		earlier(&expires, h.thisUpdate().Add(age))
	}
	if s.kind == kindStaple {
		earlier(&expires, h.thisUpdate().Add(stapleAge))
	}
	if problem == nil && now.After(expires) {
		problem = fmt.Errorf("its statement of %s is too old", h.thisUpdate().UTC().Format(time.RFC3339))
	}
	if problem != nil {
		if err := s.lastError(); err != nil {
			problem = fmt.Errorf("%w; refresh: %w", problem, err)
		}
		return view{problem: fmt.Sprintf("%s: %v", s.name(), problem), deps: v.deps}
	}
	v.proof.Expires = expires
	if good {
		v.status = Good
	}
	v.proof.Status = v.status.String()
	return v
}

// responder reports until when the certificate of a delegated OCSP responder
// without id-pkix-ocsp-nocheck is known not to be revoked (RFC 6960 section
// 4.2.2.2.1). Only CRLs are asked, so that responders cannot vouch for each
// other; their fetches are those of startResponder.
func (e *Engine) responder(responder *x509.Certificate, q Query) (time.Time, []Dep, error) {
	f := e.Peek(responderQuery(responder, q))
	if f.Status == Good {
		return f.Expires, f.Deps, nil
	}
	if f.Status == Revoked {
		return time.Time{}, f.Deps, fmt.Errorf("its responder's certificate is revoked")
	}
	return time.Time{}, f.Deps, fmt.Errorf("its responder's certificate has no id-pkix-ocsp-nocheck and is not known to be good: %s", f.Detail)
}

func responderQuery(responder *x509.Certificate, q Query) Query {
	return Query{Cert: responder, Issuer: q.Issuer, Leaf: true, Fetch: q.Fetch, Owner: q.Owner, crlOnly: true, keep: q.keep}
}

func earlier(t *time.Time, u time.Time) {
	if u.Before(*t) {
		*t = u
	}
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
