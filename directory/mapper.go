package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/mtlsguard/mtls"
)

const (
	// maxWaiting bounds the questions that wait for a connection.
	maxWaiting = 1024
	// staleStep is how long a stale account counts before the directory is asked again.
	staleStep = 15 * time.Second
)

// A Mapper is the AccountMapper of a directory. NewActiveDirectory and NewLDAP make
// one. It is safe for concurrent use. It starts nothing before it is asked; Close
// closes the connections that it keeps.
type Mapper struct {
	kind    kind
	client  *client
	cache   *lru.Cache[string, *answer]
	latest  *lru.Cache[string, *seen] // by Account.ID, for standIn
	flights singleflight.Group
	waiting atomic.Int64
	order   atomic.Uint64 // counts when answers began and ended

	mu      sync.Mutex    // orders what is written into the caches
	evicted uint64        // the last end of what latest has lost
	epoch   atomic.Uint64 // counts calls of Flush

	lookups, failures, stale atomic.Uint64
}

// kind is how accounts are found in one kind of directory.
type kind interface {
	// question says what is to be asked about a client. Two clients with the same key
	// are the same account; the Mapper keeps its SHA-256. The error is a refusedError.
	question(*mtls.Identity) (key string, ask asker, err error)
	// holds reports whether what was found may still be so, as far as other questions have
	// shown since.
	holds(finding) bool
	// same returns the ID of an account as it would be for any spelling.
	same(id string) string
}

// asker asks the question with a connection. A refusedError is a definite answer.
type asker func(context.Context, *conn) (finding, error)

// finding is the account of a client. Its Expires is that of the account itself, or zero.
type finding struct {
	account mtls.Account
	issuer  *[sha256.Size]byte // SHA-256 of the CA that had to be trusted; nil: none
}

// answer is what the directory said. It is immutable.
type answer struct {
	finding
	id    string // Account.ID as kind.same has it; empty: none, or not needed
	err   error  // a refusedError
	began uint64 // by Mapper.order
	asked time.Time
	fresh time.Time // counts until then
	until time.Time // and until then if the directory does not answer
}

// seen is what the last answer about an account has said, or the last ones: of those
// that were asked for at once nobody can tell which is later. It is immutable.
type seen struct {
	ended    uint64 // by Mapper.order
	disabled bool   // by one of them
	differ   bool   // in groups
	groups   []string
	expires  time.Time // the earliest
}

// A refusedError refuses a client. It wraps mtls.ErrNoAccount.
type refusedError struct{ why string }

func (e *refusedError) Error() string { return "mtls: directory: no account: " + e.why }

func (e *refusedError) Unwrap() error { return mtls.ErrNoAccount }

func refuse(format string, args ...any) error { return &refusedError{fmt.Sprintf(format, args...)} }

func newMapper(k kind, c Connection, servers []*server) (*Mapper, error) {
	cache, err := lru.New[string, *answer](c.CacheSize)
	if err != nil {
		return nil, err
	}
	m := &Mapper{kind: k, client: newClient(c, servers), cache: cache}
	m.latest, err = lru.NewWithEvict(c.CacheSize, func(_ string, s *seen) { m.evicted = max(m.evicted, s.ended) })
	if err != nil {
		return nil, err
	}
	return m, nil
}

