package evidence

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// dueAt is when the source should be asked, zero for at once: a pure function of
// now and state. Failures back off from 1 s to 30 s while evidence is missing,
// to 15 min while it is not. A source of the operator's that says how often it is
// looked at is looked at so often.
func (s *slot) dueAt(now time.Time, maxAge time.Duration) time.Time {
	s.mu.Lock()
	failures, asked, confirmed := s.failures, s.asked, s.confirmed
	s.mu.Unlock()
	if s.kind == kindOwn && s.source.Every > 0 {
		if asked.IsZero() {
			return asked
		}
		return asked.Add(s.source.Every)
	}
	var at time.Time
	most := 30 * time.Second
	if h := s.current(now, maxAge); h != nil {
		at, most = refreshAt(h, s.key, maxAge, confirmed), 15*time.Minute
	}
	if failures > 0 {
		if retry := asked.Add(min(time.Second<<min(failures-1, 20), most)); retry.After(at) {
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
	if flying || now.After(q.expires()) {
		return time.Time{}, false
	}
	return s.dueAt(now, q.maxAge()), true
}

// refreshAt spreads refreshes: a quarter of the validity, between 15 minutes
// and 6 hours, but never beyond half the validity, nor (down to a minute) beyond
// half of what was left when the statement was fetched or confirmed, so that one
// fetched late in its life is renewed before it lapses; less up to 10 % of jitter
// that is the same each time for the same source. For an asker with a MaxAge (above
// zero) it lapses at that age, if that is earlier.
func refreshAt(h *held, key string, maxAge time.Duration, confirmed time.Time) time.Time {
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
	from = later(from, confirmed)
	if half := until.Sub(from) / 2; half < every {
		every = max(half, min(every, time.Minute))
	}
	seed := sha256.Sum256([]byte(key))
	jitter := time.Duration(binary.BigEndian.Uint16(seed[:2])) * every / 10 / (1 << 16)
	return from.Add(every - jitter)
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

// lapsing is how many percent of the time have passed that was left to the
// statement when it was fetched: 80, 50, or 0 for less. Past it is 100.
func (h *held) lapsing(now time.Time) int {
	from := h.taken
	if from.IsZero() {
		from = h.thisUpdate()
	}
	left := h.until().Sub(from)
	passed := now.Sub(from)
	switch {
	case passed > left:
		return 100
	case passed >= left*8/10:
		return 80
	case passed >= left/2:
		return 50
	}
	return 0
}
