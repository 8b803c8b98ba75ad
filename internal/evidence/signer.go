package evidence

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// maxVouchers bounds how many certificates stand behind one statement: a list
// signed by a key whose certificate is good by a list that is signed by a third.
const maxVouchers = 2

// maxAsks bounds how many of them are looked at for one query: a place may have four
// lists by as many signers, each with sixteen places of its own.
const maxAsks = 32

var (
	errVersion1 = errors.New("CRL version 1, which cannot say what it covers; it must be allowed by name")
	errNoSigner = errors.New("no certificate of the list's issuer is known under a CA of the chain")
	errInDoubt  = errors.New("it is signed by the key whose certificate is in question")
)

// verifyList verifies a list for the certificates of an issuer. A CA may sign its
// lists with another key than its certificates (RFC 5280 section 6.3.3 (f)), after
// a change of keys for example, or leave them to a CRL issuer that the
// certificate names.
func (e *Engine) verifyList(q *Query, der []byte, now time.Time) (*statement, error) {
	p, err := crl.Peek(der)
	if err != nil {
		return nil, err
	}
	if p.Version1 && !q.AllowVersion1 {
		return nil, errVersion1
	}
	var failed error
	if bytes.Equal(p.RawIssuer, q.Issuer.RawSubject) {
		list, err := crl.ParseAndVerify(der, q.Issuer)
		if err == nil {
			return &statement{list: list}, nil
		}
		failed = err
	}
	var best *statement
	for c, by := range q.signers(p, now) {
		var list *crl.List
		switch {
		case best == nil:
			var err error
			if list, err = crl.ParseAndVerify(der, c); err != nil {
				if failed == nil {
					failed = err
				}
				continue
			}
		case c.KeyUsage&x509.KeyUsageCRLSign != 0 && best.list.SignedBy(c):
			list = best.list
		default:
			continue
		}
		st := &statement{list: list, signer: c, by: by}
		f, _ := e.vouched(st, *q)
		if f.Status == Good {
			return st, nil
		}
		// Whoever sends another certificate of the key, a former one that was revoked
		// for example, must not keep the list from all.
		if best == nil || f.Status != Revoked {
			best = st
		}
	}
	if best != nil {
		return best, nil
	}
	if failed == nil {
		failed = fmt.Errorf("%w: issued by another name: %w", crl.ErrIssuer, errNoSigner)
	}
	return nil, failed
}

// signers yields the certificates that may sign a list in the issuer's place,
// with those that certified them. They are certified by a CA of the chain itself,
// so that neither the certificate asked about nor anything below it can vouch for
// it. One of the issuer's own name is certified by the issuer or by whoever
// certified the issuer: any other CA of the chain could invent it.
func (q *Query) signers(p crl.Preview, now time.Time) iter.Seq2[*x509.Certificate, *x509.Certificate] {
	above, certifiers := q.above(), q.certifiers(p.RawIssuer)
	return func(yield func(c, by *x509.Certificate) bool) {
		for _, c := range slices.Concat(above[1:], q.Candidates) {
			switch {
			case !bytes.Equal(c.RawSubject, p.RawIssuer),
				len(p.AuthorityKeyID) > 0 && len(c.SubjectKeyId) > 0 && !bytes.Equal(p.AuthorityKeyID, c.SubjectKeyId),
				q.Cert != nil && sameKey(c, q.Cert) && !speaksForItself(q.Cert),
				len(c.UnhandledCriticalExtensions) > 0,
				now.Add(clockSkew).Before(c.NotBefore), now.After(c.NotAfter):
				continue
			}
			by := certifier(c, certifiers)
			if by == nil && !q.inChain(c) {
				continue
			}
			if !yield(c, by) {
				return
			}
		}
	}
}

// alternatives are a list that another key than the issuer's has signed, by each
// certificate of that key that the query knows: that by which it was verified may be
// a former one, which somebody else has sent and whose status nobody can find out.
func (q *Query) alternatives(st *statement, now time.Time) []*statement {
	list := []*statement{st}
	if st.signer == nil {
		return list
	}
	of := *q
	of.Candidates = nil // before signatures are looked at
	for _, c := range q.Candidates {
		if !c.Equal(st.signer) && c.KeyUsage&x509.KeyUsageCRLSign != 0 && st.list.SignedBy(c) {
			of.Candidates = append(of.Candidates, c)
		}
	}
	if of.Candidates == nil {
		return list
	}
	for c, by := range of.signers(crl.Preview{RawIssuer: st.list.RawIssuer, AuthorityKeyID: st.list.AuthorityKeyID}, now) {
		if !c.Equal(st.signer) && st.list.SignedBy(c) {
			list = append(list, &statement{list: st.list, signer: c, by: by})
		}
	}
	return list
}

// vouchedFor is the one of the alternatives whose signer is known to be good, or else
// the statement itself unless that is by one who is revoked.
func (e *Engine) vouchedFor(st *statement, q Query, now time.Time) *statement {
	if st.signer == nil {
		return st
	}
	if f, _ := e.vouched(st, q); f.Status == Good {
		return st
	}
	best := st
	for i, alternative := range q.alternatives(st, now) {
		f, _ := e.vouched(alternative, q)
		switch {
		case f.Status == Good:
			return alternative
		case i == 0 && f.Status == Revoked:
			best = nil
		case best == nil && f.Status != Revoked:
			best = alternative
		}
	}
	if best == nil {
		return st
	}
	return best
}

