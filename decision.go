package mtls

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Reason says why a client was refused. Its values are stable strings: they
// may be stored, counted and alerted on. The zero value means that nothing was
// refused.
type Reason string

// The reasons for a refusal, in the order in which a decision meets them.
const (
	// ReasonInternal is a defect: a panic in a callback, or a Guard that New did
	// not build. It refuses, as everything unexpected does.
	ReasonInternal Reason = "internal"
	// ReasonMisdirected is a request whose Host differs from the server name of
	// the TLS handshake (RFC 9110 section 15.5.20).
	ReasonMisdirected Reason = "misdirected"
	// ReasonNoCertificate is a connection without TLS or without a client
	// certificate.
	ReasonNoCertificate Reason = "no_certificate"
	// ReasonMalformedCertificate is a certificate that cannot be read, exceeds
	// Limits, holds a name that is no domain name, or has a critical extension
	// that is not understood (RFC 5280 section 4.2).
	ReasonMalformedCertificate Reason = "malformed_certificate"
	// ReasonUntrustedIssuer is a certificate with no chain to an authority, or
	// one that names a domain for which its authority may not speak.
	ReasonUntrustedIssuer Reason = "untrusted_issuer"
	// ReasonKeyUsage is a certificate issued for another purpose (RFC 5280
	// sections 4.2.1.3 and 4.2.1.12), or a CA certificate used as a client's.
	ReasonKeyUsage Reason = "key_usage"
	// ReasonExpired is a certificate of the chain past its notAfter.
	ReasonExpired Reason = "expired"
	// ReasonNotYetValid is a certificate of the chain before its notBefore.
	ReasonNotYetValid Reason = "not_yet_valid"
	// ReasonNotAllowed is a trusted certificate that no rule lists.
	ReasonNotAllowed Reason = "not_allowed"
	// ReasonDeniedByRule is a certificate that a rule with Deny matched.
	ReasonDeniedByRule Reason = "denied_by_rule"
	// ReasonOriginMismatch is a connection from an address that is none of the
	// rule's origin.
	ReasonOriginMismatch Reason = "origin_mismatch"
	// ReasonOriginUnknown means that DNS did not answer, or that the peer's
	// address is not known.
	ReasonOriginUnknown Reason = "origin_unknown"
	// ReasonRevoked is a certificate of the chain that its issuer revoked.
	ReasonRevoked Reason = "revoked"
	// ReasonRevocationUnknown means that no source gave usable evidence.
	ReasonRevocationUnknown Reason = "revocation_unknown"
	// ReasonRevocationSourceMissing means that a certificate names no source of
	// revocation evidence and is not short-lived.
	ReasonRevocationSourceMissing Reason = "revocation_source_missing"
	// ReasonAccountUnmapped means that the AccountMapper knows no account.
	ReasonAccountUnmapped Reason = "account_unmapped"
	// ReasonAccountDisabled means that the account exists and may not be used.
	ReasonAccountDisabled Reason = "account_disabled"
	// ReasonAccountUnknown means that the AccountMapper could not tell.
	ReasonAccountUnknown Reason = "account_unknown"
	// ReasonGroupMissing means that the account is in none of the groups that the
	// rule demands.
	ReasonGroupMissing Reason = "group_missing"
	// ReasonRoleMissing means that the rule has none of the roles that a route
	// requires.
	ReasonRoleMissing Reason = "role_missing"
	// ReasonConditionFailed means that Config.Verify returned an error.
	ReasonConditionFailed Reason = "condition_failed"
)

// reasonFact is what follows from a Reason.
type reasonFact struct {
	status int    // HTTP status of the answer
	code   string // what the client is told; empty: the reason itself
	iis    string // the substatus that IIS would have logged
	close  bool   // the connection is of no further use to this client
	advice string // what the operator can do
}

