package evidence

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	neturl "net/url"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/fetch"
	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Bounds on fetches.
const (
	crlTimeout  = 60 * time.Second
	crlLimit    = 128 << 20
	ocspTimeout = 3 * time.Second
	ocspLimit   = 64 << 10
	maxGiven    = 1024 // statements of one source of the operator's

	storeTimeout = time.Second // a Store that hangs must not take the time of the fetch
)

var (
	// ErrUnavailable is wrapped by the error of a Source that did not answer.
	ErrUnavailable = errors.New("the source did not answer")

	errNothing  = errors.New("it has nothing about certificates of this issuer")
	errNotAsked = errors.New("not asked")
	errNonce    = errors.New("a response without our nonce")
	errKind     = errors.New("a delta where a complete list belongs, or the reverse")
)

// limit is the size of the largest statement of a kind.
func (k kind) limit() int64 {
	if k.isList() {
		return crlLimit
	}
	return ocspLimit
}

// update asks the source, verifies what it says and puts it into the slot. A
// forced update asks even if the slot is not due.
func (e *Engine) update(s *slot, force bool) (err error) {
	q := s.asker()
	// Whoever asks need not know the certificates of those who signed before.
	if h := s.held.Load(); h != nil {
		for _, st := range h.all() {
			if st.signer != nil && !slices.ContainsFunc(q.Candidates, st.signer.Equal) {
				q.Candidates = append(slices.Clip(q.Candidates), st.signer)
			}
		}
	}
	if s.held.Load() == nil {
		e.load(s, q)
	}
	if now := e.now(); !force && now.Before(s.dueAt(now, q.maxAge())) {
		return nil
	}
	defer func() {
		// A caller's http.Client may panic, and this is a goroutine of ours: it
		// would end the program.
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %.256q", fmt.Sprint(p))
		}
		now := e.now()
		s.done(err, now, q.maxAge())
		if err != nil && !errors.Is(err, errNothing) {
			e.warn("mtls: no new revocation evidence", "source", s.name(), "error", err.Error(),
				"held", s.current(now, q.maxAge()) != nil)
		}
		e.warnLapsing(s, now)
	}()
	if s.kind == kindOwn {
		return e.updateOwn(s, q, force)
	}
	// The URLs of one distribution point are alternatives for one list (RFC 5280
	// section 4.2.1.13): the first that gives one is enough. What cannot be used
	// is like no answer, and none may take the time of the others.
	limit := crlTimeout
	if s.kind == kindOCSP {
		limit = ocspTimeout
	}
	var failed []error
	for _, url := range s.urls {
		err := e.updateFrom(s, q, url, limit/time.Duration(len(s.urls)), force)
		if err == nil {
			return nil
		}
		failed = append(failed, err)
	}
	return join(failed)
}

// updateFrom asks one URL when the owner has its turn; the time counts from then
// on.
func (e *Engine) updateFrom(s *slot, q Query, url string, timeout time.Duration, force bool) error {
	at, operator, ok := q.asked(url)
	if !ok {
		return errNotAsked
	}
	s.owner.fetches <- struct{}{}
	defer func() { <-s.owner.fetches }()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if s.kind == kindOCSP {
		return e.askResponder(ctx, s, q, fetch.Request{URL: at, Operator: operator})
	}
	r := fetch.Request{
		URL: at, Operator: operator, Accept: "application/pkix-crl", Limit: crlLimit,
		// Memory has no room for many lists as large as they may be.
		Small: smallLimit, Large: s.owner.enterLarge,
	}
	s.mu.Lock()
	// What is forced is to be seen, not to be told that nothing has changed.
	if v := s.validator; !force && v.url == at && s.current(e.now(), q.maxAge()) != nil {
		r.ETag, r.LastModified = v.etag, v.modified
	}
	s.mu.Unlock()
	response, err := q.Fetch.Do(ctx, r)
	if err != nil {
		return err
	}
	if response.NotModified {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.confirmed = e.now()
		return nil
	}
	if err := e.accept(s, q, response.Body, ""); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.validator = validator{at, response.ETag, response.LastModified}
	return nil
}

// accept verifies bytes that were fetched and takes them.
func (e *Engine) accept(s *slot, q Query, data []byte, nonce string) error {
	st, own, lapsed := e.verify(s, q, data, nonce)
	if st == nil {
		return lapsed
	}
	if old := s.held.Load(); !own && old != nil && old.said[0].supersedes(st) {
		return errRollback
	}
	h := &held{said: []*statement{st}, taken: e.now(), mark: new(mark)}
	if lapsed == nil {
		e.waitForVouchers(h, q)
	}
	st = e.vouchedFor(st, q, e.now())
	h.said[0] = st
	// It would push out what counts.
	signer, err := e.vouched(st, q)
	if signer.Status == Revoked {
		return err
	}
	if err := s.take(h); err != nil {
		if lapsed != nil {
			return lapsed
		}
		return err
	}
	e.issue(s, h)
	s.owner.trim(s)
	e.record(s, q)
	if own && signer.Status == Good {
		e.save(s, data)
	}
	return lapsed
}

