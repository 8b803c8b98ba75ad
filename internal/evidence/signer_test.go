package evidence_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

const signerURL = "http://signer-crl.test/list"

// deep is a chain of three: a root, a CA below it, and w.ca, the issuer.
type deep struct {
	*world
	root, middle *testpki.CA
}

func newDeep(t testing.TB) *deep {
	d := &deep{world: newWorld(t)}
	d.root = d.world.root(testpki.Options{})
	d.middle = d.sub(d.root, testpki.Options{})
	d.ca = d.sub(d.middle, testpki.Options{})
	d.only([]string{crlURL}, nil)
	return d
}

func (w *world) sub(by *testpki.CA, o testpki.Options) *testpki.CA {
	w.t.Helper()
	ca, err := by.NewIntermediate(o)
	require.NoError(w.t, err)
	return ca
}

func (d *deep) query(c *x509.Certificate) evidence.Query {
	q := d.world.query(c)
	q.Above = []*x509.Certificate{d.middle.Certificate, d.root.Certificate}
	return q
}

func (d *deep) leaf() evidence.Query {
	return d.query(d.issue(testpki.Options{Names: []string{"api.partner.example"}}).Certificate)
}

func (d *deep) name() string { return d.ca.Certificate.Subject.CommonName }

// signer certifies another key to sign lists in the name of the issuer. Its own
// list is at signer-crl.test.
func (w *world) signer(by *testpki.CA, name string, o testpki.Options) *testpki.CA {
	w.t.Helper()
	urls := by.CRLURLs
	by.CRLURLs = []string{signerURL}
	defer func() { by.CRLURLs = urls }()
	o.CommonName = name
	if o.KeyUsage == 0 {
		o.KeyUsage = x509.KeyUsageCRLSign
	}
	return w.sub(by, o)
}

// of is the list of another CA, of the present time and for a day.
func (w *world) of(ca *testpki.CA, changes ...change) []byte {
	w.t.Helper()
	own := w.ca
	defer func() { w.ca = own }()
	w.ca = ca
	return w.list(1, changes...)
}

func asSigner(l *testpki.Leaf) *testpki.CA {
	return &testpki.CA{Certificate: l.Certificate, Key: l.Key}
}

// crlSigner is what makes an end entity able to sign lists.
func crlSigner(c *x509.Certificate) {
	c.KeyUsage |= x509.KeyUsageCRLSign
	c.SubjectKeyId = []byte("key of " + c.Subject.CommonName)
}

