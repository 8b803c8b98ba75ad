package evidence

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/ocsp"
)

type kind int

const (
	kindCRL kind = iota
	kindOCSP
	kindStaple
)

func (k kind) String() string { return [...]string{"crl", "ocsp", "staple"}[k] }

// held is a statement that was verified under the issuer's key. It is immutable.
type held struct {
	list   *crl.List
	answer *ocsp.Answer
	taken  time.Time // when it was fetched; zero: read from the store
	mark   *mark
}

// mark is void once a slot no longer holds what it held when the mark was
// looked at, or is no longer found itself. It refers to neither, so that whoever
// rests on a statement does not keep it in memory.
type mark struct{ void atomic.Bool }

func (h *held) thisUpdate() time.Time {
	if h.list != nil {
		return h.list.ThisUpdate
	}
	return h.answer.ThisUpdate
}

// until is when the statement lapses: at its nextUpdate, and not later than the
// certificate of the delegated responder that signed it (CVE-2026-42791).
func (h *held) until() time.Time {
	if h.list != nil {
		return h.list.NextUpdate
	}
	t := h.answer.NextUpdate
	if t.IsZero() {
		t = h.answer.ThisUpdate.Add(noNextUpdateAge)
	}
	if h.answer.Responder != nil {
		earlier(&t, h.answer.Responder.NotAfter)
	}
	return t
}

// supersedes reports whether the statement may take the place of an earlier
// one. Of two of the same second the one that says revoked stays, and the list
// with the higher number or, where numbers do not tell, with more entries:
// otherwise a recorded "good" could be replayed over the revocation that followed
// it.
func (h *held) supersedes(old *held) bool {
	if !h.thisUpdate().Equal(old.thisUpdate()) {
		return h.thisUpdate().After(old.thisUpdate())
	}
	if h.list != nil {
		if a, b := h.list.Number, old.list.Number; a != nil && b != nil && a.Cmp(b) != 0 {
			return a.Cmp(b) > 0
		}
		return h.list.Len() >= old.list.Len()
	}
	return old.answer.Status != ocsp.Revoked || h.answer.Status == ocsp.Revoked
}

// repeats reports whether an OCSP response says what an earlier one did.
func (h *held) repeats(old *held) bool {
	a, b := *h.answer, *old.answer
	sameResponder := a.Responder == b.Responder || a.Responder != nil && b.Responder != nil && a.Responder.Equal(b.Responder)
	a.ProducedAt, a.Responder = b.ProducedAt, b.Responder
	return sameResponder && a == b
}

// slot is the place of one source. What it holds was verified under the issuer's
// certificate that its own key names, so that no other issuer's statement can be
// found there.
type slot struct {
	owner *owner
	key   string
	kind  kind
	urls  []string // alternatives for one and the same statement
	id    sourceID

	held  atomic.Pointer[held]
	empty *mark       // of the time before it held anything
	gone  atomic.Bool // evicted: nothing that happens to the source reaches this slot any more

	mu       sync.Mutex
	flight   *flight // the update that is under way
	next     *flight // the one after it
	query    *Query  // of the last caller: whom to ask for; nil in the slot of a staple, which is never asked for
	crowded  bool    // there was no place for an update
	err      error   // of the last attempt
	failures int     // in a row
	failed   time.Time
}

func newSlot(o *owner, key string, k kind, q Query, urls []string) *slot {
	s := &slot{owner: o, key: key, kind: k, urls: urls, id: sourceOf(k, urls), empty: new(mark)}
	if k != kindStaple {
		s.setAsker(q)
	}
	return s
}

// setAsker notes for whom the source is asked. The slot is locked, or new.
func (s *slot) setAsker(q Query) {
	q.Staple = nil
	s.query = &q
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
	if h := s.held.Load(); h != nil && h.list != nil {
		return h.list.Size()
	}
	return 0
}

// slotKey has every part length-prefixed, so that no two sources share a key
// whatever their URLs contain (Traefik's CVE-2026-71326 was such a collision).
// It is a file name as well: the key under which a Store keeps the bytes.
//
// issuer is the hash of all that the issuer's certificate says. Of two for one
// name and key, which anybody can make of a CA's, one may lack the right to sign
// lists or have another key identifier, and every list of the CA would fail under
// it. Its signature is left out: anybody can make (r, n-s) of an ECDSA signature
// (r, s), and would have slots in which no revocation is known yet.
func slotKey(k kind, issuer [32]byte, q Query, urls []string) string {
	h := sha256.New()
	writePart(h, issuer[:])
	if k == kindCRL {
		// A list may cover only one of the two, and be of use to that one.
		writePart(h, strconv.AppendBool(nil, q.Cert.IsCA))
	} else {
		writePart(h, q.Cert.SerialNumber.Append(nil, 16))
	}
	for _, u := range urls {
		writePart(h, []byte(u))
	}
	return k.String() + "-" + hex.EncodeToString(h.Sum(nil))
}

