package directory_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/mtlstest"
)

func TestSIDs(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"S-1-5-21-1111111111-2222222222-3333333333-1103", "S-1-5-32-545", "S-1-1-0", "S-1-281474976710655-4294967295"} {
		b, ok := directory.SIDBytes(s)
		require.True(t, ok, s)
		back, ok := directory.SIDText(b)
		require.True(t, ok)
		require.Equal(t, s, back)
	}
	for _, s := range []string{"", "S-1-5", "S-1-5-", "S-2-5-21", "s-1-5-21", "S-1-05-21", "S-1-5-021", "S-1-5-+21", "S-1-5-4294967296", "S-1-281474976710656-1",
		"S-1-5-21 ", "S-1-5-21\x00", "S-1-5-1-2-3-4-5-6-7-8-9-10-11-12-13-14-15-16", "S-1-5-*", "S-1--1", "S-1-5-0x10"} {
		_, ok := directory.SIDBytes(s)
		require.False(t, ok, s)
	}
	for _, b := range [][]byte{nil, {1}, {1, 0, 0, 0, 0, 0, 0, 5}, {2, 1, 0, 0, 0, 0, 0, 5, 1, 0, 0, 0}, {1, 2, 0, 0, 0, 0, 0, 5, 1, 0, 0, 0}, append([]byte{1, 16, 0, 0, 0, 0, 0, 5}, make([]byte, 64)...)} {
		_, ok := directory.SIDText(b)
		require.False(t, ok)
	}
}

func FuzzSIDs(f *testing.F) {
	f.Add("S-1-5-21-1-2-3-500", []byte{1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0})
	f.Fuzz(func(t *testing.T, s string, b []byte) {
		if b, ok := directory.SIDBytes(s); ok {
			if back, ok := directory.SIDText(b); !ok || back != s {
				t.Fatalf("%q has another spelling, %q", s, back)
			}
		}
		if s, ok := directory.SIDText(b); ok {
			if back, ok := directory.SIDBytes(s); !ok || !bytes.Equal(back, b) {
				t.Fatalf("%x is lost", b)
			}
		}
	})
}

// TestNamesAsWindowsWritesThem: in the order of the certificate, and so that no value
// can look like two.
func TestNamesAsWindowsWritesThem(t *testing.T) {
	t.Parallel()
	dc, cn, o, e := asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{2, 5, 4, 10}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
	for _, row := range []struct {
		name pkix.RDNSequence
		want string // empty: none
	}{
		{pkix.RDNSequence{{{Type: dc, Value: "lab"}}, {{Type: dc, Value: "hills"}}, {{Type: cn, Value: "Issuing CA"}}}, "DC=lab,DC=hills,CN=Issuing CA"},
		{pkix.RDNSequence{{{Type: o, Value: "Acme, Inc."}}, {{Type: cn, Value: `a"b`}}}, `O="Acme, Inc.",CN="a""b"`},
		{pkix.RDNSequence{{{Type: cn, Value: "x,CN=carol"}}}, `CN="x,CN=carol"`},
		{pkix.RDNSequence{{{Type: cn, Value: "x<S>CN=carol"}}}, `CN="x<S>CN=carol"`},
		{pkix.RDNSequence{{{Type: cn, Value: "a+b"}, {Type: o, Value: "c"}}}, `O=c + CN="a+b"`},
		{pkix.RDNSequence{{{Type: cn, Value: " a"}}, {{Type: cn, Value: "#a"}}, {{Type: cn, Value: ""}}, {{Type: cn, Value: "a;b"}}, {{Type: cn, Value: "a=b"}}}, `CN=" a",CN="#a",CN="",CN="a;b",CN="a=b"`},
		{pkix.RDNSequence{{{Type: e, Value: "a@b"}}, {{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "x"}}}, "E=a@b,OID.1.2.3=x"},
		{pkix.RDNSequence{{{Type: cn, Value: "Müller"}}}, "CN=Müller"},
		{pkix.RDNSequence{}, ""},
		{pkix.RDNSequence{{}}, ""},
		{pkix.RDNSequence{{{Type: cn, Value: "a"}}, {}}, ""},
		{pkix.RDNSequence{{{Type: cn, Value: "a\nb"}}}, ""},
		{pkix.RDNSequence{{{Type: cn, Value: "a\x00b"}}}, ""},
		{pkix.RDNSequence{{{Type: cn, Value: 5}}}, ""},
	} {
		raw, err := asn1.Marshal(row.name)
		require.NoError(t, err)
		got, ok := directory.X500(raw)
		require.Equal(t, row.want, got)
		require.Equal(t, row.want != "", ok)
	}
	_, ok := directory.X500([]byte("no DER"))
	require.False(t, ok)
	_, ok = directory.X500([]byte{0x30, 0, 0x30, 0})
	require.False(t, ok)
}

func TestSerialNumbersAreReversed(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "x"})
	for serial, want := range map[string][]string{"3d0000000000a3": {"a300000000003d"}, "80": {"80", "8000"}, "1200000000AC11000000002B": {"2b0000000011ac0000000012"}} {
		n, _ := new(big.Int).SetString(serial, 16)
		cert := issue(t, ca, names{edit: func(c *x509.Certificate) { c.SerialNumber = n }})
		_, values, err := directory.FilterOf(cert.Leaf(), ca.Certificate())
		require.NoError(t, err)
		for _, w := range want {
			require.Contains(t, values, "X509:<I>CN=x<SR>"+w)
		}
	}
}