// A CA may sign its lists with another key. It counts if the issuer, or who
// certified the issuer, has certified it, and if its certificate is good itself.
func TestListSignedByAnotherKeyOfTheIssuersName(t *testing.T) {
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: asn1.NullBytes}
	byIssuer := func(o testpki.Options) func(*deep) *testpki.CA {
		return func(d *deep) *testpki.CA { return d.signer(d.ca, d.name(), o) }
	}
	for _, c := range []struct {
		name    string
		signer  func(*deep) *testpki.CA
		mute    bool // the signer's own list is out of reach
		revokes bool // its list
		hidden  bool // nobody sends the signer's certificate
		want    evidence.Status
		detail  string
	}{
		{name: "certified by the issuer", signer: byIssuer(testpki.Options{}), want: evidence.Good},
		{name: "certified by the issuer's issuer", signer: func(d *deep) *testpki.CA { return d.signer(d.middle, d.name(), testpki.Options{}) }, want: evidence.Good},
		{name: "an end entity with cRLSign", signer: func(d *deep) *testpki.CA {
			d.only([]string{signerURL}, nil)
			return asSigner(d.issue(testpki.Options{CommonName: d.name(), Template: crlSigner}))
		}, want: evidence.Good},
		{name: "without a certificate that we know", signer: byIssuer(testpki.Options{}), hidden: true, detail: "signature does not verify"},
		{name: "certified by the anchor above them", signer: func(d *deep) *testpki.CA { return d.signer(d.root, d.name(), testpki.Options{}) }},
		{name: "certified by a sister of the issuer", signer: func(d *deep) *testpki.CA {
			return d.signer(d.sub(d.middle, testpki.Options{}), d.name(), testpki.Options{})
		}},
		{name: "certified by a sister of the issuer's issuer", signer: func(d *deep) *testpki.CA {
			return d.signer(d.sub(d.root, testpki.Options{}), d.name(), testpki.Options{})
		}},
		{name: "certified by a sister of the issuer's name", signer: func(d *deep) *testpki.CA {
			return d.signer(d.sub(d.sub(d.root, testpki.Options{}), testpki.Options{CommonName: d.name()}), d.name(), testpki.Options{})
		}},
		{name: "certified by a CA below the issuer", signer: func(d *deep) *testpki.CA {
			return d.signer(d.sub(d.ca, testpki.Options{}), d.name(), testpki.Options{})
		}},
		{name: "certified by another root", signer: func(d *deep) *testpki.CA {
			return d.signer(d.world.root(testpki.Options{CommonName: d.name()}), d.name(), testpki.Options{})
		}},
		{name: "its own anchor", signer: func(d *deep) *testpki.CA { return d.world.root(testpki.Options{CommonName: d.name()}) }},
		{name: "an end entity without cRLSign", signer: func(d *deep) *testpki.CA {
			return asSigner(d.issue(testpki.Options{CommonName: d.name(), Template: func(c *x509.Certificate) { c.SubjectKeyId = []byte("x") }}))
		}},
		{name: "a CA without cRLSign", signer: byIssuer(testpki.Options{KeyUsage: x509.KeyUsageCertSign})},
		{name: "expired", signer: byIssuer(testpki.Options{NotAfter: testpki.Epoch.Add(-time.Second)})},
		{name: "not yet valid", signer: byIssuer(testpki.Options{NotBefore: testpki.Epoch.Add(6 * time.Minute)})},
		{name: "a critical extension that nobody knows", signer: byIssuer(testpki.Options{Extra: extra(critical)})},
		{name: "another name", signer: func(d *deep) *testpki.CA { return d.signer(d.ca, "somebody else", testpki.Options{}) }},
		{name: "certificate revoked", signer: func(d *deep) *testpki.CA {
			s := d.signer(d.ca, d.name(), testpki.Options{})
			d.on("signer-crl.test", says(d.of(d.ca, entry(s.Certificate, keyCompromise))))
			return s
		}, detail: "whoever signed it is revoked"},
		{name: "certificate on hold", signer: func(d *deep) *testpki.CA {
			s := d.signer(d.middle, d.name(), testpki.Options{})
			d.on("signer-crl.test", says(d.of(d.middle, entry(s.Certificate, hold))))
			return s
		}, detail: "whoever signed it is revoked"},
		{name: "certificate revoked, and the list revokes", signer: func(d *deep) *testpki.CA {
			s := d.signer(d.ca, d.name(), testpki.Options{})
			d.on("signer-crl.test", says(d.of(d.ca, entry(s.Certificate, keyCompromise))))
			return s
		}, revokes: true, detail: "whoever signed it is revoked"},
		{name: "certified by another root, and the list revokes", signer: func(d *deep) *testpki.CA {
			return d.signer(d.world.root(testpki.Options{}), d.name(), testpki.Options{})
		}, revokes: true},
		{name: "expired, and the list revokes", signer: byIssuer(testpki.Options{NotAfter: testpki.Epoch.Add(-time.Second)}), revokes: true},
		{name: "not yet valid, and the list revokes", signer: byIssuer(testpki.Options{NotBefore: testpki.Epoch.Add(6 * time.Minute)}), revokes: true},
		{name: "good, and the list revokes", signer: byIssuer(testpki.Options{}), revokes: true, want: evidence.Revoked},
		{name: "certificate's list out of reach", signer: byIssuer(testpki.Options{}), mute: true, detail: "not known to be good"},
		{name: "certificate without a source", signer: byIssuer(testpki.Options{Template: func(c *x509.Certificate) { c.CRLDistributionPoints = nil }}), detail: "not known to be good"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeep(t)
			q := d.leaf()
			s := c.signer(d)
			if !c.hidden {
				q.Candidates = []*x509.Certificate{d.leaf().Cert, s.Certificate}
			}
			list := d.of(s)
			if c.revokes {
				list = d.of(s, entry(q.Cert, superseded))
			}
			d.on("crl.test", says(list))
			if d.hosts["signer-crl.test"] == nil && !c.mute {
				by := s.Parent
				if by == nil {
					by = d.ca
				}
				d.on("signer-crl.test", says(d.of(by)))
			}
			for range 2 {
				f := d.check(q)
				require.Equal(t, c.want, f.Status, f.Detail)
				require.Contains(t, f.Detail, c.detail)
				require.Equal(t, c.want, d.engine.Peek(q).Status)
			}
			require.False(t, d.check(q).Missing)
			// The same list from an own source, for a whole authority.
			again := newDeep(t)
			again.ca, again.middle, again.root, again.hosts = d.ca, d.middle, d.root, d.hosts
			again.fetch = d.fetch
			d.on("crl.test", fails)
			q.Sources = []*evidence.Source{gives("own", true, list)}
			require.Equal(t, c.want, again.check(q).Status)
		})
	}
}

