package evidence

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// SourceStatus is what is known of one source, or of one list of a source that has
// several.
type SourceStatus struct {
	Owner                  [32]byte
	Kind                   string // "crl", "delta", "ocsp"
	Source                 string
	Issuer                 string // name of the CA whose certificates it is about
	Scope                  string // which of them
	Entries                int    // of a list
	Number                 string // of a list; empty: none
	ThisUpdate, NextUpdate time.Time
	Asked, Next            time.Time // last and next attempt
	Failures               int       // in a row
	Error                  string    // of the last attempt
	Lapsing                int       // percent of the validity that have passed since it was fetched: 0, 50, 80 or 100
}

// Status returns the state of every source but staples, in a stable order.
func (e *Engine) Status() []SourceStatus {
	now := e.now()
	var list []SourceStatus
	for _, key := range e.owners.Keys() {
		o, ok := e.owners.Peek(key)
		if !ok {
			continue
		}
		for _, s := range o.slots.Values() {
			if s.kind != kindStaple {
				list = append(list, s.status(key, now)...)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b SourceStatus) int {
		return strings.Compare(a.Issuer+"\x00"+a.Source+"\x00"+a.Scope, b.Issuer+"\x00"+b.Source+"\x00"+b.Scope)
	})
	return list
}

func (s *slot) status(owner [32]byte, now time.Time) []SourceStatus {
	q := s.asker()
	st := SourceStatus{Owner: owner, Kind: s.kind.String(), Source: s.name(), Issuer: fmt.Sprintf("%.256q", x509ext.NameText(q.Issuer.Subject))}
	if s.kind == kindOCSP {
		st.Scope = "serial number " + q.Cert.SerialNumber.Text(16)
	}
	if at, ok := s.background(now); ok {
		st.Next = at
	}
	s.mu.Lock()
	st.Asked, st.Failures = s.asked, s.failures
	s.mu.Unlock()
	if err := s.lastError(); err != nil {
		st.Error = fmt.Sprintf("%.512s", err.Error())
	}
	h := s.held.Load()
	if h == nil {
		return []SourceStatus{st}
	}
	st.Lapsing = h.lapsing(now)
	var list []SourceStatus
	for _, said := range h.said {
		one := st
		one.ThisUpdate, one.NextUpdate = said.thisUpdate(), said.until()
		if said.list != nil {
			one.Scope, one.Entries = said.list.Scope(), said.list.Len()
			if said.list.Number != nil {
				one.Number = said.list.Number.String()
			}
		}
		if s.kind == kindOwn {
			one.Kind = item{s, said}.proof().Kind
		}
		list = append(list, one)
	}
	return list
}

// warnLapsing reports a statement that is not renewed while its time runs out:
// once at a half and once at four fifths of what was left when it was fetched.
func (e *Engine) warnLapsing(s *slot, now time.Time) {
	h := s.held.Load()
	if h == nil {
		return
	}
	lapsing := h.lapsing(now)
	s.mu.Lock()
	warned := s.warned
	s.warned = lapsing
	err := s.err
	s.mu.Unlock()
	if lapsing <= warned || lapsing < 50 {
		return
	}
	args := []any{"source", s.name(), "percent", lapsing, "lapses", h.until().UTC().Format(time.RFC3339)}
	if err != nil {
		args = append(args, "error", err.Error())
	}
	message := "mtls: revocation evidence is not renewed and runs out"
	if lapsing == 100 {
		message = "mtls: revocation evidence has lapsed"
	}
	e.warn(message, args...)
}
