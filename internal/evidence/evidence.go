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
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/fetch"
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
	// Above is the rest of the chain after Issuer; empty if Issuer is the anchor.
	Above []*x509.Certificate
	// Candidates are certificates, of whatever origin, that may belong to those who
	// sign lists in the place of a CA of the chain. Nothing is believed of them but
	// what a CA of the chain has signed.
	Candidates []*x509.Certificate
	Leaf       bool
	MaxAge     time.Duration // oldest thisUpdate of a statement that says good; zero: its nextUpdate
	Grace      time.Duration // for how long a statement counts after its nextUpdate; zero: not at all
	Fetch      *fetch.Client
	Staple     []byte // an OCSP response that the client sent, or nil
	// Owner is who answers for the certificate: the SHA-256 of the key of its
	// chain's anchor. Each has quotas of its own. Zero is an owner like any other.
	Owner [32]byte
	// Sources are the operator's own, asked besides those that the certificate
	// names.
	Sources []*Source
	Mirrors []Mirror // where to ask instead of where certificates and lists say
	// Nonce asks responders with a nonce, and takes no response without it
	// (RFC 9654).
	Nonce         bool
	AllowVersion1 bool // lists of version 1 count

	crlOnly  bool                // for the certificate of somebody who signs in an issuer's place
	vouchers int                 // how many of these there are already
	doubts   []*x509.Certificate // whose status the answer decides
	keep     bool                // what is found revoked goes on record
	asks     *int                // how many more of those who signed may be looked at; nil: nobody counts yet
	vouches  map[string]vouching // what was found of them for this query, by certificate; nil: it is not kept
}

// vouching is what is known of the certificate of whoever signed.
type vouching struct {
	Finding
	err error
}

// counted is the query with a count of its own, unless it is part of another one.
func (q Query) counted() Query {
	q.vouches = map[string]vouching{}
	if q.asks == nil {
		asks := maxAsks
		q.asks = &asks
	}
	return q
}

// maxAge is MaxAge where it counts: for a client's certificate.
func (q *Query) maxAge() time.Duration {
	if !q.Leaf {
		return 0
	}
	return q.MaxAge
}

// expires is when nobody will ask any more.
func (q *Query) expires() time.Time {
	if q.Cert == nil {
		return q.Issuer.NotAfter
	}
	return q.Cert.NotAfter
}

// Proof is a statement that was looked at.
type Proof struct {
	Kind    string
	Source  string
	Status  string
	From    time.Time
	Expires time.Time
	Late    bool // it counts within the grace after its nextUpdate
}

