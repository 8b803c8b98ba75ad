package directory_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/directory/internal/testdir"
	"github.com/mtlsguard/mtls/mtlstest"
)

// fake is a directory server that answers whatever a test wants.
type fake struct {
	addr string

	mu       sync.Mutex
	answer   func(question) reply
	bind     int    // result of binds
	bindSays string // diagnostic message
	binds    int
	holdBind func(context.Context) // waits
	tls      *tls.Config           // for StartTLS; nil: there is none
	startTLS int                   // result of StartTLS
	conns    int
	open     int
	most     int // open at once
	asked    []question
}

// question is a search.
type question struct {
	base, filter string
	scope        int
	attributes   []string
	sizeLimit    int64
}

type entry struct {
	dn     string
	values map[string][]string
}

// reply is an answer to a search.
type reply struct {
	entries []entry
	refs    []string
	code    int
	before  func(net.Conn)         // is called first
	instead func(net.Conn, []byte) // is given the answer that would have been sent
	hold    func(context.Context)  // waits
}

func newFake(t testing.TB, answer func(question) reply) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fake{addr: l.Addr().String(), answer: answer}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f.serve(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return f
}

func (f *fake) serve(ctx context.Context, c net.Conn) {
	f.mu.Lock()
	f.conns++
	f.open++
	f.most = max(f.most, f.open)
	f.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer func() {
		stop()
		c.Close()
		f.mu.Lock()
		f.open--
		f.mu.Unlock()
	}()
	for {
		p, err := ber.ReadPacket(c)
		if err != nil || len(p.Children) < 2 {
			return
		}
		id := p.Children[0].Value.(int64)
		switch op := p.Children[1]; op.Tag {
		case ldap.ApplicationBindRequest:
			f.mu.Lock()
			f.binds++
			code, says, hold := f.bind, f.bindSays, f.holdBind
			f.mu.Unlock()
			if hold != nil {
				hold(ctx)
			}
			if _, err := c.Write(result(id, ldap.ApplicationBindResponse, code, says)); err != nil {
				return
			}
		case ldap.ApplicationSearchRequest:
			if !f.search(ctx, c, id, op) {
				return
			}
		case ldap.ApplicationExtendedRequest:
			f.mu.Lock()
			code, conf := f.startTLS, f.tls
			f.mu.Unlock()
			if _, err := c.Write(result(id, ldap.ApplicationExtendedResponse, code, "")); err != nil || conf == nil {
				return
			}
			if code == 0 {
				c = tls.Server(c, conf)
			}
		default:
			return
		}
	}
}

func (f *fake) search(ctx context.Context, c net.Conn, id int64, op *ber.Packet) bool {
	filter, err := ldap.DecompileFilter(op.Children[6])
	if err != nil {
		return false
	}
	q := question{base: op.Children[0].Value.(string), scope: int(op.Children[1].Value.(int64)), sizeLimit: op.Children[3].Value.(int64), filter: filter}
	for _, a := range op.Children[7].Children {
		q.attributes = append(q.attributes, a.Value.(string))
	}
	f.mu.Lock()
	f.asked = append(f.asked, q)
	answer := f.answer
	f.mu.Unlock()
	r := answer(q)
	if r.hold != nil {
		r.hold(ctx)
	}
	if r.before != nil {
		r.before(c)
	}
	var out []byte
	for _, e := range r.entries {
		out = append(out, found(id, e)...)
	}
	for _, ref := range r.refs {
		m := message(id)
		p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultReference, nil, "")
		p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, ref, ""))
		m.AppendChild(p)
		out = append(out, m.Bytes()...)
	}
	out = append(out, result(id, ldap.ApplicationSearchResultDone, r.code, "")...)
	if r.instead != nil {
		r.instead(c, out)
		return false
	}
	_, err = c.Write(out)
	return err == nil
}

