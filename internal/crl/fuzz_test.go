package crl_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// FuzzParse: never panics; what it accepts crypto/x509 accepts too (but for
// version 1 and a Name that it cannot print) and agrees on the times, the
// number, the key identifier and every entry; Peek agrees.
func FuzzParse(f *testing.F) {
	ca := newCA(f, testpki.Options{})
	l := sound(ca)
	f.Add(l.sign(f, ca.Key))
	l.revoked = tlv(0x30, entry(7, reason(1)), entry(0xfe), rawEntry([]byte{0, 0xfe}), entry(7))
	l.extensions = append(l.extensions, idp(fullName(uri("http://a")), flag(1, 0xff)))
	f.Add(l.sign(f, ca.Key))
	l = sound(ca)
	l.extensions = append(l.extensions, idp(relative(attribute("CRL1")), onlyReasons(5, 0x60), flag(4, 0xff)))
	l.revoked = tlv(0x30, entry(7), entry(8, certIssuer(directory(tlv(0x30)))), entry(9, reason(6)))
	f.Add(l.sign(f, ca.Key))
	l.extensions = append(l.extensions, delta(4))
	l.revoked = tlv(0x30, entry(7, reason(8)))
	f.Add(l.sign(f, ca.Key))
	l.version, l.extensions, l.revoked = nil, nil, tlv(0x30, entry(7))
	f.Add(l.sign(f, ca.Key))
	l = sound(ca)
	l.extensions = append(l.extensions, freshest(point(fullName(uri("http://a")), pointReasons(6, 0x40), crlIssuer(directory(tlv(0x30))))))
	f.Add(l.sign(f, ca.Key))
	f.Fuzz(func(t *testing.T, der []byte) {
		p, peekErr := crl.Peek(der)
		l, err := crl.ParseUnverified(der)
		if err != nil {
			return
		}
		require.NoError(t, peekErr)
		require.Equal(t, crl.Preview{
			RawIssuer: l.RawIssuer, AuthorityKeyID: l.AuthorityKeyID, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate,
			Delta: l.Delta(), Indirect: l.Indirect(), Version1: l.Version1,
		}, p)
		_, err = l.Covers(&x509.Certificate{RawIssuer: l.RawIssuer})
		require.False(t, l.Delta() && err == nil)
		_, _, _ = l.Scope(), l.ScopeID(), l.Size()
		if l.Version1 {
			return
		}
		if _, err := x509.ParseRevocationList(der); err != nil {
			require.ErrorContains(t, err, "RDNSequence")
			return
		}
		if l.Number == nil {
			return
		}
		requireSameEntries(t, der, l)
	})
}

// scenario is a list and a certificate as RFC 5280 talks of them, with names as
// texts: "uri:x", "dns:x" or "dn:a/b", a distinguished name of two RDNs.
type scenario struct {
	listIssuer, certIssuer string
	isCA                   bool
	idp                    *scenarioIDP // nil: absent
	points                 []scenarioPoint
}

type scenarioIDP struct {
	hasName, userOnly, caOnly, indirect bool
	names                               []string
	relative                            string // "": fullName
	reasons                             int    // as in the BIT STRING; -1: absent
}

type scenarioPoint struct {
	hasName      bool
	names        []string
	relative     string
	reasons      int
	hasCRLIssuer bool
	crlIssuer    []string
}

