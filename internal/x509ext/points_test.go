package x509ext_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

func TestDistributionPoints(t *testing.T) {
	const all = x509ext.AllReasons
	attribute := tlv(0x30, []byte{6, 3, 0x55, 4, 3}, tlv(0x0c, []byte("CRL1")))
	for _, test := range []struct {
		name  string
		value []byte
		want  []x509ext.DistributionPoint
	}{
		{
			"every URI of every point is kept in order",
			pointList(point(fullName(uri("http://a/1"), uri("http://a/2"))), point(fullName(uri("http://b/1")))),
			[]x509ext.DistributionPoint{{HasName: true, URIs: []string{"http://a/1", "http://a/2"}, Reasons: all}, {HasName: true, URIs: []string{"http://b/1"}, Reasons: all}},
		},
		{
			"a URI after a name of another kind is kept",
			pointList(point(fullName(directoryName(someName), tlv(0x82, []byte("x.example")), uri("ldap://c")))),
			[]x509ext.DistributionPoint{{HasName: true, URIs: []string{"ldap://c"}, DirectoryNames: [][]byte{someName}, Reasons: all}},
		},
		{
			"reasons are reported",
			pointList(point(fullName(uri("http://a")), reasons())),
			[]x509ext.DistributionPoint{{HasName: true, URIs: []string{"http://a"}, Reasons: x509ext.KeyCompromise, HasReasons: true}},
		},
		{
			"cRLIssuer is reported",
			pointList(point(fullName(uri("http://a")), crlIssuer(someName))),
			[]x509ext.DistributionPoint{{HasName: true, URIs: []string{"http://a"}, Reasons: all, CRLIssuer: [][]byte{someName}, HasCRLIssuer: true}},
		},
		{
			"cRLIssuer alone",
			pointList(point(crlIssuer(someName))),
			[]x509ext.DistributionPoint{{Reasons: all, CRLIssuer: [][]byte{someName}, HasCRLIssuer: true}},
		},
		{
			"several names of cRLIssuer, and names of other kinds beside them",
			pointList(point(tlv(0xa2, uri("http://a"), directoryName(someName), directoryName(tlv(0x30))))),
			[]x509ext.DistributionPoint{{Reasons: all, CRLIssuer: [][]byte{someName, tlv(0x30)}, HasCRLIssuer: true}},
		},
		{
			"a cRLIssuer without directory names",
			pointList(point(tlv(0xa2, uri("http://a")))),
			[]x509ext.DistributionPoint{{Reasons: all, HasCRLIssuer: true}},
		},
		{
			"a relative name is reported",
			pointList(point(relativeName(attribute))),
			[]x509ext.DistributionPoint{{HasName: true, RelativeName: true, RelativeRDN: attribute, Reasons: all}},
		},
		{
			"a relative name of two attributes",
			pointList(point(relativeName(append(slices.Clone(attribute), attribute...)))),
			[]x509ext.DistributionPoint{{HasName: true, RelativeName: true, RelativeRDN: append(slices.Clone(attribute), attribute...), Reasons: all}},
		},
		{
			"reasons that are none",
			pointList(point(fullName(uri("http://a")), tlv(0x81, []byte{7, 0x80}))),
			[]x509ext.DistributionPoint{{HasName: true, URIs: []string{"http://a"}, HasReasons: true}},
		},
		{"malformed reasons", pointList(point(fullName(uri("http://a")), tlv(0x81, []byte{8, 0x80}))), nil},
		{"an empty cRLIssuer", pointList(point(fullName(uri("http://a")), tlv(0xa2))), nil},
		{"a cRLIssuer that is no GeneralNames", pointList(point(fullName(uri("http://a")), tlv(0xa2, someName))), nil},
		{"a relative name that is empty", pointList(point(relativeName(nil))), nil},
		{"a relative name that is a Name", pointList(point(relativeName(someName))), nil},
		{"a relative name with trailing data", pointList(point(relativeName(append(slices.Clone(attribute), 5, 0)))), nil},
		{"an attribute with trailing data", pointList(point(relativeName(tlv(0x30, []byte{6, 3, 0x55, 4, 3, 5, 0, 5, 0})))), nil},
		{"no point", pointList(), nil},
		{"an empty point", pointList(point()), nil},
		{"reasons alone", pointList(point(reasons())), nil},
		{"trailing data", append(pointList(point(fullName(uri("http://a")))), 0), nil},
		{"trailing data in a point", pointList(point(fullName(uri("http://a")), []byte{5, 0})), nil},
		{"trailing data in the name", pointList(point(tlv(0xa0, tlv(0xa0, uri("http://a")), []byte{5, 0}))), nil},
		{"fields out of order", pointList(point(reasons(), fullName(uri("http://a")))), nil},
		{"a name of no kind", pointList(point(tlv(0xa0, []byte{5, 0}))), nil},
		{"a full name without names", pointList(point(fullName())), nil},
		{"a tag that is no GeneralName", pointList(point(fullName([]byte{0x89, 0}))), nil},
		{"a URI that is not ASCII", pointList(point(fullName(uri("http://\xc3\xa4")))), nil},
		{"not a sequence", []byte{5, 0}, nil},
		{"nothing", []byte{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := x509ext.DistributionPoints(&x509.Certificate{Extensions: []pkix.Extension{extension(points, test.value)}})
			if test.want == nil {
				require.Error(t, err)
				require.Nil(t, got)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)

			got, err = x509ext.FreshestCRL(&x509.Certificate{Extensions: []pkix.Extension{extension(points, nil), extension(freshest, test.value)}})
			require.NoError(t, err)
			require.Equal(t, test.want, got, "the freshest CRL")
			for i := range test.value { // nothing is kept of it
				test.value[i] = 0xff
			}
			require.Equal(t, test.want, got)
		})
	}
	t.Run("no extension", func(t *testing.T) {
		got, err := x509ext.DistributionPoints(&x509.Certificate{Extensions: []pkix.Extension{extension(freshest, nil)}})
		require.NoError(t, err)
		require.Nil(t, got)
		got, err = x509ext.FreshestCRL(&x509.Certificate{Extensions: []pkix.Extension{extension(points, nil)}})
		require.NoError(t, err)
		require.Nil(t, got)
	})
}

