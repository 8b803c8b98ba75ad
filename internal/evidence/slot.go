package evidence

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtlsguard/mtls/internal/fetch"
	"github.com/mtlsguard/mtls/internal/ocsp"
)

type kind int

const (
	kindCRL kind = iota
	kindDelta
	kindOCSP
	kindStaple
	kindOwn // a Source of the operator's
)

func (k kind) String() string { return [...]string{"crl", "delta", "ocsp", "staple", "own"}[k] }

// isList reports whether the slot is for a list that is fetched.
func (k kind) isList() bool { return k == kindCRL || k == kindDelta }

// place is where a slot is filled from.
type place struct {
	urls   []string // alternatives for one and the same statement
	names  [][]byte // of the CRL issuer, if it is not the certificate's
	source *Source
}

// slot is the place of one source. What it holds was verified under the issuer's
// certificate that its own key names, so that no other issuer's statement can be
// found there.
type slot struct {
	owner *owner
	key   string
	kind  kind
	place
	id sourceID

	held  atomic.Pointer[held]
	empty *mark       // of the time before it held anything
	gone  atomic.Bool // evicted: nothing that happens to the source reaches this slot any more

	mu       sync.Mutex
	flight   *flight   // the update that is under way
	next     *flight   // the one after it
	query    *Query    // of the last caller: whom to ask for; nil in the slot of a staple, which is never asked for
	crowded  bool      // there was no place for an update
	err      error     // of the last attempt
	failures int       // in a row
	forgiven time.Time // when they were forgotten without a success
	asked    time.Time
	// validator is what the server said that the statement held is; confirmed
	// is when it last said that it has no other.
	validator validator
	confirmed time.Time
	warned    int // percent of the validity that had passed when that was last logged
}

// validator makes a request conditional (RFC 9110 section 13.1).
type validator struct{ url, etag, modified string }

func newSlot(o *owner, key string, k kind, q Query, p place) *slot {
	s := &slot{owner: o, key: key, kind: k, place: p, id: sourceOf(k, p.urls), empty: new(mark)}
	if k != kindStaple {
		s.setAsker(q)
	}
	return s
}

// maxCandidates bounds the certificates of possible signers that a slot keeps.
const maxCandidates = 16

// setAsker notes for whom the source is asked. The slot is locked, or new. Whoever
// asks need not send the certificates of those who sign lists: those of earlier
// askers stay, and new ones are a reason to try again what could not be verified.
func (s *slot) setAsker(q Query) {
	q.Staple, q.keep, q.asks, q.vouches = nil, false, nil, nil
	if s.query != nil {
		candidates := slices.Clip(q.Candidates)
		for _, c := range s.query.Candidates {
			if len(candidates) < maxCandidates && !slices.ContainsFunc(candidates, c.Equal) {
				candidates = append(candidates, c)
			}
		}
		q.Candidates = candidates
	}
	s.query = &q
}

// retryWith forgets failures if a query has certificates of possible signers that
// were not there when they happened.
func (s *slot) retryWith(q Query, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures == 0 || s.kind == kindOCSP || s.query == nil {
		return
	}
	if !slices.ContainsFunc(q.Candidates, func(c *x509.Certificate) bool { return !slices.ContainsFunc(s.query.Candidates, c.Equal) }) {
		return
	}
	if now.Before(s.forgiven.Add(time.Second)) {
		s.setAsker(q) // whoever has others each time has it asked no more often; next time these are tried, too
		return
	}
	s.failures, s.forgiven = 0, now
}

func (s *slot) asker() Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.query
}

// evict voids what rests on the slot.
func (s *slot) evict() {
	s.gone.Store(true)
	s.markOf(s.held.Load()).void.Store(true)
}

func (s *slot) markOf(h *held) *mark {
	if h == nil {
		return s.empty
	}
	return h.mark
}

// size is how many bytes of lists the slot holds.
func (s *slot) size() int {
	if h := s.held.Load(); h != nil {
		return h.size()
	}
	return 0
}

// slotKey has every part length-prefixed, so that no two sources share a key
// whatever their URLs contain (Traefik's CVE-2026-71326 was such a collision).
// It is a file name as well: the key under which a Store keeps the bytes.
//
// issuer is the hash of all that the certificates of the issuer and of those above
// it say: what one of these certifies for a client that has it in its chain, the
// signer of a list for example, is worth nothing to others. Of two for one
// name and key, which anybody can make of a CA's, one may lack the right to sign
// lists or have another key identifier, and every list of the CA would fail under
// it. Its signature is left out: anybody can make (r, n-s) of an ECDSA signature
// (r, s), and would have slots in which no revocation is known yet.
func slotKey(k kind, issuer [32]byte, q Query, p place) string {
	h := sha256.New()
	writePart(h, issuer[:])
	switch {
	case k.isList():
		// A list may cover only one of the two, and be of use to that one.
		writePart(h, strconv.AppendBool(nil, q.Cert.IsCA))
	case k == kindOwn && p.source.Shared:
		writePart(h, []byte(p.source.ID))
	default:
		if p.source != nil {
			writePart(h, []byte(p.source.ID))
		}
		writePart(h, q.Cert.SerialNumber.Append(nil, 16))
	}
	for _, u := range p.urls {
		writePart(h, []byte(u))
	}
	for _, n := range p.names {
		writePart(h, n)
	}
	return k.String() + "-" + hex.EncodeToString(h.Sum(nil))
}