// reasonsOfRFC5280 transcribes section 6.3.3 (b) and (d) for a complete list,
// word for word and one distribution point after the other, with the implied
// point at the end.
func (s scenario) reasonsOfRFC5280() (mask [9]bool) {
	comparable := func(names []string) (out []string) { // this package compares no others
		for _, n := range names {
			if n[:3] != "dns" {
				out = append(out, n)
			}
		}
		return out
	}
	share := func(a, b []string) bool {
		for _, x := range comparable(a) {
			for _, y := range comparable(b) {
				if x == y {
					return true
				}
			}
		}
		return false
	}
	process := func(p scenarioPoint, implied bool) {
		// (b)(1)
		if p.hasCRLIssuer {
			if !slices.Contains(p.crlIssuer, s.listIssuer) || s.idp == nil || !s.idp.indirect {
				return
			}
		} else if s.listIssuer != s.certIssuer {
			return
		}
		// (b)(2)
		if s.idp != nil {
			if s.idp.hasName {
				if implied {
					return // no certificate without a point is covered by a list for one
				}
				idpNames := s.idp.names
				if s.idp.relative != "" {
					idpNames = []string{s.listIssuer + "/" + s.idp.relative}
				}
				if p.hasName {
					pointNames := p.names
					if p.relative != "" {
						switch {
						case !p.hasCRLIssuer:
							pointNames = []string{s.certIssuer + "/" + p.relative}
						case len(p.crlIssuer) == 1:
							pointNames = []string{p.crlIssuer[0] + "/" + p.relative}
						default:
							pointNames = nil
						}
					}
					if !share(idpNames, pointNames) {
						return
					}
				} else if !share(idpNames, p.crlIssuer) {
					return
				}
			}
			if s.idp.userOnly && s.isCA {
				return
			}
			if s.idp.caOnly && !s.isCA {
				return
			}
		}
		// (d)
		for bit := 1; bit <= 8; bit++ {
			has := func(reasons int) bool { return reasons>>bit&1 == 1 }
			switch {
			case s.idp != nil && s.idp.reasons >= 0 && p.reasons >= 0:
				mask[bit] = mask[bit] || has(s.idp.reasons) && has(p.reasons)
			case s.idp != nil && s.idp.reasons >= 0:
				mask[bit] = mask[bit] || has(s.idp.reasons)
			case p.reasons >= 0:
				mask[bit] = mask[bit] || has(p.reasons)
			default:
				mask[bit] = true
			}
		}
	}
	for _, p := range s.points {
		process(p, false)
	}
	process(scenarioPoint{reasons: -1}, true)
	return mask
}

func encodeName(text string) []byte {
	switch {
	case text[:4] == "uri:":
		return uri(text[4:])
	case text[:4] == "dns:":
		return tlv(0x82, []byte(text[4:]))
	}
	return directory(encodeDN(text))
}

func encodeDN(text string) []byte {
	name := tlv(0x30)
	rest := text[len("dn:"):]
	for rest != "" {
		rdn := rest[:1]
		rest = rest[min(len(rest), 2):]
		name = below(name, attribute(rdn))
	}
	return name
}

func encodeNames(tag byte, texts []string) []byte {
	var names [][]byte
	for _, text := range texts {
		names = append(names, encodeName(text))
	}
	return tlv(tag, names...)
}

func encodePointName(names []string, rdn string) []byte {
	if rdn != "" {
		return relative(attribute(rdn))
	}
	return tlv(0xa0, encodeNames(0xa0, names))
}

func encodeReasons(tag byte, reasons int) []byte {
	bits := asn1.BitString{Bytes: make([]byte, 2), BitLength: 9}
	for n := range 9 {
		bits.Bytes[n/8] |= byte(reasons>>n&1) << (7 - n%8)
	}
	return tlv(tag, append([]byte{7}, bits.Bytes...))
}

func (s scenario) encode(t testing.TB, ca *testpki.CA) (*crl.List, *x509.Certificate) {
	l := sound(ca)
	l.issuer, l.extensions = encodeDN(s.listIssuer), nil
	if s.idp != nil {
		var fields [][]byte
		if s.idp.hasName {
			fields = append(fields, encodePointName(s.idp.names, s.idp.relative))
		}
		if s.idp.userOnly {
			fields = append(fields, flag(1, 0xff))
		}
		if s.idp.caOnly {
			fields = append(fields, flag(2, 0xff))
		}
		if s.idp.reasons >= 0 {
			fields = append(fields, encodeReasons(0x83, s.idp.reasons))
		}
		if s.idp.indirect {
			fields = append(fields, flag(4, 0xff))
		}
		l.extensions = [][]byte{idp(fields...)}
	}
	parsed, err := crl.ParseUnverified(l.unsigned())
	if s.idp != nil && (s.idp.userOnly && s.idp.caOnly || s.idp.reasons >= 0 && s.idp.reasons>>1 == 0) {
		require.ErrorIs(t, err, crl.ErrUnusable)
		return nil, nil
	}
	require.NoError(t, err)
	cert := &x509.Certificate{RawIssuer: encodeDN(s.certIssuer), IsCA: s.isCA, BasicConstraintsValid: s.isCA}
	var encoded [][]byte
	for _, p := range s.points {
		var fields [][]byte
		if p.hasName {
			fields = append(fields, encodePointName(p.names, p.relative))
		}
		if p.reasons >= 0 {
			fields = append(fields, encodeReasons(0x81, p.reasons))
		}
		if p.hasCRLIssuer {
			fields = append(fields, encodeNames(0xa2, p.crlIssuer))
		}
		encoded = append(encoded, point(fields...))
	}
	if encoded != nil {
		cert.Extensions = []pkix.Extension{points(encoded...)}
	}
	return parsed, cert
}