// gives is a source of the operator's with these lists.
func gives(id string, shared bool, lists ...[]byte) *evidence.Source {
	return source(id, shared, func() (evidence.Statements, error) { return evidence.Statements{CRLs: lists}, nil })
}

// Whoever is asked about has no say in the answer, in whichever disguise.
func TestNobodyVouchesForItself(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*deep) (q evidence.Query, list []byte)
	}{
		{"the certificate itself", func(d *deep) (evidence.Query, []byte) {
			l := d.issue(testpki.Options{CommonName: d.name(), Template: crlSigner})
			q := d.query(l.Certificate)
			q.Candidates = []*x509.Certificate{q.Cert}
			return q, d.of(asSigner(l))
		}},
		{"its key under the issuer's name", func(d *deep) (evidence.Query, []byte) {
			l := d.issue(testpki.Options{})
			s := d.signer(d.ca, d.name(), testpki.Options{Key: l.Key})
			q := d.query(l.Certificate)
			q.Candidates = []*x509.Certificate{s.Certificate}
			return q, d.of(s)
		}},
		{"its key, certified by the issuer's issuer", func(d *deep) (evidence.Query, []byte) {
			l := d.issue(testpki.Options{})
			s := d.signer(d.middle, d.name(), testpki.Options{Key: l.Key})
			d.on("signer-crl.test", says(d.of(d.middle)))
			q := d.query(l.Certificate)
			q.Candidates = []*x509.Certificate{s.Certificate}
			return q, d.of(s)
		}},
		{"a CA with the issuer's name, by what it has certified", func(d *deep) (evidence.Query, []byte) {
			sub := d.sub(d.ca, testpki.Options{CommonName: d.name()})
			s := d.signer(sub, d.name(), testpki.Options{})
			q := d.query(sub.Certificate)
			q.Leaf, q.Candidates = false, []*x509.Certificate{sub.Certificate, s.Certificate}
			return q, d.of(s)
		}},
		{"a CA with the issuer's name, by its own key", func(d *deep) (evidence.Query, []byte) {
			sub := d.sub(d.ca, testpki.Options{CommonName: d.name()})
			q := d.query(sub.Certificate)
			q.Leaf, q.Candidates = false, []*x509.Certificate{sub.Certificate}
			return q, d.of(sub)
		}},
		{"a signer whose status comes from the list that it signs", func(d *deep) (evidence.Query, []byte) {
			s := d.signer(d.ca, d.name(), testpki.Options{})
			q := d.leaf()
			q.Candidates = []*x509.Certificate{s.Certificate}
			d.on("signer-crl.test", says(d.of(s)))
			return q, d.of(s)
		}},
		{"the same, by another certificate of its key", func(d *deep) (evidence.Query, []byte) {
			s := d.signer(d.ca, d.name(), testpki.Options{})
			other := d.signer(d.middle, d.name(), testpki.Options{Key: s.Key})
			q := d.leaf()
			q.Candidates = []*x509.Certificate{s.Certificate, other.Certificate}
			d.on("signer-crl.test", says(d.of(s)))
			return q, d.of(s)
		}},
		{"two signers that vouch for each other", func(d *deep) (evidence.Query, []byte) {
			s1 := d.signer(d.ca, d.name(), testpki.Options{})
			s2 := d.signer(d.ca, d.name(), testpki.Options{Template: func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://second.test/"} }})
			q := d.leaf()
			q.Candidates = []*x509.Certificate{s1.Certificate, s2.Certificate}
			d.on("signer-crl.test", says(d.of(s2)))
			d.on("second.test", says(d.of(s1)))
			return q, d.of(s1)
		}},
		{"a signer that the key in question vouches for", func(d *deep) (evidence.Query, []byte) {
			l := d.issue(testpki.Options{})
			mine := d.signer(d.ca, d.name(), testpki.Options{Key: l.Key, Template: func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://second.test/"} }})
			s := d.signer(d.ca, d.name(), testpki.Options{})
			q := d.query(l.Certificate)
			q.Candidates = []*x509.Certificate{s.Certificate, mine.Certificate}
			d.on("signer-crl.test", says(d.of(mine)))
			d.on("second.test", says(d.of(d.ca)))
			return q, d.of(s)
		}},
		{"four that vouch for one another in a row", func(d *deep) (evidence.Query, []byte) {
			q := d.leaf()
			next := d.ca
			for _, host := range []string{"one.test", "two.test", "three.test"} {
				s := d.signer(d.ca, d.name(), testpki.Options{Template: func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://" + host + "/"} }})
				d.on(host, says(d.of(next)))
				q.Candidates = append(q.Candidates, s.Certificate)
				next = s
			}
			return q, d.of(next)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeep(t)
			q, list := c.make(d)
			if d.hosts["signer-crl.test"] == nil {
				d.on("signer-crl.test", says(d.of(d.ca)))
			}
			d.on("crl.test", says(list))
			for range 2 {
				require.Equal(t, evidence.Unknown, d.check(q).Status)
			}
			// Nor by way of somebody else, whom the list may well vouch for.
			other := newDeep(t)
			other.ca, other.middle, other.root, other.hosts, other.fetch = d.ca, d.middle, d.root, d.hosts, d.fetch
			second := q
			second.Cert = d.issue(testpki.Options{Template: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = q.Cert.IsCA, true }}).Certificate
			other.check(second)
			require.Equal(t, evidence.Unknown, other.engine.Peek(q).Status)
			require.Equal(t, evidence.Unknown, other.check(q).Status)
			q.Sources = []*evidence.Source{gives("own", true, list)}
			second.Sources = q.Sources
			other.check(second)
			nobody := second
			nobody.Cert = nil
			other.engine.Prime(nobody)
			require.Equal(t, evidence.Unknown, other.check(q).Status)
		})
	}
}

// Nor does a responder answer for its own certificate, whether or not the CA
// says that nobody needs to look at that.
func TestResponderDoesNotVouchForItself(t *testing.T) {
	nocheck := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: asn1.NullBytes}
	for name, list := range map[string][]pkix.Extension{"with nocheck": {nocheck}, "without": nil} {
		for _, how := range []string{"fetched", "stapled"} {
			t.Run(name+", "+how, func(t *testing.T) {
				w := newWorld(t)
				w.only(nil, []string{ocspURL})
				l := w.issue(testpki.Options{CommonName: "client", Extra: list, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageOCSPSigning}})
				other := w.issue(testpki.Options{CommonName: "other", Key: l.Key, Extra: list, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}})
				for _, r := range []*testpki.Leaf{l, other} {
					q := w.query(l.Certificate)
					der := w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = r })
					if how == "stapled" {
						q.Staple = der
					} else {
						w.on("ocsp.test", says(der))
					}
					require.Equal(t, evidence.Unknown, w.check(q).Status)
					require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
				}
			})
		}
	}
}