// MapAccount returns the account of a client, as mtls.AccountMapper describes it. An
// error that wraps mtls.ErrNoAccount is the directory's own answer, or says what of the
// certificate could not be used. Any other error means that the directory did not
// answer, or that the service may not read what it must.
func (m *Mapper) MapAccount(ctx context.Context, id *mtls.Identity) (mtls.Account, error) {
	question, ask, err := m.kind.question(id)
	if err != nil {
		return mtls.Account{}, err
	}
	sum := sha256.Sum256([]byte(question)) // a certificate may make a long one
	key := string(sum[:])
	known, ok := m.cache.Get(key)
	if ok && known.counts(m.client.Now()) {
		return known.given()
	}
	began := m.client.Now()
	if m.waiting.Load() >= maxWaiting {
		err = errors.New("too many questions are waiting for the directory")
		if !m.client.silent() { // it may be well, and the clients too many
			return mtls.Account{}, fmt.Errorf("mtls: directory: %w", err)
		}
	} else {
		// The epoch is part of the flight's name: who comes after a Flush does not get an
		// answer from before.
		epoch := m.epoch.Load()
		select {
		case done := <-m.flights.DoChan(strconv.FormatUint(epoch, 10)+" "+key, func() (any, error) { return m.fly(key, epoch, ask), nil }):
			a := done.Val.(*answer)
			if a.err == nil || errors.Is(a.err, mtls.ErrNoAccount) {
				return a.given()
			}
			if err = a.err; !unanswered(err) { // it did answer, or was not asked
				return mtls.Account{}, fmt.Errorf("mtls: directory: %w", err)
			}
		case <-ctx.Done():
			err = fmt.Errorf("no answer while the client waited: %w", context.Cause(ctx))
			// A client that goes away, or that had less time than a server has, proves nothing;
			// that every server has failed lately does.
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) || m.client.Now().Sub(began) < m.client.Timeout || !m.client.silent() {
				return mtls.Account{}, fmt.Errorf("mtls: directory: %w", err)
			}
		}
	}
	a, err := m.standIn(key, known, err)
	if err != nil {
		return mtls.Account{}, fmt.Errorf("mtls: directory: %w", err)
	}
	return a.given()
}

// counts reports whether the directory need not be asked again.
func (a *answer) counts(now time.Time) bool { return now.Before(a.fresh) && !now.Before(a.asked) }

// given returns the caller's own copy.
func (a *answer) given() (mtls.Account, error) {
	if a.err != nil {
		return mtls.Account{}, a.err
	}
	account := a.account
	account.Groups = slices.Clone(account.Groups)
	account.Attributes = maps.Clone(account.Attributes)
	for k, v := range account.Attributes {
		account.Attributes[k] = slices.Clone(v)
	}
	account.Expires = a.fresh
	return account, nil
}