// choices draws a scenario from the fuzzer's octets.
type choices []byte

func (c *choices) n(below int) int {
	if len(*c) == 0 {
		return 0
	}
	b := (*c)[0]
	*c = (*c)[1:]
	return int(b) % below
}

func (c *choices) yes() bool { return c.n(2) == 1 }

func (c *choices) names(of []string, most int) (out []string) {
	for range 1 + c.n(most) {
		out = append(out, of[c.n(len(of))])
	}
	return out
}

func (c *choices) reasons() int {
	if c.yes() {
		return -1
	}
	return c.n(256)<<1 | c.n(2)
}

func (c *choices) relative() string { return [...]string{"", "", "x", "y"}[c.n(4)] }

var (
	scenarioIssuers = []string{"dn:a", "dn:b"}
	scenarioNames   = []string{"uri:1", "uri:2", "uri:3", "dns:1", "dn:a", "dn:a/x", "dn:b/x", "dn:b"}
)

func (c *choices) scenario() scenario {
	s := scenario{
		listIssuer: scenarioIssuers[c.n(2)], certIssuer: scenarioIssuers[c.n(2)], isCA: c.yes(),
	}
	if c.n(4) > 0 {
		s.idp = &scenarioIDP{hasName: c.yes(), userOnly: c.n(4) == 1, caOnly: c.n(4) == 1, indirect: c.yes(), reasons: c.reasons()}
		if s.idp.relative = c.relative(); s.idp.relative == "" {
			s.idp.names = c.names(scenarioNames, 3)
		}
	}
	for range c.n(4) {
		p := scenarioPoint{hasName: c.yes(), reasons: c.reasons()}
		if p.relative = c.relative(); p.relative == "" {
			p.names = c.names(scenarioNames, 3)
		}
		if p.hasCRLIssuer = !p.hasName || c.yes(); p.hasCRLIssuer {
			p.crlIssuer = c.names(scenarioIssuers, 3)
		}
		s.points = append(s.points, p)
	}
	return s
}

// checkScenario demands that Covers and the transcription agree on every reason,
// and returns whether the list covers something.
func checkScenario(t testing.TB, ca *testpki.CA, octets []byte) bool {
	c := choices(octets)
	s := c.scenario()
	l, cert := s.encode(t, ca)
	if l == nil {
		return false
	}
	var want x509ext.ReasonFlags
	for bit, in := range s.reasonsOfRFC5280() {
		if in {
			want |= 1 << bit
		}
	}
	got, err := l.Covers(cert)
	require.Equal(t, want, got, fmt.Sprintf("%+v idp %+v: %v", s, s.idp, err))
	require.Equal(t, want == 0, err != nil)
	return err == nil
}

// FuzzCovers: Covers agrees with a direct transcription of RFC 5280 section
// 6.3.3 (b) and (d), and never returns no reason without an error.
func FuzzCovers(f *testing.F) {
	ca := newCA(f, testpki.Options{})
	f.Add([]byte{})
	f.Add([]byte{0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, octets []byte) { checkScenario(t, ca, octets) })
}

// The same with many scenarios, without the fuzzer.
func TestCoversAgreesWithTheTextOfRFC5280(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	random := rand.New(rand.NewPCG(1, 2))
	covered, total := 0, 20_000
	if testing.Short() {
		total = 2000
	}
	for range total {
		octets := make([]byte, 64)
		for i := range octets {
			octets[i] = byte(random.Uint32())
		}
		if checkScenario(t, ca, octets) {
			covered++
		}
	}
	require.Greater(t, covered, total/20, "too few of the scenarios say anything")
	require.Less(t, covered, total*19/20)
}
