package dnsclient_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// rawRecord is a record of p.example. with the given data and a TTL of a minute,
// byte for byte, to stand behind the question of rawReply.
func rawRecord(rtype uint16, data []byte) []byte {
	b := append([]byte{0xc0, 12}, byte(rtype>>8), byte(rtype), 0, 1, 0, 0, 0, 60)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// rawReply is a reply for p.example. of a recursive server, without the id.
func rawReply(typ dnsclient.Type, answers ...[]byte) []byte {
	b := []byte{0x81, 0x80, 0, 1, byte(len(answers) >> 8), byte(len(answers)), 0, 0, 0, 0}
	b = append(b, "\x01p\x07example\x00"...)
	b = append(b, byte(typ>>8), byte(typ), 0, 1)
	return append(b, bytes.Join(answers, nil)...)
}

// replies is a client whose server always gives the reply.
func replies(reply []byte) *dnsclient.Client {
	return dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{at("192.0.2.53:53")}, Attempts: 1,
		Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
			return &wire{reply: reply, tcp: network == "tcp"}, nil
		}})
}

// repliesOverTCP is replies for a server that has no UDP datagram large enough, and
// whose malformed replies are not taken for forged ones.
func repliesOverTCP(reply []byte) *dnsclient.Client {
	truncated := slices.Clone(reply[:10+15])
	truncated[0] |= 0x02
	clear(truncated[4:10])
	return dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{at("192.0.2.53:53")}, Attempts: 1,
		Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
			if network == "tcp" {
				return &wire{reply: reply, tcp: true}, nil
			}
			return &wire{reply: truncated}, nil
		}})
}