// certifiers are the CAs of the chain that may certify who signs lists of a name.
func (q *Query) certifiers(rawIssuer []byte) []*x509.Certificate {
	above := q.above()
	if bytes.Equal(rawIssuer, q.Issuer.RawSubject) {
		return above[:min(len(above), 2)]
	}
	return above
}

func certifier(c *x509.Certificate, list []*x509.Certificate) *x509.Certificate {
	for _, by := range list {
		if bytes.Equal(c.RawIssuer, by.RawSubject) && c.CheckSignatureFrom(by) == nil {
			return by
		}
	}
	return nil
}

// speaksForItself reports whether a certificate names its own subject as the CRL
// issuer that says whether it is revoked. It is what its CA has signed: there is
// nobody else to ask.
func speaksForItself(c *x509.Certificate) bool {
	points, err := x509ext.DistributionPoints(c)
	return err == nil && !c.IsCA && slices.ContainsFunc(points, func(p x509ext.DistributionPoint) bool {
		return slices.ContainsFunc(p.CRLIssuer, func(name []byte) bool { return bytes.Equal(name, c.RawSubject) })
	})
}

// above is the chain above the certificate.
func (q *Query) above() []*x509.Certificate {
	return append([]*x509.Certificate{q.Issuer}, q.Above...)
}

func (q *Query) inChain(c *x509.Certificate) bool {
	return slices.ContainsFunc(q.above(), c.Equal)
}

// standing notes whether another key than the issuer's has signed a list, and whether
// somebody else than the issuer has certified that.
func (q *Query) standing(v *view, st *statement) {
	v.delegated = !st.list.SignedBy(q.Issuer)
	if !v.delegated {
		return
	}
	by := st.by
	if by == nil {
		by = st.signer // which is in the chain
	}
	v.foreign = !sameKey(by, q.Issuer)
	v.by, v.namesake = x509ext.KeyHash(by), bytes.Equal(st.list.RawIssuer, q.Issuer.RawSubject)
}

// voucher is the query for the certificate of whoever signed a statement in the
// issuer's place, and false where it cannot be asked. Only lists are asked, so
// that responders cannot vouch for each other, and none that is signed by a key
// whose status is in question.
func (q *Query) voucher(st *statement) (Query, bool, error) {
	if st.answer != nil && st.answer.Responder != nil && q.inDoubt(st.answer.Responder) {
		return Query{}, false, errInDoubt // whatever id-pkix-ocsp-nocheck says
	}
	cert, issuer := st.needsCheck(q)
	if cert == nil {
		return Query{}, false, nil
	}
	above := q.above()
	// The certifier of one that stood in another query's chain need not be known.
	i := slices.IndexFunc(above, func(c *x509.Certificate) bool {
		return issuer != nil && bytes.Equal(c.RawSubject, issuer.RawSubject) && sameKey(c, issuer)
	})
	switch {
	case i < 0:
		return Query{}, false, errors.New("whoever signed it is certified outside the chain")
	case q.vouchers >= maxVouchers:
		return Query{}, false, errors.New("too many certificates stand behind it")
	case q.inDoubt(cert):
		return Query{}, false, errInDoubt
	case q.asks != nil && *q.asks <= 0:
		return Query{}, false, errors.New("too many certificates stand behind the lists")
	}
	if q.asks != nil {
		*q.asks--
	}
	v := *q
	v.Cert, v.Issuer, v.Above = cert, above[i], above[i+1:]
	v.Leaf, v.MaxAge, v.Staple = false, 0, nil
	v.crlOnly, v.vouchers, v.doubts = true, q.vouchers+1, q.doubted()
	return v, true, nil
}

// doubted are the certificates whose status is in question.
func (q *Query) doubted() []*x509.Certificate {
	if q.Cert == nil {
		return q.doubts
	}
	return append(slices.Clip(q.doubts), q.Cert)
}

// inDoubt reports whether a certificate has a key whose status is in question.
func (q *Query) inDoubt(c *x509.Certificate) bool {
	return slices.ContainsFunc(q.doubted(), func(d *x509.Certificate) bool { return sameKey(c, d) })
}

// vouched is what is known of the certificate of whoever signed a statement (RFC
// 6960 section 4.2.2.2.1 for delegated responders without id-pkix-ocsp-nocheck, RFC
// 5280 section 6.3.3 (f) for lists): good until Expires (zero: nothing has to be
// known), or else an error that says why not. Fetches are those of startVouchers.
func (e *Engine) vouched(st *statement, q Query) (Finding, error) {
	// Once for each certificate, however many lists its key has signed: otherwise
	// those of a revoked one would use up what may be asked, and count.
	cert, _ := st.needsCheck(&q)
	if st.list == nil || cert == nil || q.vouches == nil {
		return e.vouch(st, q)
	}
	known, ok := q.vouches[string(cert.Raw)]
	if !ok {
		known.Finding, known.err = e.vouch(st, q)
		q.vouches[string(cert.Raw)] = known
	}
	return known.Finding, known.err
}

func (e *Engine) vouch(st *statement, q Query) (Finding, error) {
	v, ok, err := q.voucher(st)
	if err != nil {
		return Finding{}, err
	}
	if !ok {
		return Finding{Status: Good}, nil
	}
	f := e.Peek(v)
	switch f.Status {
	case Good:
		if f.Expires.IsZero() {
			f.Expires = v.Cert.NotAfter
		}
		return f, nil
	case Revoked:
		return f, errors.New("the certificate of whoever signed it is revoked")
	}
	return f, fmt.Errorf("the certificate of whoever signed it is not known to be good: %s", f.Detail)
}