// FuzzDistributionPoints: never panics; what it accepts crypto/x509 accepts
// too, but for relative names, and every URI that crypto/x509 reports is there
// in the same order.
func FuzzDistributionPoints(f *testing.F) {
	f.Add(pointList(point(fullName(uri("http://a/1"), uri("http://a/2")), reasons()), point(crlIssuer(someName))))
	f.Add(pointList(point(fullName(directoryName(someName), uri("http://b")))))
	f.Add(pointList(point(relativeName(someName[4:]))))
	f.Fuzz(func(t *testing.T, value []byte) {
		got, err := x509ext.DistributionPoints(&x509.Certificate{Extensions: []pkix.Extension{extension(points, value)}})
		if err != nil {
			return
		}
		c, err := certificate(t, extension(points, value))
		if err != nil {
			require.True(t, slices.ContainsFunc(got, func(p x509ext.DistributionPoint) bool { return p.RelativeName }), err)
			return
		}
		rest := c.CRLDistributionPoints
		for _, p := range got {
			for _, u := range p.URIs {
				if len(rest) > 0 && rest[0] == u {
					rest = rest[1:]
				}
			}
		}
		require.Empty(t, rest)
	})
}

func TestParseReasonFlags(t *testing.T) {
	for _, test := range []struct {
		name     string
		contents []byte
		want     x509ext.ReasonFlags
		ok       bool
	}{
		{"none", []byte{0}, 0, true},
		{"unused is no reason", []byte{7, 0x80}, 0, true},
		{"keyCompromise", []byte{6, 0x40}, x509ext.KeyCompromise, true},
		{"cACompromise", []byte{5, 0x20}, x509ext.CACompromise, true},
		{"affiliationChanged", []byte{4, 0x10}, x509ext.AffiliationChanged, true},
		{"superseded", []byte{3, 0x08}, x509ext.Superseded, true},
		{"cessationOfOperation", []byte{2, 0x04}, x509ext.CessationOfOperation, true},
		{"certificateHold", []byte{1, 0x02}, x509ext.CertificateHold, true},
		{"privilegeWithdrawn", []byte{0, 0x01}, x509ext.PrivilegeWithdrawn, true},
		{"aACompromise", []byte{7, 0, 0x80}, x509ext.AACompromise, true},
		{"all", []byte{7, 0x7f, 0x80}, x509ext.AllReasons, true},
		{"all and those to come", []byte{0, 0xff, 0xff, 0xff}, x509ext.AllReasons, true},
		{"only those to come", []byte{0, 0, 0x7f, 0xff}, 0, true},
		{"zero bits at the end", []byte{0, 0x40, 0}, x509ext.KeyCompromise, true},
		{"nothing", nil, 0, false},
		{"padding of nothing", []byte{1}, 0, false},
		{"padding of 8 bits", []byte{8, 0x40, 0}, 0, false},
		{"padding that is set", []byte{7, 0x40}, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := x509ext.ParseReasonFlags(test.contents)
			require.Equal(t, test.ok, ok)
			require.Equal(t, test.want, got)
		})
	}
	require.Equal(t, "keyCompromise, aACompromise", (x509ext.KeyCompromise | x509ext.AACompromise).String())
	require.Equal(t, "keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation, certificateHold, "+
		"privilegeWithdrawn, aACompromise", x509ext.AllReasons.String())
}