var reasonFacts = map[Reason]reasonFact{
	ReasonInternal:             {500, "", "", false, "a defect in a callback or an unbuilt Guard: see the detail"},
	ReasonMisdirected:          {421, "", "", false, "the client reused a connection made for another server name; it must open a new one"},
	ReasonNoCertificate:        {403, "", "403.7", true, "the client must present its certificate; .NET and browsers withhold one that is not for client authentication"},
	ReasonMalformedCertificate: {403, "", "403.16", true, "the partner needs a new certificate: see the detail"},
	ReasonUntrustedIssuer:      {403, "", "403.16", true, "if the issuer should be trusted, add its root to Roots; the partner must send its intermediates"},
	ReasonKeyUsage:             {403, "", "403.16", true, "the partner needs a certificate for client authentication (or set the authority's Purpose)"},
	ReasonExpired:              {403, "", "403.17", true, "the partner must renew the certificate named in the detail"},
	ReasonNotYetValid:          {403, "", "403.17", true, "compare the clocks, or wait until the certificate is valid"},
	ReasonNotAllowed:           {403, "", "403.12", true, "if the client should be admitted, list one of its names in a rule"},
	ReasonDeniedByRule:         {403, "not_allowed", "403.12", true, "a rule with Deny matches this client; change that rule if it should not"},
	ReasonOriginMismatch:       {403, "", "", true, "the partner must send from an address of its domain, or the rule's Origin must name its egress"},
	ReasonOriginUnknown:        {503, "", "", false, "see the detail: DNS must answer, and the server must call Guard.ConnContext"},
	ReasonRevoked:              {403, "", "403.13", true, "the issuer revoked the certificate; the partner needs a new one"},
	ReasonRevocationUnknown:    {503, "", "403.13", false, "the sources in the detail must be reachable from here and give current, valid answers"},
	ReasonRevocationSourceMissing: {403, "", "403.13", true,
		"the certificate named in the detail has no CRL or OCSP source: have its CA add one, issue client certificates for at most 7 days, or set LeafOnly (for a CA certificate) or NoRevocation for the authority"},
	ReasonAccountUnmapped: {403, "not_allowed", "403.12", true, "map the client to an account in the directory"},
	ReasonAccountDisabled: {403, "not_allowed", "403.12", true, "enable the account if the client should be admitted"},
	ReasonAccountUnknown:  {503, "", "", false, "the directory must answer"},
	ReasonGroupMissing:    {403, "not_allowed", "403.12", true, "add the account to a group of the rule if the client should be admitted"},
	ReasonRoleMissing:     {403, "", "403.12", false, "add the role to the rule if the client may use this route"},
	ReasonConditionFailed: {403, "not_allowed", "403.12", true, "Config.Verify refused: see the detail"},
}

// Reasons returns every Reason, in alphabetical order: for metrics that should
// have a series for each from the start.
func Reasons() []Reason { return slices.Sorted(maps.Keys(reasonFacts)) }

// fact never yields the zero fact: a reason that is not in the table is a
// defect, and defects are answered as such.
func (r Reason) fact() reasonFact {
	if f, ok := reasonFacts[r]; ok {
		return f
	}
	return reasonFacts[ReasonInternal]
}

// Status returns the HTTP status code of the answer that Handler gives.
func (r Reason) Status() int { return r.fact().status }

// Undetermined reports whether the refusal means "don't know" rather than "no":
// the same client may be admitted when it tries again.
func (r Reason) Undetermined() bool { return r.fact().status == http.StatusServiceUnavailable }

// Code returns what the client is told. It is coarser than the Reason where
// the difference would tell a stranger what the policy contains.
func (r Reason) Code() string {
	if c := r.fact().code; c != "" {
		return c
	}
	return string(r)
}

// Advice returns one sentence for the operator: what to do about it.
func (r Reason) Advice() string { return r.fact().advice }

// IIS returns the substatus that Internet Information Services logs in the same
// case, such as "403.13", or "" where it has none.
func (r Reason) IIS() string { return r.fact().iis }

// An Outcome is the result of one Step. Its zero value is OutcomeUnknown, which
// never admits.
type Outcome int

// Outcomes of a step.
const (
	OutcomeUnknown   Outcome = iota // could not be determined
	OutcomePass                     // holds
	OutcomeFail                     // does not hold
	OutcomeSkipped                  // not asked for, by name (NoOrigin, NoRevocation)
	OutcomeTolerated                // does not hold or could not be determined, which the configuration accepts by name (Revocation.SoftFail, Origin.ReportOnly)
)

// String returns "unknown", "pass", "fail", "skipped" or "tolerated".
func (o Outcome) String() string {
	switch o {
	case OutcomePass:
		return "pass"
	case OutcomeFail:
		return "fail"
	case OutcomeSkipped:
		return "skipped"
	case OutcomeTolerated:
		return "tolerated"
	default:
		return "unknown"
	}
}