// characterStrings puts their lengths before the strings.
func characterStrings(texts ...string) []byte {
	var b []byte
	for _, s := range texts {
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}

func labels(names ...string) []byte { return append(characterStrings(names...), 0) }

func TestTexts(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	long := strings.Repeat("x", 255)
	many := func(n int) (records [][]byte, texts []string) {
		for i := range n {
			texts = append(texts, fmt.Sprintf("%03d", i))
			records = append(records, rawRecord(dns.TypeTXT, characterStrings(texts[i])))
		}
		return records, texts
	}
	most, mostTexts := many(64)
	tooMany, _ := many(65)
	for _, tt := range []struct {
		name    string
		records [][]byte // data of TXT records
		whole   [][]byte // or records
		want    []string
		failed  string
	}{
		{name: "one string", records: [][]byte{characterStrings("v=mtls1 ip4:198.51.100.0/28")}, want: []string{"v=mtls1 ip4:198.51.100.0/28"}},
		{name: "strings are joined without a separator", records: [][]byte{characterStrings("v=mtls1 ip4:198.51", ".100.0/28", "", " a:e.example")},
			want: []string{"v=mtls1 ip4:198.51.100.0/28 a:e.example"}},
		{name: "records are sorted and distinct", records: [][]byte{characterStrings("b"), characterStrings("ab", "c"), characterStrings("b"), characterStrings("a", "bc")},
			want: []string{"abc", "b"}},
		{name: "every byte is kept", records: [][]byte{characterStrings(string(every[:128]), string(every[128:]))}, want: []string{string(every)}},
		{name: "what looks like an escape is none", records: [][]byte{characterStrings(`\000 \" \\ \`, `032 "`)}, want: []string{`\000 \" \\ \032 "`}},
		{name: "letter case is kept", records: [][]byte{characterStrings("V=MTLS1")}, want: []string{"V=MTLS1"}},
		{name: "a text of 64 strings", records: [][]byte{bytes.Repeat(characterStrings(long), 64)}, want: []string{strings.Repeat(long, 64)}},
		{name: "an empty text is a text", records: [][]byte{characterStrings("")}, want: []string{""}},
		{name: "64 records are an answer", whole: most, want: mostTexts},
		{name: "65 records are an error", whole: tooMany, failed: "more than 64 records"},
		{name: "a string that is longer than its record is an error", records: [][]byte{{5, 'a', 'b'}}, failed: "malformed reply"},
		{name: "a string that is cut after another is an error", records: [][]byte{{1, 'a', 1}}, failed: "malformed reply"},
		{name: "records of another type are ignored", whole: [][]byte{rawRecord(dns.TypeSPF, characterStrings("v=mtls1")), rawRecord(dns.TypeA, []byte{192, 0, 2, 1})}},
		{name: "one malformed record is an error for all", records: [][]byte{characterStrings("a"), nil}, failed: "malformed TXT record"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			records := tt.whole
			for _, data := range tt.records {
				records = append(records, rawRecord(dns.TypeTXT, data))
			}
			answer, err := repliesOverTCP(rawReply(dnsclient.TXT, records...)).Lookup(t.Context(), "p.example", dnsclient.TXT)
			if tt.failed != "" {
				require.ErrorContains(t, err, tt.failed)
				require.Zero(t, answer)
				return
			}
			require.NoError(t, err)
			want := dnsclient.Answer{Texts: tt.want}
			if tt.want != nil {
				want.TTL = time.Minute
			}
			require.Equal(t, want, answer)
		})
	}
	t.Run("over TCP if they do not fit, through an alias, authenticated", func(t *testing.T) {
		s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
			m.AuthenticatedData = true
			m.Answer = append(m.Answer, rr(t, "_mtls-egress.p.example. 30 CNAME _e.c.example."))
			for i := range 20 {
				m.Answer = append(m.Answer, rr(t, fmt.Sprintf(`_e.c.example. 60 TXT "%02d" "%s"`, i, strings.Repeat("x", 200))))
			}
			m.Answer = append(m.Answer, rrs(t, `p.example. 1 TXT "evil"`, `_mtls-egress.p.example. 1 TXT "evil"`, `_e.c.example. 1 CH TXT "evil"`)...)
			return m
		})
		answer, err := client(s).Lookup(t.Context(), "_mtls-egress.p.example", dnsclient.TXT)
		require.NoError(t, err)
		require.Len(t, answer.Texts, 20)
		require.NotContains(t, answer.Texts, "evil")
		require.Equal(t, 30*time.Second, answer.TTL)
		require.True(t, answer.Authenticated)
		require.Len(t, s.queries(), 2)
	})
}

func TestReverseNames(t *testing.T) {
	host := []byte("\x01h\xc0\x0e") // h.example.
	many := func(n int) (out [][]byte) {
		for i := range n {
			out = append(out, append(characterStrings(fmt.Sprintf("h%03d", i)), 0xc0, 14))
		}
		return out
	}
	for _, tt := range []struct {
		name    string
		records [][]byte // data of PTR records
		want    []string
		failed  string
	}{
		{name: "names are canonical, sorted and distinct", records: [][]byte{labels("B", "EXAMPLE"), labels("a", "example"), labels("b", "example")}, want: []string{"a.example", "b.example"}},
		{name: "a name of one label", records: [][]byte{labels("localhost")}, want: []string{"localhost"}},
		{name: "a name of 255 octets", records: [][]byte{labels(slices.Repeat([]string{"a"}, 127)...)}, want: []string{strings.Repeat("a.", 126) + "a"}},
		{name: "256 names", records: many(256), want: func() (out []string) {
			for i := range 256 {
				out = append(out, fmt.Sprintf("h%03d.example", i))
			}
			return out
		}()},
		{name: "257 names are an error", records: many(257), failed: "more than 256 records"},
		{name: "a name of more than 255 octets is an error", records: [][]byte{labels(slices.Repeat([]string{"a"}, 128)...)}, failed: "malformed reply"},
		{name: "a loop of pointers is an error", records: [][]byte{{0xc0, 12 + 15 + 12}}, failed: "malformed reply"},
		{name: "one malformed record is an error for all", records: [][]byte{host, nil}, failed: "malformed PTR record"},

		{name: "a NUL byte is left out", records: [][]byte{labels("h\x00", "example"), host}, want: []string{"h.example"}},
		{name: "a line break is left out", records: [][]byte{labels("h\n", "example"), host}, want: []string{"h.example"}},
		{name: "markup is left out", records: [][]byte{labels("<script>", "example"), host}, want: []string{"h.example"}},
		{name: "a dot in a label is left out", records: [][]byte{labels("evil.h", "example"), host}, want: []string{"h.example"}},
		{name: "a backslash is left out", records: [][]byte{labels(`\104`, "example"), labels(`\h`, "example"), host}, want: []string{"h.example"}},
		{name: "a byte beyond ASCII is left out", records: [][]byte{labels("h\xc3\xbc", "example"), labels("\xe2\x84\xaa", "example"), host}, want: []string{"h.example"}},
		{name: "a blank is left out", records: [][]byte{labels("h ", "example"), host}, want: []string{"h.example"}},
		{name: "a label of RFC 2317 is left out", records: [][]byte{labels("0/25", "example"), host}, want: []string{"h.example"}},
		{name: "a wildcard is left out", records: [][]byte{labels("*", "example"), labels("*"), host}, want: []string{"h.example"}},
		{name: "an address is left out", records: [][]byte{labels("192", "0", "2", "1"), labels("1"), labels("0x7f"), host}, want: []string{"h.example"}},
		{name: "the root is left out", records: [][]byte{labels(), host}, want: []string{"h.example"}},
		{name: "an invalid A-label is left out", records: [][]byte{labels("xn--example-", "example"), host}, want: []string{"h.example"}},
		{name: "a hyphen at an end is left out", records: [][]byte{labels("-h", "example"), labels("h-", "example"), host}, want: []string{"h.example"}},
		{name: "nothing but such names is no name", records: [][]byte{labels("h\x00", "example"), labels("*", "example")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var records [][]byte
			for _, data := range tt.records {
				records = append(records, rawRecord(dns.TypePTR, data))
			}
			answer, err := repliesOverTCP(rawReply(dnsclient.PTR, records...)).Lookup(t.Context(), "p.example", dnsclient.PTR)
			if tt.failed != "" {
				require.ErrorContains(t, err, tt.failed)
				require.NotContains(t, err.Error(), "\n")
				require.Zero(t, answer)
				return
			}
			require.NoError(t, err)
			require.Equal(t, dnsclient.Answer{Names: tt.want, TTL: time.Minute}, answer)
		})
	}
	t.Run("a delegated range of addresses (RFC 2317)", func(t *testing.T) {
		const name = "1.2.0.192.in-addr.arpa"
		for _, target := range []string{"1.0/25.2.0.192.in-addr.arpa.", "1.0-127.2.0.192.in-addr.arpa.", `1.a\.b\000\255.example.`, "1.*.example."} {
			s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
				m.Answer = rrs(t, name+". 300 CNAME "+target, strings.ToUpper(target)+" 60 PTR H.example.", name+". 1 PTR evil.example.",
					"1.2.0.192.in-addr.arpa.0/25. 1 PTR evil.example.")
				return m
			})
			answer, err := client(s).Lookup(t.Context(), name, dnsclient.PTR)
			require.NoError(t, err, target)
			require.Equal(t, dnsclient.Answer{Names: []string{"h.example"}, TTL: time.Minute}, answer, target)
			require.Equal(t, []string{"udp " + name + "."}, s.queries())
		}
	})
	t.Run("no records and no name are answers", func(t *testing.T) {
		s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
			if m.Question[0].Name == "2.2.0.192.in-addr.arpa." {
				m.Rcode = dns.RcodeNameError
			}
			m.Ns = rrs(t, "2.0.192.in-addr.arpa. 300 SOA ns.example. admin.example. 1 2 3 4 120")
			return m
		})
		for _, typ := range []dnsclient.Type{dnsclient.PTR, dnsclient.TXT} {
			answer, err := client(s).Lookup(t.Context(), "1.2.0.192.in-addr.arpa", typ)
			require.NoError(t, err)
			require.Equal(t, dnsclient.Answer{TTL: 2 * time.Minute}, answer)
			answer, err = client(s).Lookup(t.Context(), "2.2.0.192.in-addr.arpa", typ)
			require.NoError(t, err)
			require.Equal(t, dnsclient.Answer{TTL: 2 * time.Minute, NXDomain: true}, answer)
		}
	})
}

// What a reply holds of another type than asked for does not show.
func TestOtherTypesDoNotShow(t *testing.T) {
	all := [][]byte{rawRecord(dns.TypeA, []byte{192, 0, 2, 1}), rawRecord(dns.TypeAAAA, addrs("2001:db8::1")[0].AsSlice()),
		rawRecord(dns.TypeTXT, characterStrings("text")), rawRecord(dns.TypePTR, labels("h", "example"))}
	for typ, want := range map[dnsclient.Type]dnsclient.Answer{
		dnsclient.A:    {Addrs: addrs("192.0.2.1"), TTL: time.Minute},
		dnsclient.AAAA: {Addrs: addrs("2001:db8::1"), TTL: time.Minute},
		dnsclient.TXT:  {Texts: []string{"text"}, TTL: time.Minute},
		dnsclient.PTR:  {Names: []string{"h.example"}, TTL: time.Minute},
	} {
		answer, err := replies(rawReply(typ, all...)).Lookup(t.Context(), "p.example", typ)
		require.NoError(t, err)
		require.Equal(t, want, answer, typ.String())
	}
}
