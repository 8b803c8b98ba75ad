package mtls

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/fetch"
)

// A RevocationMode says what happens to a certificate of which nobody says
// whether it is revoked. In every mode, revoked denies.
type RevocationMode int

// Modes.
const (
	// Require denies it.
	Require RevocationMode = iota
	// SoftFail admits it for the reasons that Revocation.SoftFail lists, and says
	// so in the decision and the log. Whoever can cut the connection to the
	// sources can then use a revoked certificate.
	SoftFail
)

// Revocation says how certificates are checked for revocation. The zero
// Revocation requires it: every certificate of the chain except the anchor must be
// known not to be revoked, from a CRL (RFC 5280 section 6.3) or an OCSP
// response (RFC 6960) at the places that the certificate itself names, from one of
// Sources, or from a response that the client staples (RFC 8446 section
// 4.4.2.1). Revoked denies, unknown denies.
type Revocation struct {
	// Mode is what happens if the status is unknown. Zero: Require.
	Mode RevocationMode
	// SoftFail lists what mode SoftFail admits: ReasonRevocationUnknown, where
	// nothing is known only because sources did not answer (the network failed,
	// an HTTP error, OCSP's tryLater or internalError), and
	// ReasonRevocationSourceMissing, where the certificate names none that can be
	// used: none at all, LDAP only, more than 16, or unreadable ones. An answer that came and cannot be used, such
	// as one that is stale, signed by somebody else or for another partition,
	// denies all the same.
	SoftFail []Reason
	// LeafOnly leaves the CA certificates of the chain unchecked.
	LeafOnly bool
	// Sources are asked besides those that certificates name: LoadCRLs for files,
	// CRLURLs for fixed places, or your own. A certificate that names no source,
	// and is not short-lived, can be admitted by them alone.
	Sources []RevocationSource
	// Mirrors are where to ask instead of where certificates say. The first whose
	// From fits a URL counts.
	Mirrors []Mirror
	// Grace is for how long evidence counts after its nextUpdate while no newer
	// can be had, at most 72 hours; such a Proof is marked Late. It is a time in
	// which a revocation does not reach us. Zero: not at all.
	Grace time.Duration
	// MaxAge is how old the evidence for a client's certificate may be, counted
	// from its thisUpdate. Zero: 10 days under a public authority, else until its
	// nextUpdate and at most 100 days.
	MaxAge time.Duration
	// AllowNetworks are networks that URLs from certificates may lead to although
	// they are private, loopback or link-local. None by default. URLs of Mirrors
	// and CRLURLs are the operator's own and need no leave.
	AllowNetworks []netip.Prefix
	// Client fetches the evidence. Nil: a client that never reaches private,
	// loopback or link-local addresses, except AllowNetworks. With a client of
	// one's own (for a proxy, say) that check is left to its transport; all other
	// bounds hold.
	Client *http.Client
	// OCSPNonce asks responders with a nonce and takes no response without it (RFC
	// 9654), neither from a Store nor from a client. Most public responders
	// ignore it (RFC 5019 section 3.1), and would then be of no use.
	OCSPNonce bool
	// AllowVersion1 takes CRLs of version 1, which have no extensions: they
	// cannot say that they are partial.
	AllowVersion1 bool

	off     bool
	fetch   *fetch.Client // of a clone
	sources []*evidence.Source
	mirrors []evidence.Mirror
}

// A RevocationSource is a place of one's own that has evidence. It gives signed
// bytes, never a verdict: they are verified as if they came from anywhere, so that
// a source can at most fail to help. It is called in the background, one call at
// a time for each certificate, and concurrently for different ones; ctx ends after
// a minute. What it gave is kept in memory until it is due again. An error means that
// it did not answer.
type RevocationSource interface {
	Evidence(ctx context.Context, cert, issuer *x509.Certificate) (Evidence, error)
}

// Evidence is what a RevocationSource has about a certificate: CRLs and OCSP
// responses in DER, in no order. The zero Evidence is none.
type Evidence struct {
	CRLs, OCSP [][]byte
}

// A Mirror says that URLs of certificates and CRLs are asked somewhere else.
type Mirror struct {
	// From is the beginning of URLs: of any scheme, up to the slash after the
	// host at least, so that one host cannot pass for another.
	From string
	// To is what stands there instead: an http or https URL up to the slash after
	// the host at least. It may be private. Empty: such URLs are never asked.
	To string
}