// record puts on record what a slot says against the certificate: its client may
// come with another certificate of its issuer next.
func (e *Engine) record(s *slot, q Query) {
	if q.Cert != nil {
		q.keep = true
		e.find(q, sources{slots: []*slot{s}}, nil)
	}
}

// verify makes a statement of bytes, wherever they came from, if the issuer
// signed it and it speaks for the certificate; own is false if a newer one that was
// there already stands for them. One whose only fault is that it
// has lapsed comes with an error that says so: it counts for nothing but a
// revocation, which time does not undo.
func (e *Engine) verify(s *slot, q Query, data []byte, nonce string) (st *statement, own bool, err error) {
	now := e.now()
	if s.kind.isList() {
		if st, err = e.verifyList(&q, data, now); err != nil {
			return nil, false, err
		}
		st = s.owner.issued.share(st)
		if st.list.Delta() != (s.kind == kindDelta) {
			return nil, false, errKind
		}
		// The list of another partition, newer than ours, would keep ours out
		// long after whoever substituted it is gone.
		_, err := st.list.Covers(q.Cert)
		if s.kind == kindDelta {
			err = st.list.Amends(q.Cert)
		}
		if err != nil {
			return nil, false, err
		}
		newest, err := e.timely(s, q, st, now)
		return newest, newest == st, err
	}
	// An Answer refers to the bytes, and those of a staple belong to crypto/tls.
	answer, err := ocsp.Verify(bytes.Clone(data), q.Cert, q.Issuer, now, clockSkew)
	if err != nil {
		return nil, false, err
	}
	if answer.Nonce != nonce {
		if nonce != "" {
			return nil, false, errNonce
		}
		answer.Nonce = "" // somebody else's
	}
	err = answer.CheckTime(now, clockSkew, noNextUpdateAge)
	if err != nil && !errors.Is(err, ocsp.ErrExpired) {
		return nil, false, err
	}
	return &statement{answer: answer}, true, err
}

// timely looks at the times of a verified list, and at what is known of its scope.
func (e *Engine) timely(s *slot, q Query, st *statement, now time.Time) (*statement, error) {
	err := st.list.CheckTime(now, clockSkew)
	if err != nil && !errors.Is(err, crl.ErrExpired) {
		return nil, err
	}
	about := q
	if s.kind == kindOwn {
		about.Cert = nil // a folder has lists for other certificates
	}
	newest, note, old := s.owner.floors.newest(st, about)
	// The chain, and so the owner, is the client's choice; the scope has the key of
	// whoever signed, so that no owner can raise the floor of another's CA.
	for _, o := range e.owners.Values() {
		if old != nil {
			break
		}
		if known, ok := o.floors.above(newest.list); ok {
			newest, note, old = known.instead(newest, about)
		}
	}
	if note != "" {
		e.warn("mtls: "+note, "source", s.name(), "issuer", fmt.Sprintf("%.256q", x509ext.NameText(q.Issuer.Subject)))
	}
	if old != nil {
		return nil, old
	}
	if newest != st {
		err = newest.list.CheckTime(now, clockSkew)
	}
	return newest, err
}

// askResponder asks as RFC 5019 section 5 says: by GET, which caches can answer,
// while the encoded request is short and has no nonce. A responder that cannot
// read that is asked by POST, and one that does not know the CertID by another
// hash.
func (e *Engine) askResponder(ctx context.Context, s *slot, q Query, r fetch.Request) error {
	err := e.askOnce(ctx, s, q, r, crypto.SHA1, q.Nonce)
	var status *fetch.StatusError
	if !q.Nonce && (errors.As(err, &status) || errors.Is(err, fetch.ErrHTML) || errors.Is(err, fetch.ErrEmpty) || errors.Is(err, ocsp.ErrMalformed)) {
		again := e.askOnce(ctx, s, q, r, crypto.SHA1, true)
		if again != nil && !unavailable(err) {
			again = join([]error{err, again}) // it did answer
		}
		err = again
	}
	var response *ocsp.ResponseError
	if errors.Is(err, ocsp.ErrNoAnswer) || errors.As(err, &response) && response.Code != 2 && response.Code != 3 {
		if e.askOnce(ctx, s, q, r, crypto.SHA256, true) == nil {
			return nil
		}
	}
	return err
}