// TestFraming: what is no LDAP message, or too much, is not passed on, and no more is
// read than one message.
func TestFraming(t *testing.T) {
	t.Parallel()
	good := found(1, entry{"cn=x", map[string][]string{"a": {strings.Repeat("x", 300)}}})
	r := bytes.NewReader(append(bytes.Clone(good), 0x30))
	got, err := directory.ReadMessage(r, 1000)
	require.NoError(t, err)
	require.Equal(t, good, got)
	require.Equal(t, 1, r.Len())
	_, err = directory.ReadMessage(bytes.NewReader(good), int64(len(good)))
	require.NoError(t, err)
	_, err = directory.ReadMessage(bytes.NewReader(good), int64(len(good))-1)
	require.ErrorContains(t, err, "4 MiB")
	for n, ok := range map[int]bool{131072: true, 131073: false} { // within the one around them
		b := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
		b.Data.Write(bytes.Repeat([]byte{4, 0}, n))
		_, err := directory.ReadMessage(bytes.NewReader(b.Bytes()), 4<<20)
		if ok {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "131072 elements")
		}
	}
	for name, b := range map[string][]byte{
		"empty": {}, "half a header": {0x30}, "half a length": {0x30, 0x82, 1}, "half a message": good[:len(good)-1], "a set": append([]byte{0x31}, good[1:]...),
		"indefinite": {0x30, 0x80, 0, 0}, "five octets of length": {0x30, 0x85, 0, 0, 0, 0, 1, 0}, "an element beyond its message": {0x30, 3, 4, 2, 0},
		"half an element": {0x30, 1, 4}, "a long tag": {0x30, 3, 0x1f, 1, 0}, "an indefinite element": {0x30, 4, 0x30, 0x80, 0, 0},
		"indefinite, with 128 octets":            append([]byte{0x30, 0x80, 0x04, 0x7e}, make([]byte, 126)...),
		"an indefinite element, with 128 octets": append([]byte{0x30, 0x81, 0x82, 0x30, 0x80, 0x04, 0x7e}, make([]byte, 126)...),
		"an inner length without end":            {0x30, 4, 4, 0x84, 0, 0}, "too deep": nested(17),
	} {
		_, err := directory.ReadMessage(bytes.NewReader(b), 1<<20)
		require.Error(t, err, name)
	}
	_, err = directory.ReadMessage(bytes.NewReader(nested(16)), 1<<20)
	require.NoError(t, err)
}

func FuzzFraming(f *testing.F) {
	f.Add(found(1, entry{"cn=x", map[string][]string{"a": {"b", "c"}}}))
	f.Add(result(2, 1, 49, "no"))
	f.Add([]byte{0x30, 0x0a, 0x02, 0x01, 0x03, 0x64, 0x05, 0x04, 0x84, 0x7f, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		m, err := directory.ReadMessage(r, 1<<16)
		if err != nil {
			return
		}
		if len(m) > 1<<16 || len(b)-r.Len() != len(m) || !bytes.Equal(m, b[:len(m)]) {
			t.Fatalf("%d bytes read, %d passed on", len(b)-r.Len(), len(m))
		}
		// The parser behind it finds every element within what it was given.
		if _, err := ber.DecodePacketErr(m); errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			t.Fatalf("%x reaches beyond its end", m)
		}
	})
}

// FuzzTemplates: no value makes another filter of a template.
func FuzzTemplates(f *testing.F) {
	for _, s := range []string{"x", "*", ")(objectClass=*", `\2a`, "\x00", "\xff", "ü", "", " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		filter, err := directory.FillTemplate("(&(objectClass=a)(cn={cn}))", value, "cn")
		if err != nil {
			t.Fatal(err)
		}
		p, err := ldap.CompileFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Children) != 2 || p.Children[1].Tag != ldap.FilterEqualityMatch || p.Children[1].Children[1].Value != value {
			t.Fatalf("%q has become %q", value, filter)
		}
	})
}

// FuzzCertificates: whatever a certificate says, it is refused or makes a filter of
// equality alone, with the very strings.
func FuzzCertificates(f *testing.F) {
	name, _ := asn1.Marshal(pkix.Name{CommonName: "x", Organization: []string{"*)("}}.ToRDNSequence())
	san := der(f, func(b *cryptobyte.Builder) { otherName(b, oidUPN, 12, "alice@ad.test") })
	f.Add(san, sidExtension(f, "S-1-5-21-1-2-3-500"), name, []byte{1, 2}, []byte{0x80})
	f.Add([]byte{0x30, 0}, []byte{0x30, 0}, []byte{0x30, 0}, []byte{}, []byte{})
	spki := mtlstest.NewCA(f, mtlstest.CAOptions{}).Certificate().RawSubjectPublicKeyInfo
	f.Fuzz(func(t *testing.T, san, sid, name, ski, serial []byte) {
		c := &x509.Certificate{RawSubject: name, RawIssuer: name, SubjectKeyId: ski, SerialNumber: new(big.Int).SetBytes(serial), RawSubjectPublicKeyInfo: spki,
			Extensions: []pkix.Extension{{Id: oidSAN, Value: san}, {Id: oidSIDs, Value: sid}}}
		filter, values, err := directory.FilterOf(c, c)
		if err != nil {
			if !errors.Is(err, mtls.ErrNoAccount) {
				t.Fatal(err)
			}
			return
		}
		p, err := ldap.CompileFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		or := p.Children[1]
		if len(or.Children) != len(values) {
			t.Fatalf("%d values, %q", len(values), filter)
		}
		for i, e := range or.Children {
			attribute, value := e.Children[0].Value.(string), e.Children[1].Value.(string)
			if e.Tag != ldap.FilterEqualityMatch || attribute != "objectSid" && value != values[i] {
				t.Fatalf("%q has become %q", values[i], value)
			}
		}
	})
}
