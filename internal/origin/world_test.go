package origin_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/origin"
)

// world is a DNS whose records and faults the test sets, a clock, and a Checker.
type world struct {
	mu      sync.Mutex
	time    time.Time
	records map[dnscache.Key]dnsclient.Answer
	errs    map[dnscache.Key]error
	asked   map[dnscache.Key]int
	cache   *dnscache.Cache
	checker *origin.Checker
}

var errServFail = errors.New("SERVFAIL")

func newWorld(own ...netip.Prefix) *world {
	w := &world{
		time:    time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		records: map[dnscache.Key]dnsclient.Answer{}, errs: map[dnscache.Key]error{}, asked: map[dnscache.Key]int{},
	}
	w.cache = dnscache.New(dnscache.Options{Now: w.now, Lookup: w.lookup})
	w.checker = origin.New(w.cache, own, w.now)
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *world) lookup(_ context.Context, name string, t dnsclient.Type) (dnsclient.Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := dnscache.Key{Name: name, Type: t}
	w.asked[k]++
	if err := w.errs[k]; err != nil {
		return dnsclient.Answer{}, err
	}
	a, ok := w.records[k]
	if !ok {
		return dnsclient.Answer{NXDomain: true}, nil
	}
	return a, nil
}

func (w *world) set(name string, t dnsclient.Type, a dnsclient.Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := dnscache.Key{Name: name, Type: t}
	if a.TTL == 0 {
		a.TTL = time.Minute
	}
	w.records[k] = a
	delete(w.errs, k)
}

func (w *world) fail(name string, t dnsclient.Type, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs[dnscache.Key{Name: name, Type: t}] = err
}

func (w *world) queries(name string, t dnsclient.Type) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[dnscache.Key{Name: name, Type: t}]
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) dnsclient.Answer {
	var a dnsclient.Answer
	for _, s := range list {
		a.Addrs = append(a.Addrs, addr(s))
	}
	return a
}

func texts(list ...string) dnsclient.Answer { return dnsclient.Answer{Texts: list} }
func names(list ...string) dnsclient.Answer { return dnsclient.Answer{Names: list} }

func authentic(a dnsclient.Answer) dnsclient.Answer {
	a.Authenticated = true
	return a
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

const domain = "partner.example"

func (w *world) check(t testing.TB, s *origin.Spec, peer string) origin.Finding {
	t.Helper()
	q := origin.Query{Spec: s, Rule: "partner", Domain: domain, Local: addr("8.8.8.8")}
	if peer != "" {
		q.Peer = addr(peer)
	}
	return w.checker.Check(t.Context(), q)
}