// A CRL signer that its CA has told to answer for itself does (RFC 5280 section
// 6.3.3, as PKITS 4.14.30 has it), and for nobody's convenience else.
func TestCRLSignerThatAnswersForItself(t *testing.T) {
	for _, c := range []struct {
		name   string
		issuer func(self []byte) []byte // cRLIssuer
		ca     bool
		want   evidence.Status
	}{
		{"its CA says so", func(self []byte) []byte { return self }, false, evidence.Good},
		{"its CA names somebody else", func([]byte) []byte { return subject("somebody else") }, false, evidence.Unknown},
		{"its CA names nobody", func([]byte) []byte { return nil }, false, evidence.Unknown},
		{"a CA", func(self []byte) []byte { return self }, true, evidence.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeep(t)
			d.only(nil, nil)
			p := at(crlURL)
			p.CRLIssuer = c.issuer(subject("CRL signer"))
			l := d.issue(testpki.Options{CommonName: "CRL signer", Extra: extra(d.must(testpki.CRLDistributionPoints(p))),
				Template: func(t *x509.Certificate) { crlSigner(t); t.IsCA = c.ca }})
			q := d.query(l.Certificate)
			q.Candidates = []*x509.Certificate{q.Cert}
			indirect := scope(testpki.Scope{Indirect: true})
			d.on("crl.test", says(d.of(asSigner(l), indirect)))
			require.Equal(t, c.want, d.check(q).Status)
			d.advance(time.Minute)
			d.on("crl.test", says(d.of(asSigner(l), indirect, entry(q.Cert, keyCompromise, d.must(testpki.CertificateIssuer(q.Cert.RawIssuer))))))
			_ = d.engine.Refresh(t.Context())
			require.NotEqual(t, evidence.Good, d.check(q).Status)
		})
	}
}

func subject(name string) []byte {
	der, _ := asn1.Marshal(pkix.Name{CommonName: name}.ToRDNSequence())
	return der
}