// fly asks the directory for all who have the same question, whoever of them goes
// away meanwhile.
func (m *Mapper) fly(key string, epoch uint64, ask asker) (a *answer) {
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	defer func() {
		if p := recover(); p != nil { // of a callback
			m.forget(key)
			a = &answer{err: fmt.Errorf("panic: %v", p)}
		}
	}()
	c := m.client
	// Somebody may have been told between the look at the cache and now.
	if known, ok := m.cache.Get(key); ok && m.epoch.Load() == epoch && known.counts(c.Now()) {
		return known
	}
	m.lookups.Add(1)
	a = &answer{began: m.order.Add(1), asked: c.Now()}
	a.err = c.do(context.Background(), func(ctx context.Context, cn *conn) (err error) {
		a.finding, err = ask(ctx, cn)
		return err
	})
	if a.err != nil && !errors.Is(a.err, mtls.ErrNoAccount) {
		m.failures.Add(1)
		// An answer, though none to keep: no earlier one outlives it.
		if !unanswered(a.err) && !errors.Is(a.err, errBusy) {
			m.forget(key)
		}
		return a
	}
	a.fresh = a.asked.Add(c.Lifetime)
	if a.err != nil || a.account.Disabled {
		a.fresh = a.asked.Add(c.Lifetime / 6)
	}
	a.until = a.fresh
	if a.err == nil && !a.account.Disabled {
		a.until = a.until.Add(c.Stale)
	}
	if end := a.account.Expires; !end.IsZero() {
		a.fresh, a.until = earlier(a.fresh, end), earlier(a.until, end)
	}
	if c.Stale > 0 && a.err == nil && a.account.ID != "" {
		a.id = m.kind.same(a.account.ID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch.Load() == epoch {
		m.cache.Add(key, a)
		m.remember(a)
	}
	return a
}

// forget removes an answer.
func (m *Mapper) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cache.Remove(key)
}

// remember keeps what the last answer about an account says. It replaces those that had
// ended when it began; with others it is one. m.mu is held.
func (m *Mapper) remember(a *answer) {
	if a.id == "" {
		return
	}
	now := seen{ended: m.order.Add(1), disabled: a.account.Disabled, groups: set(a.account.Groups), expires: a.account.Expires}
	last, ok := m.latest.Peek(a.id)
	if !ok && a.began < m.evicted { // it may have been about this account
		now.differ = true
	}
	if ok && a.began < last.ended {
		now.disabled = now.disabled || last.disabled
		now.differ = last.differ || !slices.Equal(now.groups, last.groups)
		if end := last.expires; now.expires.IsZero() || !end.IsZero() && end.Before(now.expires) {
			now.expires = end
		}
	}
	m.latest.Add(a.id, &now)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// standIn returns an earlier answer that counts although the directory does not
// answer, or the error.
func (m *Mapper) standIn(key string, known *answer, failure error) (*answer, error) {
	now := m.client.Now()
	if m.client.Stale == 0 || known == nil || known.err != nil || known.account.Disabled || now.Before(known.asked) {
		return nil, failure
	}
	a, err := m.renew(key, known, now)
	if err != nil {
		return nil, fmt.Errorf("%w; %w", failure, err)
	}
	if a == nil {
		return nil, failure
	}
	m.stale.Add(1)
	m.client.Logger.Warn("mtls: directory does not answer: an earlier answer counts", "account", a.account.Name,
		"asked", a.asked, "until", a.until, "error", failure)
	return a, nil
}

// renew has an answer count for a while longer, unless its time is over, a later one
// has come, or there was a Flush (nil). The error says what another answer about the
// account has against it.
func (m *Mapper) renew(key string, known *answer, now time.Time) (*answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	present, ok := m.cache.Peek(key)
	if !ok || present.began != known.began {
		return nil, nil
	}
	a := *known
	if !m.kind.holds(a.finding) {
		return nil, errors.New("the issuing CA has left the NTAuth store since")
	}
	if a.id != "" {
		last, ok := m.latest.Get(a.id)
		switch {
		case !ok:
			return nil, errors.New("more accounts than CacheSize were asked for since")
		case last.disabled:
			return nil, errors.New("another answer about the account has disabled it since")
		case last.differ || !slices.Equal(last.groups, set(a.account.Groups)):
			return nil, errors.New("another answer about the account has other groups")
		}
		if end := last.expires; !end.IsZero() {
			a.until = earlier(a.until, end)
		}
	}
	if !now.Before(a.until) {
		return nil, nil
	}
	a.fresh = earlier(now.Add(staleStep), a.until)
	m.cache.Add(key, &a)
	return &a, nil
}

// set returns what is in a list, in one order and once.
func set(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// Flush forgets every answer: for "disabled just now". Requests that a guard has
// admitted already hold until their account's Expires; replacing its policy, even by
// the same rules, has them decided anew.
func (m *Mapper) Flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	// What a kind keeps goes first: it is no part of an answer of the new epoch.
	if f, ok := m.kind.(interface{ flush() }); ok {
		f.flush()
	}
	m.epoch.Add(1)
	m.cache.Purge()
	m.latest.Purge()
}

// Close closes the connections. Later questions that the cache cannot answer
// are not answered. It may be called more than once, and always returns nil.
func (m *Mapper) Close() error {
	m.client.close()
	return nil
}

// Check asks the directory whether it answers: for a start that should fail early, and
// for readiness. It connects, binds and reads the base entry, and sees whether the server
// knows what the filters of an LDAP have under a negation.
func (m *Mapper) Check(ctx context.Context) error {
	err := m.client.do(ctx, func(ctx context.Context, cn *conn) error {
		_, err := cn.one(ctx, "", "namingContexts")
		if k, ok := m.kind.(interface {
			ready(context.Context, *conn) error
		}); ok && err == nil {
			err = k.ready(ctx, cn)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("mtls: directory: %w", err)
	}
	return nil
}

// Stats are counts since the Mapper was made.
type Stats struct {
	Lookups  uint64 // questions to the directory
	Failures uint64 // of these, not answered
	Stale    uint64 // accounts that counted although the directory did not answer
	Cached   int    // answers that are kept now
}

// Stats returns the present counts.
func (m *Mapper) Stats() Stats {
	return Stats{m.lookups.Load(), m.failures.Load(), m.stale.Load(), m.cache.Len()}
}

// quote makes text of a certificate or a server safe for a log, and short.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
