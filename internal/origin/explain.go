package origin

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
)

// most is how many records an explanation lists.
const most = 8

// Proof is one thing that a Finding rests on.
type Proof struct {
	Prefix        netip.Prefix // or
	Name          string       // that was asked for
	Type          dnsclient.Type
	Outcome       Outcome
	Records       []string // that the answer had, the first few
	At, Expires   time.Time
	TTL           time.Duration // as DNS gave it
	Authenticated bool
	Cached        bool // known before the check began
}

// Proofs returns what was asked and answered.
func (f *Finding) Proofs() []Proof {
	if f.Way == Prefix && f.Outcome == Match {
		return []Proof{{Prefix: f.prefix, Outcome: Match}}
	}
	var list []Proof
	for _, a := range f.asked {
		list = append(list, f.proof(a.lookup, a.outcome))
	}
	for _, l := range f.deps.all() {
		list = slices.DeleteFunc(list, func(p Proof) bool { return p.Name == l.name && p.Type == l.typ })
		list = append(list, f.proof(l, Match))
	}
	return list
}

func (f *Finding) proof(l lookup, o Outcome) Proof {
	r := l.result
	p := Proof{Name: l.name, Type: l.typ, Outcome: o, At: r.At, Expires: r.Expires, Cached: f.began.IsZero() || r.At.Before(f.began)}
	if r.Err == nil {
		p.TTL, p.Authenticated = r.Answer.TTL, r.Answer.Authenticated
		p.Records, _ = records(r.Answer)
	}
	if o == Match && f.Stale {
		p.Expires = f.Expires
	}
	return p
}

// records are the first of an answer, fit to be printed, and how many there are.
func records(a dnsclient.Answer) ([]string, int) {
	var list []string
	for _, addr := range a.Addrs[:min(len(a.Addrs), most)] {
		list = append(list, addr.String())
	}
	for _, text := range a.Texts[:min(len(a.Texts), most)] {
		list = append(list, dnsname.Quote(text))
	}
	list = append(list, a.Names[:min(len(a.Names), most)]...)
	return list, len(a.Addrs) + len(a.Texts) + len(a.Names)
}

// Detail says in one line for the operator what was found. What DNS sent is quoted.
func (f *Finding) Detail() string {
	switch {
	case f.Outcome == Off:
		return "NoOrigin"
	case f.Outcome == Match:
		return f.matched()
	case !f.peer.IsValid():
		return f.why
	case f.why != "":
		return fmt.Sprintf("the connection comes from %s, %s", f.peer, f.why)
	}
	var said []string
	for _, a := range f.asked {
		said = append(said, a.String())
	}
	return fmt.Sprintf("the connection comes from %s; %s", f.peer, strings.Join(said, "; "))
}

func (f *Finding) matched() string {
	if f.Way == Prefix {
		return fmt.Sprintf("%s is in %s", f.peer, f.prefix)
	}
	first, last := f.deps.list[0], f.deps.list[f.deps.n-1]
	s := fmt.Sprintf("%s is an address of %s", f.peer, last.name)
	switch {
	case f.Way == Published && f.deps.n == 1:
		s = fmt.Sprintf("%s is in the record at %s", f.peer, first.name)
	case f.Way == Published:
		s += ", which the record at " + first.name + " names"
	case f.Way == Reverse:
		s += ", its own name"
	}
	switch {
	case f.Stale:
		return fmt.Sprintf("%s by the answer of %s; DNS has failed since: %s", s, first.result.At.UTC().Format(time.RFC3339), f.why)
	case f.earlier:
		return fmt.Sprintf("%s by the answer of %s, within Origin.Window", s, last.result.At.UTC().Format(time.RFC3339))
	}
	return s
}

// String says what an answer had.
func (a asked) String() string {
	if a.text != "" {
		if a.typ == dnsclient.A || a.typ == dnsclient.AAAA {
			return a.name + ": " + a.text
		}
		return fmt.Sprintf("%s %s: %s", a.name, a.typ, a.text)
	}
	answer := a.result.Answer
	list, n := records(answer)
	switch {
	case answer.NXDomain:
		return a.name + " has no records: the name does not exist"
	case n == 0:
		return fmt.Sprintf("%s has no %s record", a.name, a.typ)
	}
	s := fmt.Sprintf("%s has %s records %v", a.name, a.typ, list)
	if n > len(list) {
		s += fmt.Sprintf(" and %d more", n-len(list))
	}
	return s
}