// A Step is one check of a Decision. Names are "limits", "chain", "rule",
// "origin", "revocation", "account", "role", "condition" and "shadow".
type Step struct {
	Name    string
	Outcome Outcome
	Detail  string  // for the operator; text from the peer is quoted and cut
	Proofs  []Proof // what the step relied on
}

// A Proof is a piece of evidence that a Step relied on.
type Proof struct {
	Kind    string    // "crl", "ocsp", "staple", "short-lived", "dns", "prefix"
	Source  string    // URL, DNS name or prefix
	Status  string    // "good", "revoked", "unknown", "match", "mismatch"
	From    time.Time // thisUpdate, or when DNS answered; zero: none
	Expires time.Time // when it lapses; zero: with the certificate
	// Late says that it counts although its time is over: within Revocation.Grace,
	// or an address that matched before DNS failed.
	Late bool

	// Of "dns" only.
	Type          string        // "A", "AAAA", "TXT" or "PTR"
	Records       []string      // what was answered, quoted where it is text; at most 8
	TTL           time.Duration // as DNS gave it
	Authenticated bool          // the AD bit of a trusted resolver (RFC 4035 section 3.2.3)
	Cached        bool          // known before the decision
}

// A Decision is what a Guard found out about one client, and why. It is a
// value for logs, metrics and status pages; changing it changes nothing else.
// The zero Decision refuses.
type Decision struct {
	ID       string     // random UUID; the client is told it when it is refused
	Time     time.Time  // of Config.Now
	Admitted bool       // false: Reason says why
	Reason   Reason     // empty when Admitted
	Identity *Identity  // nil unless Admitted
	Rule     string     // name of the rule that matched; empty: none
	Subject  string     // subject of the certificate, escaped and cut; it is not verified when the chain step failed
	Names    []string   // dNSNames of the certificate, escaped and cut, at most 10
	Serial   string     // of the certificate, hexadecimal
	Hash     string     // SHA-256 of the certificate, hexadecimal: what CertificateHash in a rule takes
	Peer     netip.Addr // invalid: unknown, or decided in the handshake
	Steps    []Step
	Expires  time.Time // when it will be decided anew at the latest
	// Handshake is set for a decision taken during the handshake, when the
	// client has not yet proved that it holds the certificate's key.
	Handshake bool
	// ReportOnly is set where the refusal was not enforced
	// (Config.InsecureReportOnly).
	ReportOnly bool

	retryAfter time.Duration
}

// Tolerated reports whether the client is admitted although something could not
// be determined (Revocation.SoftFail) or its origin is only reported
// (Origin.ReportOnly).
func (d *Decision) Tolerated() bool {
	return slices.ContainsFunc(d.Steps, func(s Step) bool { return s.Outcome == OutcomeTolerated })
}

// Late reports whether the client is admitted on evidence past its nextUpdate
// (Revocation.Grace), or on an address that matched before DNS failed.
func (d *Decision) Late() bool {
	return slices.ContainsFunc(d.Steps, func(s Step) bool {
		return slices.ContainsFunc(s.Proofs, func(p Proof) bool { return p.Late })
	})
}

// Detail returns the text of the step that failed, or "".
func (d *Decision) Detail() string {
	for i := len(d.Steps) - 1; i >= 0; i-- {
		if s := d.Steps[i]; s.Name != stepShadow && (s.Outcome == OutcomeFail || s.Outcome == OutcomeUnknown) {
			return s.Detail
		}
	}
	return ""
}

// clone gives a caller its own copy of everything that it could change.
func (d *Decision) clone() *Decision {
	c := *d
	c.Names = append([]string(nil), d.Names...)
	c.Steps = append([]Step(nil), d.Steps...)
	for i := range c.Steps {
		c.Steps[i].Proofs = append([]Proof(nil), c.Steps[i].Proofs...)
		for j, p := range c.Steps[i].Proofs {
			c.Steps[i].Proofs[j].Records = slices.Clone(p.Records)
		}
	}
	return &c
}

