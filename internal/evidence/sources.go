package evidence

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// maxSources bounds what one certificate can make us ask: places, and URLs of
// them.
const maxSources = 16

// sources are the places that may say something about a certificate.
type sources struct {
	slots    []*slot
	staple   *slot    // nil: not a client's certificate, or none has been made yet
	unusable []string // sources that are named and cannot be used
	askable  bool     // one can, whether or not its slot has been made yet
	peek     bool     // nothing may be stored
}

// sources finds the slots of a certificate, and makes those that are missing
// where create is set.
func (e *Engine) sources(q Query, create bool) sources {
	src := sources{peek: !create}
	o, issuer := e.owner(q.Owner, create), sha256.Sum256(q.Issuer.RawTBSCertificate)
	if q.Leaf && !q.crlOnly {
		src.staple = o.slot(kindStaple, issuer, q, nil, create)
	}
	points, err := x509ext.DistributionPoints(q.Cert)
	if err != nil {
		src.unusable = append(src.unusable, "its CRL distribution points cannot be read")
	}
	urls := len(q.Cert.OCSPServer)
	for _, p := range points {
		urls += len(p.URIs)
	}
	if max(urls, len(points)+len(q.Cert.OCSPServer)) > maxSources {
		src.unusable = append(src.unusable, fmt.Sprintf("it names more than %d sources", maxSources))
		return src
	}
	for _, p := range points {
		urls := httpURLs(p.URIs)
		switch {
		case p.Reasons || p.CRLIssuer:
			src.unusable = append(src.unusable, "a CRL distribution point for some reasons or of another issuer")
		case len(urls) == 0:
			src.unusable = append(src.unusable, "a CRL distribution point without an http URL")
		default:
			src.askable = true
			if s := o.slot(kindCRL, issuer, q, urls, create); s != nil {
				src.slots = append(src.slots, s)
			}
		}
	}
	if q.crlOnly {
		return src
	}
	for _, url := range q.Cert.OCSPServer {
		if len(httpURLs([]string{url})) == 0 {
			src.unusable = append(src.unusable, "an OCSP responder without an http URL")
			continue
		}
		src.askable = true
		if s := o.slot(kindOCSP, issuer, q, []string{url}, create); s != nil {
			src.slots = append(src.slots, s)
		}
	}
	return src
}

func httpURLs(uris []string) []string {
	var urls []string
	for _, u := range uris {
		scheme, _, _ := strings.Cut(u, "://")
		if strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https") {
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
