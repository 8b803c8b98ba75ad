package mtls_test

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// nilSource is a source that is nil, in one way or another.
type nilSource struct{}

func (*nilSource) Evidence(context.Context, *x509.Certificate, *x509.Certificate) (mtls.Evidence, error) {
	return mtls.Evidence{}, nil
}

// TestRevocationProblems: each is found, and all at once, of a Config as of an
// authority.
func TestRevocationProblems(t *testing.T) {
	t.Parallel()
	off := func(change func(*mtls.Revocation)) mtls.Revocation {
		r := mtls.NoRevocation()
		change(r)
		return *r
	}
	unknown, missing := mtls.ReasonRevocationUnknown, mtls.ReasonRevocationSourceMissing
	mirror := func(from, to string) mtls.Revocation {
		return mtls.Revocation{Mirrors: []mtls.Mirror{{From: from, To: to}}}
	}
	urls := func(list ...string) mtls.Revocation {
		return mtls.Revocation{Sources: []mtls.RevocationSource{mtls.CRLURLs(list...)}}
	}
	for name, c := range map[string]struct {
		r    mtls.Revocation
		want []string
	}{
		"zero":                           {mtls.Revocation{}, nil},
		"sound":                          {mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{unknown, missing}, Grace: 72 * time.Hour, MaxAge: time.Hour, Mirrors: []mtls.Mirror{{From: "http://crl.example/", To: "https://127.0.0.1:8443/x/"}, {From: "ldap:///", To: ""}}}, nil},
		"no such mode":                   {mtls.Revocation{Mode: 2}, []string{".Mode|2"}},
		"a negative mode":                {mtls.Revocation{Mode: -1}, []string{".Mode|-1"}},
		"SoftFail without a list":        {mtls.Revocation{Mode: mtls.SoftFail}, []string{".SoftFail|"}},
		"an empty list":                  {mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{}}, []string{".SoftFail|"}},
		"a list without SoftFail":        {mtls.Revocation{SoftFail: []mtls.Reason{unknown}}, []string{".SoftFail|"}},
		"SoftFail for revoked":           {mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{unknown, mtls.ReasonRevoked}}, []string{".SoftFail[1]|revoked"}},
		"SoftFail for anything":          {mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{""}}, []string{".SoftFail[0]|"}},
		"Grace of more than 72 hours":    {mtls.Revocation{Grace: 72*time.Hour + 1}, []string{".Grace|72h0m0.000000001s"}},
		"negative Grace":                 {mtls.Revocation{Grace: -1}, []string{".Grace|-1ns"}},
		"negative MaxAge":                {mtls.Revocation{MaxAge: -1}, []string{".MaxAge|-1ns"}},
		"a mirror of a host's beginning": {mirror("http://crl.example", ""), []string{".Mirrors[0].From|http://crl.example"}},
		"a mirror of a scheme":           {mirror("http://", "http://m.example/"), []string{".Mirrors[0].From|http://"}},
		"a mirror of everything":         {mirror("", "http://m.example/"), []string{".Mirrors[0].From|"}},
		"a mirror of no host":            {mirror("http:///", "http://m.example/"), []string{".Mirrors[0].From|http:///"}},
		"a mirror of a path":             {mirror("/crl/", "http://m.example/"), []string{".Mirrors[0].From|/crl/"}},
		"a mirror at a host's beginning": {mirror("http://crl.example/", "http://m.example"), []string{".Mirrors[0].To|http://m.example"}},
		"a mirror of another scheme":     {mirror("http://crl.example/", "ldap://m.example/"), []string{".Mirrors[0].To|ldap://m.example/"}},
		"a mirror with a password":       {mirror("http://crl.example/", "http://a:b@m.example/"), []string{".Mirrors[0].To|http://a:b@m.example/"}},
		"a mirror with a fragment":       {mirror("http://crl.example/#", "http://m.example/#/"), []string{".Mirrors[0].To|http://m.example/#/"}},
		"a nil source":                   {mtls.Revocation{Sources: []mtls.RevocationSource{&nilSource{}, nil}}, []string{".Sources[1]|"}},
		"a source that holds nil":        {mtls.Revocation{Sources: []mtls.RevocationSource{(*nilSource)(nil), (*mtls.CRLFiles)(nil)}}, []string{".Sources[0]|", ".Sources[1]|"}},
		"files that were not loaded":     {mtls.Revocation{Sources: []mtls.RevocationSource{&mtls.CRLFiles{}}}, []string{".Sources[0]|"}},
		"CRLURLs of nothing":             {urls(), []string{".Sources[0]|"}},
		"CRLURLs of no URL":              {urls("ca.crl"), []string{".Sources[0]|ca.crl"}},
		"CRLURLs of another scheme":      {urls("http://crl.example/ca.crl", "ldap://crl.example/ca"), []string{".Sources[0]|ldap://crl.example/ca"}},
		"CRLURLs without a host":         {urls("http:///ca.crl"), []string{".Sources[0]|http:///ca.crl"}},
		"CRLURLs with a password":        {urls("http://a:b@crl.example/"), []string{".Sources[0]|http://a:b@crl.example/"}},
		"CRLURLs with a fragment":        {urls("http://crl.example/#a"), []string{".Sources[0]|http://crl.example/#a"}},
		"CRLURLs of an odd port":         {urls("http://127.0.0.1:8080/ca.crl", "https://crl.example"), nil},
		"networks that are none":         {mtls.Revocation{AllowNetworks: []netip.Prefix{{}}}, []string{".AllowNetworks|invalid Prefix"}},
		"NoRevocation and Mode":          {off(func(r *mtls.Revocation) { r.Mode, r.SoftFail = mtls.SoftFail, []mtls.Reason{unknown} }), []string{"|"}},
		"NoRevocation and LeafOnly":      {off(func(r *mtls.Revocation) { r.LeafOnly = true }), []string{"|"}},
		"NoRevocation and Sources":       {off(func(r *mtls.Revocation) { r.Sources = []mtls.RevocationSource{&nilSource{}} }), []string{"|"}},
		"NoRevocation and Mirrors":       {off(func(r *mtls.Revocation) { r.Mirrors = mirror("http://crl.example/", "").Mirrors }), []string{"|"}},
		"NoRevocation and Grace":         {off(func(r *mtls.Revocation) { r.Grace = 1 }), []string{"|"}},
		"NoRevocation and MaxAge":        {off(func(r *mtls.Revocation) { r.MaxAge = 1 }), []string{"|"}},
		"NoRevocation and AllowNetworks": {off(func(r *mtls.Revocation) { r.AllowNetworks = mtlstest.Loopback() }), []string{"|"}},
		"NoRevocation and Client":        {off(func(r *mtls.Revocation) { r.Client = http.DefaultClient }), []string{"|"}},
		"NoRevocation and OCSPNonce":     {off(func(r *mtls.Revocation) { r.OCSPNonce = true }), []string{"|"}},
		"NoRevocation and AllowVersion1": {off(func(r *mtls.Revocation) { r.AllowVersion1 = true }), []string{"|"}},
		"all at once": {mtls.Revocation{Mode: 7, SoftFail: []mtls.Reason{"x"}, Grace: 73 * time.Hour, MaxAge: -time.Hour,
			Mirrors: []mtls.Mirror{{From: "http://a.example", To: "ftp://b.example/"}}, Sources: []mtls.RevocationSource{nil}, AllowNetworks: []netip.Prefix{{}}},
			[]string{".AllowNetworks|invalid Prefix", ".Grace|73h0m0s", ".MaxAge|-1h0m0s", ".Mirrors[0].From|http://a.example", ".Mirrors[0].To|ftp://b.example/",
				".Mode|7", ".SoftFail[0]|x", ".Sources[0]|"}},
	} {
		ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
		for field, err := range map[string]error{
			"Config.Revocation": func() error {
				cfg := pcConfig(t, pcRoots(t, ca.Authority("a")), mtls.Rule{Name: "r", Domains: []string{"a.example"}})
				cfg.Revocation = &c.r
				_, err := mtls.New(cfg)
				return err
			}(),
			`Roots: authority "a": Revocation`: func() error {
				a := ca.Authority("a")
				a.Revocation = &c.r
				_, err := mtls.NewRoots(a)
				return err
			}(),
		} {
			if c.want == nil {
				require.NoError(t, err, name)
				continue
			}
			var want []string
			for _, w := range c.want {
				want = append(want, field+w)
			}
			require.Equal(t, want, pcFields(t, err), name)
		}
	}
}

// TestRevocationIsCopied: what the caller changes afterwards changes nothing.
func TestRevocationIsCopied(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	env.Revocation.Fail(mtlstest.Down)
	r := &mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{mtls.ReasonRevocationSourceMissing}, Mirrors: []mtls.Mirror{{From: "http://x.example/"}},
		AllowNetworks: mtlstest.Loopback(), Sources: []mtls.RevocationSource{lists{}}}
	cfg := rvConfig(env, mtls.Revocation{}, false)
	cfg.Revocation = r
	g := mtlstest.NewGuard(t, cfg)
	list := r.SoftFail
	list[0], r.AllowNetworks[0], r.Sources[0], r.Mirrors[0] = mtls.ReasonRevocationUnknown, netip.Prefix{}, nil, mtls.Mirror{From: "http://127.0.0.1"}
	r.LeafOnly, r.Grace = true, 72*time.Hour
	require.Equal(t, "revocation_unknown", fgReason(t, g, cert))
	env.Revocation.Fail(mtlstest.NoFault)
	env.Clock.Advance(31 * time.Second)
	require.Empty(t, fgReason(t, g, cert))
}