// Finding is the answer to a Query. The zero Finding is unknown.
type Finding struct {
	Status     Status
	Missing    bool   // no source is known at all
	Silent     bool   // nothing is known only because sources do not answer
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
// waits for them until ctx ends; fetches then go on. Once something is known, by a
// staple or from other sources, it waits only for those that were never asked
// before, and with a staple for none.
func (e *Engine) Check(ctx context.Context, q Query) Finding {
	q.keep = true
	src := e.sources(q, true)
	stapled := e.takeStaple(q, src)
	var waited error
	strict := q
	strict.Grace = 0 // is for sources that do not answer, not for those that were not asked
	// A list that was fetched may name deltas: again, for those.
	for range 3 {
		known := e.find(strict, src, waited).Status
		waits := e.startDue(q, src)
		if known == Good {
			waits = slices.DeleteFunc(waits, func(w wait) bool { return !w.first || stapled })
		}
		if len(waits) == 0 {
			break
		}
		if waited = await(ctx, waits); waited != nil {
			break
		}
		src = e.sources(q, true)
	}
	return e.find(q, src, waited)
}

// Prime starts the fetches that Check would wait for, so that those of several
// certificates run side by side. Like Check it makes the slot of a client's
// staple, so that what one of its connections staples voids what is known to the
// others. Without a Cert it asks the Sources that speak for all that an issuer
// has issued.
func (e *Engine) Prime(q Query) {
	e.startDue(q, e.sources(q, true))
}

// Await waits, until ctx ends, for what Prime has started.
func (e *Engine) Await(ctx context.Context, q Query) {
	for _, s := range e.sources(q, false).slots {
		s.mu.Lock()
		f := s.flight
		s.mu.Unlock()
		if f != nil {
			_ = await(ctx, []wait{{done: f.done}})
		}
	}
}

// Supplied reports whether one of the Sources of a query without a Cert holds a
// statement that is current.
func (e *Engine) Supplied(q Query) bool {
	now := e.now()
	return slices.ContainsFunc(e.sources(q, false).slots, func(s *slot) bool {
		h := s.held.Load()
		return h != nil && slices.ContainsFunc(h.said, func(st *statement) bool {
			_, _, err := st.checkTime(now, q.Grace)
			return err == nil
		})
	})
}

// finding collects what statements say.
type finding struct {
	Finding
	details        []string
	said           []view
	seen           map[Dep]bool
	goods          int
	unknowns       int
	responses      int
	silent, wrong  bool
	reasons        x509ext.ReasonFlags // of lists that cover only some
	reasonsExpires time.Time
}

func (f *finding) problem(text string, silent bool) {
	f.details = append(f.details, text)
	f.silent, f.wrong = f.silent || silent, f.wrong || !silent
}

func (f *finding) expire(t time.Time) {
	if f.Expires.IsZero() || t.Before(f.Expires) {
		f.Expires = t
	}
}

func (f *finding) consider(v view) {
	f.said = append(f.said, v)
	for _, d := range v.deps { // those of one signer come with each of its lists
		if !f.seen[d] {
			if f.seen == nil {
				f.seen = map[Dep]bool{}
			}
			f.seen[d] = true
			f.Deps = append(f.Deps, d)
		}
	}
	if v.problem != "" {
		f.problem(v.problem, v.silent)
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
		if v.proof.Kind != kindCRL.String() {
			f.responses++
		}
		if v.reasons != x509ext.AllReasons {
			f.reasons |= v.reasons
			if f.reasonsExpires.IsZero() || v.proof.Expires.Before(f.reasonsExpires) {
				f.reasonsExpires = v.proof.Expires
			}
			return
		}
		f.goods++
		f.expire(v.proof.Expires)
	default:
		f.unknowns++
		f.problem(v.proof.Source+" says that it does not know the certificate", false)
	}
}

// slots looks at every slot. Lists and deltas are looked at together: a base may
// come from one place and its delta from another.
func (e *Engine) slots(f *finding, q Query, src sources, waited error, now time.Time) {
	var lists, deltas, answers []item
	for _, s := range src.slots {
		h := s.held.Load()
		f.Deps = append(f.Deps, Dep{s.markOf(h)})
		f.RetryAfter = max(f.RetryAfter, s.retryAfter(now, q.maxAge()))
		if h == nil {
			if errors.Is(s.lastError(), errNothing) {
				f.details = append(f.details, s.problem(nil))
			} else {
				f.problem(s.problem(waited), s.silent() || waited != nil && s.lastError() == nil)
			}
			continue
		}
		for _, st := range h.all() {
			it := item{s, st}
			switch {
			case st.list == nil && q.crlOnly:
			case st.list == nil:
				answers = append(answers, it)
			case st.list.Delta():
				deltas = append(deltas, it)
			default:
				lists = append(lists, it)
			}
		}
	}
	spoken := map[*slot]bool{}
	for _, it := range lists {
		v := e.view(it, deltas, q, now)
		if it.slot.kind == kindOwn && v.proof.Kind == "" && !covers(it.statement, q) {
			continue // a folder has lists for other certificates
		}
		spoken[it.slot] = true
		f.consider(v)
		if v.status != Good {
			continue
		}
		for _, d := range deltas {
			if included(d, it) { // what it told of alone, before there was the list, has ended
				f.said = append(f.said, view{source: d.source(), status: Good, proof: v.proof})
			}
		}
	}
	for _, it := range answers {
		f.consider(e.view(it, nil, q, now))
	}
	for _, d := range deltas {
		if slices.ContainsFunc(lists, func(it item) bool { return included(d, it) }) {
			continue
		}
		if v, ok := e.changes(d, q); ok {
			f.consider(v)
		}
	}
	for _, s := range src.slots {
		if h := s.held.Load(); s.kind == kindOwn && !spoken[s] && h != nil && h.said[0].list != nil {
			f.details = append(f.details, s.name()+": no list there is for the certificate")
		}
	}
}

// covers reports whether a list speaks for the certificate.
func covers(st *statement, q Query) bool {
	if st.list.Delta() {
		return st.list.Amends(q.Cert) == nil
	}
	_, err := st.list.Covers(q.Cert)
	return err == nil
}

// find looks at every slot and lets the worst answer win: revoked over unknown
// by the issuer's own word, over good. A slot that holds nothing usable says
// nothing; with no slot that says good the status is unknown. Lists that each cover
// some reasons say good together once they cover them all. A revocation that was
// found before, under whichever certificate of the issuer, counts like one that a
// slot holds.
func (e *Engine) find(q Query, src sources, waited error) Finding {
	q = q.counted()
	now := e.now()
	f := &finding{}
	e.slots(f, q, src, waited, now)
	if src.staple != nil {
		h := src.staple.held.Load()
		f.Deps = append(f.Deps, Dep{src.staple.markOf(h)})
		if h != nil {
			f.consider(e.view(item{src.staple, h.said[0]}, nil, q, now))
		}
	}
	if src.peek && q.Leaf && len(q.Staple) > 0 {
		f.consider(e.peekStaple(q, now))
	}
	if q.Cert != nil {
		e.elsewhere(f, q, src)
	}
	if f.reasons == x509ext.AllReasons {
		f.goods++
		f.expire(f.reasonsExpires)
	}
	for _, r := range e.known.settleAll(q, f.said) {
		f.Status = Revoked
		f.Compromise = f.Compromise || r.compromise
		if !slices.Contains(f.Proofs, r.proof) {
			f.Detail = r.detail
			f.Proofs = append(f.Proofs, r.proof)
		}
	}
	if f.Status == Revoked {
		return f.Finding
	}
	f.details = append(f.details, src.unusable...)
	switch {
	case f.unknowns > 0:
	case q.Leaf && !q.crlOnly && f.responses == 0 && x509ext.MustStaple(q.Cert):
		// A client of TLS 1.2 cannot staple, so a response that we fetched does as
		// well (RFC 7633 section 4.3.3 is about servers).
		f.details = append(f.details, "its TLS feature extension asks for an OCSP response, and there is none")
	case f.goods > 0:
		f.Status = Good
		return f.Finding
	case !Named(q.Cert) && len(q.Sources) == 0:
		if (q.Leaf || q.vouchers > 0 && !q.Cert.IsCA) && q.Cert.NotAfter.Sub(q.Cert.NotBefore) <= ShortLived {
			f.Status = Good
			f.Proofs = append(f.Proofs, Proof{Kind: "short-lived", Status: "good", Expires: q.Cert.NotAfter})
			return f.Finding
		}
		f.Missing = true
		f.details = append(f.details, "it names no source of revocation evidence")
	case !src.askable:
		f.Missing = true
		f.details = append(f.details, "it names no source of revocation evidence that can be used")
	case f.reasons != 0:
		f.details = append(f.details, "the lists do not cover all reasons")
	}
	f.Silent = f.silent && !f.wrong && !f.Missing
	f.Expires = time.Time{}
	if len(f.details) == 0 {
		f.details = append(f.details, "no evidence in memory")
	}
	f.Detail = strings.Join(f.details, "; ")
	return f.Finding
}
