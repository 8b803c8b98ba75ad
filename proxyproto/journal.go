package proxyproto

import (
	"log/slog"
	"net"
	"sync"
	"time"
)

// Reasons of records.
const (
	notTrusted = "not a trusted proxy"
	tooMany    = "too many connections that wait for a PROXY header or to be accepted"
	tooLate    = "no PROXY header in time"
	badHeader  = "no valid PROXY header"
	badSource  = "no client can have the address in the PROXY header: served as unknown"
)

const (
	recordEvery = 10 * time.Second
	maxText     = 256
)

// journal writes records, few of them: what causes them is up to others.
type journal struct {
	logger *slog.Logger
	now    func() time.Time

	mu   sync.Mutex
	seen map[string]*tally
}

// tally is what is known of a reason.
type tally struct {
	last  time.Time // of the last record
	count int       // since then
}

func newJournal(logger *slog.Logger) *journal {
	if logger == nil {
		logger = slog.Default()
	}
	return &journal{logger: logger, now: time.Now, seen: map[string]*tally{}}
}

// warn counts, and writes a record if the last one for the reason was a while
// ago. The record's peer and error are those of one connection of the count.
func (j *journal) warn(reason string, c net.Conn, err error) {
	j.mu.Lock()
	t := j.seen[reason]
	if t == nil {
		t = &tally{}
		j.seen[reason] = t
	}
	t.count++
	now := j.now()
	if passed := now.Sub(t.last); passed >= 0 && passed < recordEvery {
		j.mu.Unlock()
		return
	}
	count := t.count
	t.last, t.count = now, 0
	j.mu.Unlock()
	args := []any{"reason", reason, "count", count, "proxy", text(c.RemoteAddr())}
	if err != nil {
		s := err.Error()
		args = append(args, "error", s[:min(len(s), maxText)])
	}
	j.logger.Warn("proxyproto: connections without a client's address", args...)
}

// flush writes what has not been written yet.
func (j *journal) flush() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for reason, t := range j.seen {
		if t.count > 0 {
			j.logger.Warn("proxyproto: connections without a client's address", "reason", reason, "count", t.count)
			t.count = 0
		}
	}
}

func text(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}