// writePart writes a part of what is hashed, and its length before it.
func writePart(h hash.Hash, b []byte) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
	h.Write(b)
}

// name is what logs and decisions call the source.
func (s *slot) name() string {
	if s.kind == kindStaple {
		return "the response that the client stapled"
	}
	if s.kind == kindCRL {
		return fmt.Sprintf("CRL %.256q", strings.Join(s.urls, " or "))
	}
	return fmt.Sprintf("OCSP %.256q", s.urls[0])
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

func (h *held) undecided() bool { return h.answer != nil && h.answer.Status == ocsp.Unknown }

// dueAt is when the source should be asked, zero for at once: a pure function of
// now and state. Failures back off from 1 s to 30 s while evidence is missing,
// to 15 min while it is not.
func (s *slot) dueAt(now time.Time, maxAge time.Duration) time.Time {
	var at time.Time
	most := 30 * time.Second
	if h := s.current(now, maxAge); h != nil {
		at, most = refreshAt(h, s.key, maxAge), 15*time.Minute
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 {
		if retry := s.failed.Add(min(time.Second<<min(s.failures-1, 20), most)); retry.After(at) {
			at = retry
		}
	}
	return at
}

// background is dueAt for what is done without a request, and false where
// nothing is: for staples, for sources that are being asked, and for those that
// nobody has asked for since the certificate of the last who did expired.
func (s *slot) background(now time.Time) (time.Time, bool) {
	if s.kind == kindStaple {
		return time.Time{}, false
	}
	s.mu.Lock()
	q, flying := s.query, s.flight != nil
	s.mu.Unlock()
	if flying || now.After(q.Cert.NotAfter) {
		return time.Time{}, false
	}
	return s.dueAt(now, q.maxAge()), true
}

// refreshAt spreads refreshes: a quarter of the validity, between 15 minutes
// and 6 hours, but never beyond half the validity, nor (down to a minute) beyond
// half of what was left when the statement was fetched, so that one fetched late
// in its life is renewed before it lapses; less up to 10 % of jitter that is the
// same each time for the same source. For an asker with a MaxAge (above zero) it
// lapses at that age, if that is earlier.
func refreshAt(h *held, key string, maxAge time.Duration) time.Time {
	until := h.until()
	validity := until.Sub(h.thisUpdate())
	every := min(max(validity/4, 15*time.Minute), 6*time.Hour, validity/2)
	if maxAge > 0 {
		every = min(every, maxAge/2)
		earlier(&until, h.thisUpdate().Add(maxAge))
	}
	from := h.taken
	if from.IsZero() {
		from = h.thisUpdate()
	}
	if half := until.Sub(from) / 2; half < every {
		every = max(half, min(every, time.Minute))
	}
	seed := sha256.Sum256([]byte(key))
	jitter := time.Duration(binary.BigEndian.Uint16(seed[:2])) * every / 10 / (1 << 16)
	return from.Add(every - jitter)
}

// take puts a verified statement into the slot unless it holds a newer one, or, in
// that of a staple, the same: taking it again would void what is being decided on
// it, with each request of a client that has two chains or many machines.
func (s *slot) take(h *held) error {
	for {
		old := s.held.Load()
		if old != nil && s.kind == kindStaple && h.repeats(old) {
			return nil
		}
		if old != nil && !h.supersedes(old) {
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

// done records an attempt. One that succeeded and left nothing that counts for
// the asker is followed by a pause, too.
func (s *slot) done(err error, now time.Time, maxAge time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if err == nil && s.current(now, maxAge) != nil {
		s.failures = 0
		return
	}
	s.failures++
	s.failed = now
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

// retryAfter is how long it makes no sense to ask again.
func (s *slot) retryAfter(now time.Time, maxAge time.Duration) time.Duration {
	s.mu.Lock()
	failures, crowded := s.failures, s.crowded
	s.mu.Unlock()
	switch {
	case failures > 0:
		return max(0, s.dueAt(now, maxAge).Sub(now))
	case crowded:
		return time.Second
	default:
		return 0
	}
}
