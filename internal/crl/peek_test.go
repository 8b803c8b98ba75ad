package crl_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func TestPeek(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	want := crl.Preview{
		RawIssuer: ca.Certificate.RawSubject, AuthorityKeyID: ca.Certificate.SubjectKeyId,
		ThisUpdate: testpki.Epoch.Add(-time.Hour), NextUpdate: testpki.Epoch.Add(time.Hour),
	}
	for _, test := range []struct {
		name string
		edit func(*list)
		want func(*crl.Preview) // nil: refused
	}{
		{"sound", func(*list) {}, func(*crl.Preview) {}},
		{"delta", func(l *list) { l.extensions = append(l.extensions, delta(4)) }, func(p *crl.Preview) { p.Delta = true }},
		{"indirect", func(l *list) { l.extensions = append(l.extensions, idp(flag(4, 0xff))) }, func(p *crl.Preview) { p.Indirect = true }},
		{"version 1", func(l *list) { l.version, l.extensions = nil, nil }, func(p *crl.Preview) { p.Version1, p.AuthorityKeyID = true, nil }},
		{"entries are not read", func(l *list) { l.revoked = tlv(0x30, []byte{5, 0}) }, func(*crl.Preview) {}},
		{"trailing data", func(l *list) { l.after = []byte{0} }, nil},
		{"unknown critical extension", func(l *list) { l.extensions = append(l.extensions, ext(oidUnknown, true, nil)) }, nil},
		{"attribute certificates", func(l *list) { l.extensions = append(l.extensions, idp(flag(5, 0xff))) }, nil},
		{"no nextUpdate", func(l *list) { l.nextUpdate = nil }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := sound(ca)
			test.edit(&l)
			der := l.sign(t, newCA(t, testpki.Options{}).Key)
			got, err := crl.Peek(der)
			if test.want == nil {
				require.Error(t, err)
				require.Zero(t, got)
				return
			}
			require.NoError(t, err)
			for i := range der { // the preview keeps nothing of it
				der[i] = 0xff
			}
			expected := want
			test.want(&expected)
			require.Equal(t, expected, got)
		})
	}
}