// pipe returns a Dial for the servers, without a network: for testing/synctest.
func pipe(t testing.TB, servers ...*fake) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, _, address string) (net.Conn, error) {
		for _, f := range servers {
			if f.addr == address {
				a, b := net.Pipe()
				go f.serve(t.Context(), b)
				return a, nil
			}
		}
		return nil, errors.New("no such server")
	}
}

func message(id int64) *ber.Packet {
	m := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
	m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	return m
}

func result(id int64, op ber.Tag, code int, says string) []byte {
	m := message(id)
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, op, nil, "")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, int64(code), ""))
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "", ""))
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, says, ""))
	m.AppendChild(p)
	return m.Bytes()
}

func found(id int64, e entry) []byte {
	m := message(id)
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, e.dn, ""))
	list := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
	for name, values := range e.values {
		a := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
		a.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, name, ""))
		set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		for _, v := range values {
			set.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, v, ""))
		}
		a.AppendChild(set)
		list.AppendChild(a)
	}
	p.AppendChild(list)
	m.AppendChild(p)
	return m.Bytes()
}

func (f *fake) set(answer func(question) reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// searches returns how many questions there were about a base.
func (f *fake) searches(base string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, q := range f.asked {
		if q.base == base {
			n++
		}
	}
	return n
}

func (f *fake) counts() (conns, binds, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns, f.binds, f.most
}

// binarySID is the binary form of a SID of the fake domain.
func binarySID(rid uint32) string {
	b := []byte{1, 5, 0, 0, 0, 0, 0, 5}
	for _, n := range []uint32{21, 1, 2, 3, rid} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return string(b)
}

func textSID(rid uint32) string { return fmt.Sprintf("S-1-5-21-1-2-3-%d", rid) }

const (
	fakeBase  = "DC=fake,DC=test"
	fakeAlice = "CN=alice," + fakeBase
	fakeStore = "CN=NTAuthCertificates,CN=Public Key Services,CN=Services,CN=Configuration," + fakeBase
)

// fakeAD is a small Active Directory. Fields may be changed before it is asked.
type fakeAD struct {
	*fake
	ca      *mtlstest.CA
	root    map[string][]string
	store   []entry
	hits    []entry             // of the search for the account
	refs    []string            // of the same
	account map[string][]string // the entry by itself
	groups  []entry
	code    map[string]int // results by base
}

func newFakeAD(t testing.TB) *fakeAD {
	t.Helper()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "fake CA"})
	d := &fakeAD{
		ca:    ca,
		root:  map[string][]string{"defaultNamingContext": {fakeBase}, "configurationNamingContext": {"CN=Configuration," + fakeBase}},
		store: []entry{{fakeStore, map[string][]string{"cACertificate": {string(ca.Certificate().Raw)}}}},
		hits:  []entry{{fakeAlice, map[string][]string{"objectSid": {binarySID(1000)}, "userPrincipalName": {"alice@fake.test"}, "whenCreated": {"20200101000000.0Z"}}}},
		account: map[string][]string{"objectSid": {binarySID(1000)}, "sAMAccountName": {"alice"}, "userAccountControl": {"512"},
			"msDS-User-Account-Control-Computed": {"0"}, "accountExpires": {"9223372036854775807"}, "tokenGroups": {binarySID(513), binarySID(2000)}},
		groups: []entry{
			{"CN=Domain Users," + fakeBase, map[string][]string{"objectSid": {binarySID(513)}, "sAMAccountName": {"Domain Users"}}},
			{"CN=staff," + fakeBase, map[string][]string{"objectSid": {binarySID(2000)}, "sAMAccountName": {"staff"}}}},
		code: map[string]int{},
	}
	d.fake = newFake(t, func(q question) reply { return d.reply(q) })
	return d
}

