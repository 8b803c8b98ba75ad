package evidence

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	neturl "net/url"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// maxSources bounds what one certificate can make us ask: places, and URLs of
// them.
const maxSources = 16

// Source is a place of the operator's that has signed statements. It is
// immutable, and Get is called concurrently.
type Source struct {
	ID     string        // tells it from others
	Name   string        // for the operator
	Shared bool          // what it has, lists only, is for all certificates of an issuer; Get's cert is then any of them, or nil
	Every  time.Duration // between two looks at it; zero: as long as what it gave is current
	// Get returns what there is. have is the Version of what was taken before,
	// empty: nothing.
	Get func(ctx context.Context, cert, issuer *x509.Certificate, have string) (Statements, error)
}

// Statements are signed bytes without authority of their own.
type Statements struct {
	CRLs, OCSP [][]byte
	Version    string // names this state of the source; empty: it has none
	Unchanged  bool   // it is still the one that the caller has
	// Partial is why there may be more that could not be read this time; what was
	// taken of that before stays. Nil: this is all there is.
	Partial error
}

// Mirror says that URLs are asked elsewhere.
type Mirror struct {
	From string // how the URL begins
	To   string // what stands there instead; empty: such a URL is not asked
}

// asked is where a URL is asked, whether that is a place of the operator's
// choice, and false if it is not asked at all.
func (q *Query) asked(url string) (at string, operator, ok bool) {
	for _, m := range q.Mirrors {
		if rest, found := strings.CutPrefix(url, m.From); found {
			return m.To + rest, true, m.To != "" && !climbs(rest)
		}
	}
	return url, false, true
}

// climbs reports whether the rest of a URL, which is a certificate's, leads out of
// the place of the operator's that it is put behind, which may be private.
func climbs(rest string) bool {
	path, _, _ := strings.Cut(rest, "?")
	for range 2 { // some servers decode twice
		decoded, err := neturl.PathUnescape(path)
		if err != nil {
			return true
		}
		path = decoded
	}
	return slices.ContainsFunc(strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' }), func(s string) bool {
		return s == "." || s == ".."
	})
}

// sources are the places that may say something about a certificate.
type sources struct {
	slots    []*slot
	staple   *slot    // nil: not a client's certificate, or none has been made yet
	unusable []string // sources that are named and cannot be used
	askable  bool     // one can, whether or not its slot has been made yet
	peek     bool     // nothing may be stored
}

// finder looks for slots.
type finder struct {
	*sources
	q      Query
	owner  *owner
	issuer [32]byte
}

func (f *finder) add(k kind, id place) {
	f.askable = f.askable || k != kindDelta
	s := f.owner.slot(k, f.issuer, f.q, id, !f.peek)
	if s != nil && !slices.Contains(f.slots, s) {
		f.slots = append(f.slots, s)
	}
}

// sources finds the slots of a certificate, and makes those that are missing
// where create is set.
func (e *Engine) sources(q Query, create bool) sources {
	src := sources{peek: !create}
	f := &finder{&src, q, e.owner(q.Owner, create), q.path()}
	for _, s := range q.Sources {
		if q.Cert != nil || s.Shared {
			f.add(kindOwn, place{source: s})
		}
	}
	if q.Cert == nil {
		return src
	}
	if q.Leaf && !q.crlOnly {
		src.staple = f.owner.slot(kindStaple, f.issuer, q, place{}, create)
	}
	points, err := x509ext.DistributionPoints(q.Cert)
	if err != nil {
		src.unusable = append(src.unusable, "its CRL distribution points cannot be read")
	}
	freshest, err := x509ext.FreshestCRL(q.Cert)
	if err != nil {
		src.unusable = append(src.unusable, "its freshest CRL extension cannot be read")
	}
	urls := len(q.Cert.OCSPServer)
	for _, list := range [][]x509ext.DistributionPoint{points, freshest} {
		for _, p := range list {
			urls += len(p.URIs)
		}
	}
	if max(urls, len(points)+len(freshest)+len(q.Cert.OCSPServer)) > maxSources {
		src.unusable = append(src.unusable, fmt.Sprintf("it names more than %d sources", maxSources))
		return src
	}
	f.points(kindCRL, points)
	f.points(kindDelta, freshest)
	if !q.crlOnly {
		for _, url := range q.Cert.OCSPServer {
			if list := q.httpURLs([]string{url}); len(list) > 0 {
				f.add(kindOCSP, place{urls: list})
				continue
			}
			src.unusable = append(src.unusable, "an OCSP responder without an http URL that may be asked")
		}
	}
	f.deltas()
	return src
}

// points finds the slots of distribution points.
func (f *finder) points(k kind, list []x509ext.DistributionPoint) {
	for _, p := range list {
		urls := f.q.httpURLs(p.URIs)
		if len(urls) == 0 {
			f.unusable = append(f.unusable, "a CRL distribution point without an http URL that may be asked")
			continue
		}
		f.add(k, place{urls: urls, names: p.CRLIssuer})
	}
}

// deltas finds the slots of the deltas that the lists held themselves name (RFC
// 5280 section 5.2.6).
func (f *finder) deltas() {
	n := 0
	for _, s := range f.slots {
		h := s.held.Load()
		if h == nil {
			continue
		}
		for _, st := range h.all() {
			if st.list == nil || len(st.list.Freshest) == 0 || !covers(st, f.q) {
				continue
			}
			for _, p := range st.list.Freshest {
				if n++; n > maxSources {
					return
				}
				if urls := f.q.httpURLs(p.URIs); len(urls) > 0 && len(urls) <= maxSources {
					f.add(kindDelta, place{urls: urls})
				}
			}
		}
	}
}

// httpURLs returns those URLs that lead, perhaps by a mirror, to an HTTP server.
func (q *Query) httpURLs(uris []string) []string {
	var urls []string
	for _, u := range uris {
		at, _, ok := q.asked(u)
		scheme, _, _ := strings.Cut(at, "://")
		if ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) {
			urls = append(urls, u)
		}
	}
	return urls
}

var (
	oidDistributionPoints = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidFreshestCRL        = asn1.ObjectIdentifier{2, 5, 29, 46}
)

// Named reports whether the certificate names any source of evidence, usable or
// not.
func Named(c *x509.Certificate) bool {
	return len(c.OCSPServer) > 0 || x509ext.HasExtension(c, oidDistributionPoints) || x509ext.HasExtension(c, oidFreshestCRL)
}