// NoRevocation returns the setting that checks nothing: a revoked certificate is
// admitted until it expires. It is for authorities whose certificates live for
// hours. An authority that asks for evidence wins over one that does not wherever
// a CA key is known to belong to both: from what the client sent, or because the
// CA's certificate is an anchor. So do not set it for a CA that is
// cross-certified with one that must be checked.
func NoRevocation() *Revocation { return &Revocation{off: true} }

const (
	publicMaxAge  = 10 * 24 * time.Hour
	privateMaxAge = 100 * 24 * time.Hour
	maxGrace      = 72 * time.Hour
)

func (r *Revocation) check(field string) error {
	var failed problems
	if r.MaxAge < 0 {
		failed.add(field+".MaxAge", r.MaxAge.String(), "negative")
	}
	if r.Grace < 0 || r.Grace > maxGrace {
		failed.add(field+".Grace", r.Grace.String(), "not between 0 and 72 hours")
	}
	switch {
	case r.Mode != Require && r.Mode != SoftFail:
		failed.add(field+".Mode", fmt.Sprint(int(r.Mode)), "not a RevocationMode")
	case r.Mode == SoftFail && len(r.SoftFail) == 0:
		failed.add(field+".SoftFail", "", "mode SoftFail without a reason: list those that are accepted")
	case r.Mode == Require && len(r.SoftFail) > 0:
		failed.add(field+".SoftFail", "", "reasons without mode SoftFail")
	}
	for i, reason := range r.SoftFail {
		if reason != ReasonRevocationUnknown && reason != ReasonRevocationSourceMissing {
			failed.add(fmt.Sprintf("%s.SoftFail[%d]", field, i), string(reason), "not ReasonRevocationUnknown or ReasonRevocationSourceMissing")
		}
	}
	for i, s := range r.Sources {
		checkSource(&failed, fmt.Sprintf("%s.Sources[%d]", field, i), s)
	}
	for i, m := range r.Mirrors {
		if !hostPrefix(m.From) {
			failed.add(fmt.Sprintf("%s.Mirrors[%d].From", field, i), m.From, "not the beginning of a URL up to the slash after its host")
		}
		if m.To != "" && (!hostPrefix(m.To) || !strings.HasPrefix(m.To, "http://") && !strings.HasPrefix(m.To, "https://")) {
			failed.add(fmt.Sprintf("%s.Mirrors[%d].To", field, i), m.To, "not the beginning of an http URL up to the slash after its host")
		}
	}
	for _, p := range r.AllowNetworks {
		if !p.IsValid() {
			failed.add(field+".AllowNetworks", p.String(), "not a prefix")
		}
	}
	if r.off && (r.Mode != Require || r.LeafOnly || len(r.Sources) > 0 || len(r.Mirrors) > 0 || r.Grace != 0 || r.MaxAge != 0 ||
		len(r.AllowNetworks) > 0 || r.Client != nil || r.OCSPNonce || r.AllowVersion1) {
		failed.add(field, "", "NoRevocation with settings")
	}
	return failed.err()
}

// hostPrefix reports whether a string is a URL of a host with at least the slash
// after it. ldap URLs may have an empty host, as those of Active Directory do.
func hostPrefix(s string) bool {
	scheme, rest, ok := strings.Cut(s, "://")
	host, _, slash := strings.Cut(rest, "/")
	u, err := url.Parse(s)
	return ok && slash && err == nil && u.User == nil && u.Fragment == "" && (host != "" || scheme == "ldap" || scheme == "ldaps")
}

// clone returns a copy of its own, ready to fetch.
func (r *Revocation) clone() *Revocation {
	c := *r
	c.SoftFail, c.Sources, c.Mirrors = slices.Clone(r.SoftFail), slices.Clone(r.Sources), slices.Clone(r.Mirrors)
	c.AllowNetworks = slices.Clone(r.AllowNetworks)
	c.fetch = fetch.New(fetch.Options{
		AllowNetworks: c.AllowNetworks,
		Client:        c.Client,
	})
	c.mirrors = nil
	for _, m := range c.Mirrors {
		c.mirrors = append(c.mirrors, evidence.Mirror(m))
	}
	c.sources = compileSources(c.Sources, c.fetch)
	return &c
}

// Store keeps evidence between processes: signed bytes, which are verified again
// when they are read, so that nothing in a Store can admit anybody. NewDirStore
// makes one of a directory; an autocert.DirCache is a Store, too. Any error of Get
// is a miss. It is used concurrently.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, data []byte) error
}