func (d *fakeAD) reply(q question) reply {
	r := reply{code: d.code[q.base]}
	switch {
	case q.base == "":
		r.entries = []entry{{"", d.root}}
	case q.base == fakeStore:
		r.entries = d.store
	case q.base == fakeBase && strings.Contains(q.filter, "(objectClass=group)"):
		r.entries = d.groups
	case q.base == fakeBase:
		r.entries, r.refs = d.hits, d.refs
	case q.base == fakeAlice:
		r.entries = []entry{{fakeAlice, d.account}}
	default:
		r.code = ldap.LDAPResultNoSuchObject
	}
	if r.code != 0 && r.code != ldap.LDAPResultSizeLimitExceeded {
		r.entries = nil
	}
	return r
}

// connection is one to the fake, without TLS.
func (f *fake) connection() directory.Connection {
	return directory.Connection{
		URLs: []string{"ldap://" + f.addr}, InsecurePlaintext: true, User: "svc", Password: given("secret-of-svc"),
		Timeout: time.Minute, Logger: (&testdir.Log{}).Logger(),
	}
}

func (d *fakeAD) config() directory.ActiveDirectory {
	return directory.ActiveDirectory{Connection: d.connection()}
}

// alice is a certificate that maps strongly.
func (d *fakeAD) alice(t testing.TB) *mtlstest.Certificate {
	t.Helper()
	return issue(t, d.ca, names{upns: []string{"alice@fake.test"}, sid: textSID(1000)})
}

// last returns the last question.
func (f *fake) last() question {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[len(f.asked)-1]
}

// fakeLDAP is a small directory of another kind. Fields may be changed before it is asked.
type fakeLDAP struct {
	*fake
	root, schema   map[string][]string
	people, groups []entry        // of every search
	code           map[string]int // results by base
}

const fakeSchema = "cn=schema"

func newFakeLDAP(t testing.TB) *fakeLDAP {
	t.Helper()
	d := &fakeLDAP{
		root: map[string][]string{"subschemaSubentry": {fakeSchema}},
		schema: map[string][]string{
			"attributeTypes": {"( 2.5.4.3 NAME ( 'cn' 'commonName' ) SUP name )", "( 1.2.3.4 NAME 'locked' DESC 'when, in (brackets)' SYNTAX 1.3.6.1.4.1.1466.115.121.1.24 SINGLE-VALUE )"},
			"matchingRules":  {"( 2.5.13.2 NAME 'caseIgnoreMatch' SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )"}},
		people: []entry{{"uid=a,dc=x", map[string][]string{"uid": {"a"}}}},
		code:   map[string]int{},
	}
	d.fake = newFake(t, func(q question) reply {
		r := reply{code: d.code[q.base]}
		switch {
		case q.base == "":
			r.entries = []entry{{"", d.root}}
		case q.base == fakeSchema:
			r.entries = []entry{{fakeSchema, d.schema}}
		case strings.Contains(q.filter, "member"):
			r.entries = d.groups
		default:
			r.entries = d.people
		}
		if r.code != 0 {
			r.entries = nil
		}
		return r
	})
	return d
}

func (d *fakeLDAP) config() directory.LDAP {
	return directory.LDAP{Connection: d.connection(), BaseDN: "dc=x", Filter: "(mail={email})"}
}

// byEmail is a client of the e-mail address.
func byEmail(email string) func(*mtlstest.Identity) {
	return func(i *mtlstest.Identity) { i.Email = email }
}

// staleAD is a domain with Stale, of an hour.
func staleAD(t testing.TB, set ...func(*directory.ActiveDirectory)) (*fakeAD, *mtlstest.Clock, *directory.Mapper) {
	t.Helper()
	d := newFakeAD(t)
	clock := mtlstest.NewClock(time.Time{})
	cfg := d.config()
	cfg.Now, cfg.Stale = clock.Now, time.Hour
	for _, f := range set {
		f(&cfg)
	}
	return d, clock, newAD(t, cfg)
}

// silent are the results with which a server does not answer.
var silent = map[int]bool{ldap.LDAPResultTimeLimitExceeded: true, ldap.LDAPResultBusy: true, ldap.LDAPResultUnavailable: true}