// FuzzParseReasonFlags: never panics; accepts what encoding/asn1 accepts as a
// BIT STRING, and agrees with it on every bit.
func FuzzParseReasonFlags(f *testing.F) {
	f.Add([]byte{6, 0x40})
	f.Add([]byte{7, 0x7f, 0x80})
	f.Fuzz(func(t *testing.T, contents []byte) {
		got, ok := x509ext.ParseReasonFlags(contents)
		if len(contents) > 100 {
			return
		}
		var want asn1.BitString
		rest, err := asn1.Unmarshal(tlv(3, contents), &want)
		require.Equal(t, err == nil && len(rest) == 0, ok)
		for n := 1; n <= 8; n++ {
			require.Equal(t, ok && want.At(n) == 1, got&(1<<n) != 0, n)
		}
		require.Zero(t, got&^x509ext.AllReasons)
	})
}

func TestFullName(t *testing.T) {
	attribute := tlv(0x30, []byte{6, 3, 0x55, 4, 3}, tlv(0x0c, []byte("CRL1")))
	p, err := x509ext.ParseDistributionPointName(tlv(0xa1, attribute))
	require.NoError(t, err)
	full, ok := p.FullName(someName)
	require.True(t, ok)
	require.Equal(t, tlv(0x30, someName[2:], tlv(0x31, attribute)), full)
	full, ok = p.FullName(tlv(0x30))
	require.True(t, ok)
	require.Equal(t, tlv(0x30, tlv(0x31, attribute)), full, "below the empty name")
	for name, issuer := range map[string][]byte{"nothing": nil, "no name": {5, 0}, "trailing data": append(tlv(0x30), 0)} {
		_, ok = p.FullName(issuer)
		require.False(t, ok, name)
	}
	p, err = x509ext.ParseDistributionPointName(tlv(0xa0, uri("http://a")))
	require.NoError(t, err)
	require.Equal(t, x509ext.AllReasons, p.Reasons)
	_, ok = p.FullName(someName)
	require.False(t, ok, "not a relative name")
}

// Names take many times the memory of their DER.
func TestPointsAreBounded(t *testing.T) {
	one := point(fullName(uri("")))
	got, err := x509ext.ParseDistributionPoints(pointList(bytes.Repeat(one, 1024)))
	require.NoError(t, err)
	require.Len(t, got, 1024)
	_, err = x509ext.ParseDistributionPoints(pointList(bytes.Repeat(one, 1025)))
	require.Error(t, err)
	_, err = x509ext.ParseDistributionPointName(tlv(0xa0, bytes.Repeat(uri(""), 1024)))
	require.NoError(t, err)
	_, err = x509ext.ParseDistributionPointName(tlv(0xa0, bytes.Repeat(uri(""), 1025)))
	require.Error(t, err)
}
