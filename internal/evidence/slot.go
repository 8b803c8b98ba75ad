package evidence

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/x509ext"
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
}

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
// with the higher number: otherwise a recorded "good" could be replayed over the
// revocation that followed it.
func (h *held) supersedes(old *held) bool {
	if !h.thisUpdate().Equal(old.thisUpdate()) {
		return h.thisUpdate().After(old.thisUpdate())
	}
	if h.list != nil {
		return h.list.Number == nil || old.list.Number == nil || h.list.Number.Cmp(old.list.Number) >= 0
	}
	return old.answer.Status != ocsp.Revoked || h.answer.Status == ocsp.Revoked
}

// slot is the place of one source. What it holds was verified under the key
// that its own key names, so that no other issuer's statement can be found there.
type slot struct {
	key  string
	kind kind
	urls []string // alternatives for one and the same statement

	held atomic.Pointer[held]
	gone atomic.Bool // evicted: nothing that happens to the source reaches this slot any more

	flight   singleflight.Group // of the one key ""
	fetching chan struct{}      // has room for one update at a time

	mu       sync.Mutex
	query    Query // of the last caller: whom to ask for
	err      error // of the last attempt
	failures int   // in a row
	failed   time.Time
}

func newSlot(key string, k kind, q Query, urls []string) *slot {
	s := &slot{key: key, kind: k, urls: urls, fetching: make(chan struct{}, 1)}
	s.setAsker(q)
	return s
}

// setAsker notes for whom the source is asked.
func (s *slot) setAsker(q Query) {
	q.Staple = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.query = q
}

func (s *slot) asker() Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.query
}

// slotKey has every part length-prefixed, so that no two sources share a key
// whatever their URLs contain (Traefik's CVE-2026-71326 was such a collision).
// It is a file name as well: the key under which a Store keeps the bytes.
func slotKey(k kind, q Query, urls []string) string {
	h := sha256.New()
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	key := x509ext.KeyHash(q.Issuer)
	part(key[:])
	part(q.Issuer.RawSubject)
	if k == kindCRL {
		// A list may cover only one of the two, and be of use to that one.
		part(strconv.AppendBool(nil, q.Cert.IsCA))
	} else {
		part(q.Cert.SerialNumber.Append(nil, 16))
	}
	for _, u := range urls {
		part([]byte(u))
	}
	return k.String() + "-" + hex.EncodeToString(h.Sum(nil))
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

// current returns what the slot holds while its own times allow it. A responder
// that does not know the certificate (yet) gave nothing worth keeping: it is
// asked again like one that did not answer.
func (s *slot) current(now time.Time) *held {
	h := s.held.Load()
	if h == nil || now.After(h.until()) || h.undecided() {
		return nil
	}
	return h
}

func (h *held) undecided() bool { return h.answer != nil && h.answer.Status == ocsp.Unknown }

// due reports whether the source should be asked now.
func (s *slot) due(now time.Time) bool { return !now.Before(s.dueAt(now)) }

// dueAt is when the source should be asked, zero for at once: a pure function of
// now and state. Failures back off from 1 s to 30 s while evidence is missing,
// to 15 min while it is not.
func (s *slot) dueAt(now time.Time) time.Time {
	var at time.Time
	most := 30 * time.Second
	if h := s.current(now); h != nil {
		at, most = refreshAt(h, s.key), 15*time.Minute
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
// nothing is: for staples, and for sources that nobody has asked for since the
// certificate of the last who did expired.
func (s *slot) background(now time.Time) (time.Time, bool) {
	if s.kind == kindStaple || now.After(s.asker().Cert.NotAfter) {
		return time.Time{}, false
	}
	return s.dueAt(now), true
}

// refreshAt spreads refreshes: a quarter of the validity, between 15 minutes
// and 6 hours, but never beyond half the validity, nor (down to a minute) beyond
// half of what was left when the statement was fetched, so that one fetched late
// in its life is renewed before it lapses; less up to 10 % of jitter that is the
// same each time for the same source.
func refreshAt(h *held, key string) time.Time {
	validity := h.until().Sub(h.thisUpdate())
	every := min(max(validity/4, 15*time.Minute), 6*time.Hour, validity/2)
	from := h.taken
	if from.IsZero() {
		from = h.thisUpdate()
	}
	if half := h.until().Sub(from) / 2; half < every {
		every = max(half, min(every, time.Minute))
	}
	seed := sha256.Sum256([]byte(key))
	jitter := time.Duration(binary.BigEndian.Uint16(seed[:2])) * every / 10 / (1 << 16)
	return from.Add(every - jitter)
}

// take puts a verified statement into the slot unless it holds a newer one.
func (s *slot) take(h *held) error {
	for {
		old := s.held.Load()
		if old != nil && !h.supersedes(old) {
			return fmt.Errorf("a statement of %s does not supersede the one of %s that is held",
				h.thisUpdate().UTC().Format(time.RFC3339), old.thisUpdate().UTC().Format(time.RFC3339))
		}
		if s.held.CompareAndSwap(old, h) {
			return nil
		}
	}
}

// done records an attempt.
func (s *slot) done(err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if h := s.held.Load(); err == nil && (h == nil || !h.undecided()) {
		s.failures = 0
		return
	}
	s.failures++
	s.failed = now
}

func (s *slot) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// problem says why the slot holds nothing.
func (s *slot) problem(now time.Time, waited error) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return fmt.Sprintf("%s: %v", s.name(), s.err)
	case waited != nil:
		return s.name() + ": no answer in time; the fetch goes on"
	default:
		return s.name() + ": not asked yet"
	}
}

// retryAfter is how long it makes no sense to ask again.
func (s *slot) retryAfter(now time.Time) time.Duration {
	if s.lastError() == nil {
		return 0
	}
	return max(0, s.dueAt(now).Sub(now))
}