// add is where every text of a decision passes: whatever library or callback it
// came from, it is printable and bounded from here on.
func (d *Decision) add(s Step) {
	s.Detail = printable(cut(s.Detail, 1024))
	for i, p := range s.Proofs {
		s.Proofs[i].Source = printable(cut(p.Source, 512))
		for j, r := range p.Records {
			p.Records[j] = printable(cut(r, 256))
		}
	}
	d.Steps = append(d.Steps, s)
}

// refuse records the step that failed and makes the decision a refusal.
func (d *Decision) refuse(r Reason, s Step) *Decision {
	s.Outcome = OutcomeFail
	if r.Undetermined() {
		s.Outcome = OutcomeUnknown
	}
	d.add(s)
	d.Admitted, d.Reason, d.Identity = false, r, nil
	return d
}

const (
	stepLimits     = "limits"
	stepChain      = "chain"
	stepRule       = "rule"
	stepOrigin     = "origin"
	stepRevocation = "revocation"
	stepAccount    = "account"
	stepRole       = "role"
	stepCondition  = "condition"
	stepShadow     = "shadow"
	stepRequest    = "request"
)

// A DeniedError is the error of a refusal. Handshake hooks and Check return it,
// and Config.Deny receives it.
type DeniedError struct {
	Reason     Reason
	ID         string        // of the Decision
	RetryAfter time.Duration // zero: trying again is of no use
	Decision   *Decision     // for the operator; not for the client
}

// Error says what was refused and why, for the operator. It begins "mtls: ", is
// at most about 600 bytes long and printable ASCII, whatever the client sent.
func (e *DeniedError) Error() string {
	s := "mtls: client refused: " + string(e.Reason)
	if e.Decision != nil {
		if d := e.Decision.Detail(); d != "" {
			s += ": " + d
		}
	}
	return cut(s, 512) + " (incident " + e.ID + ")"
}

// Undetermined reports whether the refusal means "don't know" rather than "no".
func (e *DeniedError) Undetermined() bool { return e.Reason.Undetermined() }

func denied(d *Decision) *DeniedError {
	e := &DeniedError{Reason: d.Reason, ID: d.ID, Decision: d}
	if d.Reason.Undetermined() {
		e.RetryAfter = max(d.retryAfter, time.Second)
	}
	return e
}

// A ConfigError is one problem of a configuration. Constructors and Replace
// report all of them at once, joined by errors.Join.
type ConfigError struct {
	Field   string // such as `Policy: rule "acme": Domains[0]`
	Value   string // the value found, if it has a short text
	Problem string
	Err     error // the cause, if there is one
	// Rule and Item say where a problem of a policy is: the place of the rule among
	// those given, beginning with 1, and the field or the element, such as
	// "Domains[0]". Zero and empty: not of one rule, or of all of it.
	Rule int
	Item string
}

// Error begins "mtls: " and names the field, the value and the problem.
func (e *ConfigError) Error() string {
	s := "mtls: " + e.Field + ": "
	if e.Value != "" {
		s += quote(e.Value) + ": "
	}
	s += e.Problem
	if e.Err != nil {
		s += ": " + strings.TrimPrefix(e.Err.Error(), "mtls: ")
	}
	return s
}

// Unwrap returns the cause, or nil.
func (e *ConfigError) Unwrap() error { return e.Err }

// problems collects ConfigErrors.
type problems []error

func (p *problems) add(field, value, format string, args ...any) {
	*p = append(*p, &ConfigError{Field: field, Value: value, Problem: fmt.Sprintf(format, args...)})
}

// join adds an error, or each of those that errors.Join has joined.
func (p *problems) join(err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			p.join(e)
		}
	} else if err != nil {
		*p = append(*p, err)
	}
}

func (p problems) err() error { return errors.Join(p...) }

// quote makes text from a peer safe for a log: printable ASCII, on one line, at
// most 256 bytes.
func quote(s string) string {
	const most = 200
	more := ""
	if len(s) > most {
		s, more = s[:most], "..."
	}
	return cut(strconv.QuoteToASCII(s), 256) + more
}

// cut shortens text that is already printable.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// safe is for text that may hold peer text in the middle, such as an error of a
// library: what is not printable ASCII is escaped, and it is cut.
func safe(s string) string {
	q := strconv.QuoteToASCII(cut(s, 400))
	return cut(strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`), 512)
}

// printable replaces what is not printable ASCII.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// newID returns a random UUID (RFC 9562 version 4): nothing can be told from it
// but the line of the log that has it.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