// path is the hash of what the CA certificates of the chain say.
func (q *Query) path() [32]byte {
	h := sha256.New()
	for _, c := range q.above() {
		writePart(h, c.RawTBSCertificate)
	}
	return [32]byte(h.Sum(nil))
}

// writePart writes a part of what is hashed, and its length before it.
func writePart(h hash.Hash, b []byte) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
	h.Write(b)
}

// name is what logs and decisions call the source.
func (s *slot) name() string {
	switch s.kind {
	case kindStaple:
		return "the response that the client stapled"
	case kindOwn:
		return s.source.Name
	case kindOCSP:
		return fmt.Sprintf("OCSP %.256q", s.urls[0])
	case kindDelta:
		return fmt.Sprintf("delta CRL %.256q", strings.Join(s.urls, " or "))
	default:
		return fmt.Sprintf("CRL %.256q", strings.Join(s.urls, " or "))
	}
}

// current returns what the slot holds while its own times and the asker's MaxAge
// allow it. A responder that does not know the certificate (yet) gave nothing
// worth keeping: it is asked again like one that did not answer.
func (s *slot) current(now time.Time, maxAge time.Duration) *held {
	h := s.held.Load()
	if h == nil || now.After(h.until()) || h.undecided() || maxAge > 0 && now.After(h.thisUpdate().Add(maxAge)) {
		return nil
	}
	return h
}

// take puts verified statements into the slot unless it holds a newer one, or, in
// that of a staple, the same: taking it again would void what is being decided on
// it, with each request of a client that has two chains or many machines.
func (s *slot) take(h *held) error {
	for {
		old := s.held.Load()
		switch {
		case old == nil:
		case s.kind == kindOwn:
			h.keepNewer(old)
		case s.kind.isList():
			h.kept = nil // of the last round
			if err := h.keepScopes(old); err != nil {
				return err
			}
		case s.kind == kindStaple && h.said[0].repeats(old.said[0]):
			return nil
		case !h.said[0].supersedes(old.said[0]):
			return fmt.Errorf("a statement of %s does not supersede the one of %s that is held",
				h.thisUpdate().UTC().Format(time.RFC3339), old.thisUpdate().UTC().Format(time.RFC3339))
		}
		if s.held.CompareAndSwap(old, h) {
			s.markOf(old).void.Store(true)
			if s.gone.Load() {
				h.mark.void.Store(true) // evict may have seen the old one only
			}
			return nil
		}
	}
}

// keepNewer keeps those responses of a source of the operator's that what it
// says now does not supersede. Of its lists, those that are newer are known to the
// owner.
func (h *held) keepNewer(old *held) {
	for i, st := range h.said {
		for _, o := range old.said {
			if st.answer != nil && o.answer != nil && !st.supersedes(o) {
				h.said[i] = o
				st = o
			}
		}
	}
}

// keepOthers keeps the lists of scopes that a source does not give now.
func (h *held) keepOthers(old *held) {
	for _, o := range old.said {
		if o.list != nil && !slices.ContainsFunc(h.said, func(st *statement) bool {
			return st.list != nil && st.list.ScopeID() == o.list.ScopeID()
		}) {
			h.said = append(h.said, o)
		}
	}
}

// done records an attempt. One that succeeded and left nothing that counts for
// the asker is followed by a pause, too.
func (s *slot) done(err error, now time.Time, maxAge time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.asked = err, now
	if err == nil && s.current(now, maxAge) != nil {
		s.failures = 0
		return
	}
	s.failures++
}

// lastAsked is when the last attempt ended; zero: there was none.
func (s *slot) lastAsked() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// lastError is why the last attempt brought nothing.
func (s *slot) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crowded {
		return errCrowded
	}
	return s.err
}

// silent reports whether the last attempt brought nothing because the source did
// not answer, as opposed to an answer that cannot be used.
func (s *slot) silent() bool { return unavailable(s.lastError()) }

func unavailable(err error) bool {
	var several failures
	if errors.As(err, &several) {
		for _, err := range several {
			if !unavailable(err) {
				return false
			}
		}
		return true
	}
	// internalError and tryLater (RFC 6960 section 2.3).
	var response *ocsp.ResponseError
	if errors.As(err, &response) {
		return response.Code == 2 || response.Code == 3
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, errCrowded) || errors.Is(err, errNotAsked) || fetch.Unavailable(err)
}

// problem says why the slot holds nothing.
func (s *slot) problem(waited error) string {
	err := s.lastError()
	switch {
	case err != nil:
		return fmt.Sprintf("%s: %v", s.name(), err)
	case waited != nil:
		return s.name() + ": no answer in time; the fetch goes on"
	default:
		return s.name() + ": not asked yet"
	}
}