func (e *Engine) askOnce(ctx context.Context, s *slot, q Query, r fetch.Request, hash crypto.Hash, post bool) error {
	o := ocsp.RequestOptions{Hash: hash}
	if q.Nonce {
		o.Nonce = make([]byte, 32) // RFC 9654 section 2.1
		rand.Read(o.Nonce)
	}
	request, err := ocsp.NewRequest(q.Cert, q.Issuer, o)
	if err != nil {
		return err
	}
	r.Accept, r.Limit = "application/ocsp-response", ocspLimit
	if encoded := base64.StdEncoding.EncodeToString(request); !post && len(encoded) <= 255 && !strings.Contains(r.URL, "?") {
		r.URL = strings.TrimSuffix(r.URL, "/") + "/" + neturl.QueryEscape(encoded)
	} else {
		r.ContentType, r.Body = "application/ocsp-request", request
	}
	response, err := q.Fetch.Do(ctx, r)
	if err != nil {
		return err
	}
	return e.accept(s, q, response.Body, string(o.Nonce))
}

// updateOwn asks a source of the operator's. What it gives is verified like
// anything else; what cannot be used does not keep the rest out.
func (e *Engine) updateOwn(s *slot, q Query, force bool) error {
	s.owner.fetches <- struct{}{}
	defer func() { <-s.owner.fetches }()
	ctx, cancel := context.WithTimeout(context.Background(), crlTimeout)
	defer cancel()
	var have string
	old := s.held.Load()
	if old != nil && !force {
		have = old.version
	}
	given, err := s.source.Get(ctx, q.Cert, q.Issuer, have)
	if err != nil {
		return err
	}
	now := e.now()
	if given.Unchanged {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.confirmed = now
		return nil
	}
	if len(given.CRLs)+len(given.OCSP) > maxGiven {
		return fmt.Errorf("more than %d statements", maxGiven)
	}
	h := &held{taken: now, version: given.Version, mark: new(mark)}
	var failed []error
	scopes := map[[32]byte]int{} // where in h.said: a folder may keep last year's lists
	for _, der := range given.CRLs {
		st, err := s.owner.interned(q, der, func() (*statement, error) {
			st, err := e.verifyList(&q, der, now)
			if err != nil {
				return nil, err
			}
			return s.owner.issued.share(st), nil
		})
		if err == nil {
			st, err = e.timely(s, q, st, now)
		}
		if err != nil {
			failed = append(failed, err)
		}
		if st == nil {
			continue
		}
		scope := st.list.ScopeID()
		if i, ok := scopes[scope]; !ok {
			scopes[scope] = len(h.said)
			h.said = append(h.said, st)
		} else if st.supersedes(h.said[i]) {
			h.said[i] = st
		}
	}
	// A response is about one certificate, and would vouch for all.
	if q.Cert != nil && !s.source.Shared {
		for _, der := range given.OCSP {
			st, _, err := e.verify(s, q, der, "")
			if st != nil {
				h.said = append(h.said, st)
			}
			if err != nil {
				failed = append(failed, err)
			}
		}
	}
	if given.Partial != nil {
		failed = append(failed, given.Partial)
		if old != nil {
			h.keepOthers(old)
			if slices.Equal(h.said, old.said) {
				return join(failed) // taking it again would void what rests on it
			}
		}
	}
	// What time or another asker may cure is looked at again, though the source be
	// unchanged: a list of the future, or one whose signer is not known yet.
	if slices.ContainsFunc(failed, func(err error) bool { return !errors.Is(err, crl.ErrExpired) && !errors.Is(err, errRollback) }) {
		h.version = ""
	}
	if len(h.said) > 0 {
		if err := s.take(h); err != nil {
			return err
		}
		e.issue(s, h)
		s.owner.trim(s)
		e.waitForVouchers(h, q)
		e.record(s, q)
	} else if len(failed) == 0 {
		return errNothing
	}
	return join(failed)
}

// interned verifies a list unless the same bytes were verified for the same
// issuer before and are still held.
func (o *owner) interned(q Query, der []byte, verify func() (*statement, error)) (*statement, error) {
	h := sha256.New()
	writePart(h, q.Issuer.RawTBSCertificate)
	for _, c := range q.Above {
		writePart(h, c.Raw)
	}
	h.Write(der)
	key := [32]byte(h.Sum(nil))
	if st := o.lists.get(key); st != nil {
		return st, nil
	}
	st, err := verify()
	if err == nil {
		o.lists.put(key, st)
	}
	return st, err
}
