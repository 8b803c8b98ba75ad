package main

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/mtlsguard/mtls"
)

// explainReport is the form of explain --json.
type explainReport struct {
	Outcome    string        `json:"outcome"`          // admitted, refused or undetermined
	Reason     string        `json:"reason,omitempty"` // mtls.Reason; absent: admitted
	Detail     string        `json:"detail,omitempty"`
	Code       string        `json:"code,omitempty"`        // what the client is told
	HTTPStatus int           `json:"http_status,omitempty"` // of the answer to a refused request
	IIS        string        `json:"iis,omitempty"`         // substatus that IIS would have logged
	Advice     string        `json:"advice,omitempty"`
	WhatToDo   string        `json:"what_to_do,omitempty"` // here, about what is undetermined
	Policy     string        `json:"policy"`
	Rule       string        `json:"rule,omitempty"`
	Account    string        `json:"account,omitempty"`
	Roles      []string      `json:"roles,omitempty"`
	Domain     string        `json:"domain,omitempty"`
	URI        string        `json:"uri,omitempty"`
	Email      string        `json:"email,omitempty"`
	UPN        string        `json:"upn,omitempty"`
	Authority  string        `json:"authority,omitempty"`
	Time       string        `json:"time"`
	From       string        `json:"from,omitempty"`
	KeyProved  bool          `json:"key_proved"` // never
	Cert       explainCert   `json:"certificate"`
	Steps      []explainStep `json:"steps"`
	Expires    string        `json:"expires,omitempty"` // when it would be decided anew
}

type explainCert struct {
	Subject string   `json:"subject"`
	Names   []string `json:"names"` // dNSNames
	Serial  string   `json:"serial"`
	SHA256  string   `json:"sha256"`
}

type explainStep struct {
	Name    string         `json:"name"`
	Outcome string         `json:"outcome"` // pass, fail, unknown, skipped or tolerated
	Detail  string         `json:"detail,omitempty"`
	Proofs  []explainProof `json:"proofs,omitempty"`
}

type explainProof struct {
	Kind          string   `json:"kind"`
	Source        string   `json:"source"`
	Status        string   `json:"status"`
	From          string   `json:"from,omitempty"`
	Expires       string   `json:"expires,omitempty"`
	Late          bool     `json:"late,omitempty"`
	Type          string   `json:"type,omitempty"`
	Records       []string `json:"records,omitempty"`
	TTLSeconds    int      `json:"ttl_seconds,omitempty"`
	Authenticated bool     `json:"authenticated,omitempty"`
}

const (
	admitted     = "admitted"
	refused      = "refused"
	undetermined = "undetermined"
)

func newExplainReport(o *explainOptions, d *mtls.Decision, c *x509.Certificate) *explainReport {
	r := &explainReport{
		Outcome: refused, Policy: o.policy, Rule: d.Rule, Time: stamp(d.Time), From: o.from, Expires: stamp(d.Expires), Steps: []explainStep{},
		Cert: explainCert{Subject: nameText(c.RawSubject), Names: append([]string{}, c.DNSNames...), Serial: fmt.Sprintf("%x", c.SerialNumber), SHA256: mtls.HashCertificate(c).String()},
	}
	switch {
	case d.Admitted && d.Identity != nil && d.Reason == "":
		r.Outcome = admitted
		id := d.Identity
		r.Account, r.Roles, r.Authority = id.Name(), id.Roles(), id.Authority()
		r.Domain, r.URI, r.Email, r.UPN = id.Domain(), id.URI(), id.Email(), id.UPN()
	default:
		r.Reason, r.Detail, r.Code, r.HTTPStatus = string(d.Reason), d.Detail(), d.Reason.Code(), d.Reason.Status()
		r.IIS, r.Advice = d.Reason.IIS(), d.Reason.Advice()
		if d.Reason.Undetermined() {
			r.Outcome = undetermined
			r.WhatToDo = o.whatToDo(d.Reason)
		}
	}
	for _, s := range d.Steps {
		step := explainStep{Name: s.Name, Outcome: s.Outcome.String(), Detail: s.Detail}
		for _, p := range s.Proofs {
			step.Proofs = append(step.Proofs, explainProof{
				Kind: p.Kind, Source: p.Source, Status: p.Status, From: stamp(p.From), Expires: stamp(p.Expires), Late: p.Late,
				Type: p.Type, Records: p.Records, TTLSeconds: int(p.TTL / time.Second), Authenticated: p.Authenticated,
			})
		}
		r.Steps = append(r.Steps, step)
	}
	return r
}

// whatToDo is about the call of explain; Advice is about the service.
func (o *explainOptions) whatToDo(reason mtls.Reason) string {
	switch {
	case reason == mtls.ReasonOriginUnknown && o.from == "":
		return "the origin is unknown because --from was not given: say which address the client connects from"
	case reason == mtls.ReasonOriginUnknown:
		return "DNS must answer from here: ask again, ask another server with --resolver, or wait longer with --wait"
	case reason == mtls.ReasonRevocationUnknown:
		return "the sources in the detail must answer from here: ask again, wait longer with --wait, allow a private address with --allow-network, or give lists in files with --crl"
	}
	return "ask again"
}

// status is the exit status. Only an admission is a yes.
func (r *explainReport) status() int {
	switch r.Outcome {
	case admitted:
		return exitYes
	case undetermined:
		return exitUnknown
	}
	return exitNo
}

var outcomeStyles = map[string]style{
	admitted: green, refused: red, undetermined: yellow,
	"pass": green, "fail": red, "unknown": yellow, "skipped": yellow, "tolerated": yellow,
}

func (r *explainReport) print(p printer) {
	p.painted(outcomeStyles[r.Outcome], "%s", r.Outcome)
	if r.Reason != "" {
		p.printf(": %s", r.Reason)
	}
	p.printf("\n\n")
	p.field("subject", orNone(r.Cert.Subject))
	p.field("names", strings.Join(allShown(r.Cert.Names), " "))
	p.field("serial", r.Cert.Serial)
	p.field("sha256", r.Cert.SHA256)
	from := r.From
	if from == "" {
		from = "unknown (no --from)"
	}
	p.field("from", from)
	p.field("time", r.Time)
	p.field("policy", shown(r.Policy))
	rule := "none matched"
	if r.Rule != "" {
		rule = shown(r.Rule)
	}
	p.field("rule", rule)
	if r.Outcome == admitted {
		p.field("account", shown(r.Account))
		p.field("roles", strings.Join(allShown(r.Roles), " "))
		for _, by := range [][2]string{{"domain", r.Domain}, {"URI", r.URI}, {"e-mail", r.Email}, {"UPN", r.UPN}} {
			if by[1] != "" {
				p.field(by[0], shown(by[1]))
			}
		}
		p.field("authority", shown(r.Authority))
	}
	p.printf("\n")
	for _, s := range r.Steps {
		s.print(p)
	}
	p.printf("\n")
	if r.Outcome == admitted {
		p.field("until", r.Expires+", then decided anew")
	} else {
		p.field("reason", r.Reason)
		p.field("HTTP status", fmt.Sprintf("%d, code %s", r.HTTPStatus, r.Code))
		p.field("IIS substatus", r.IIS)
		p.field("what to do", r.WhatToDo)
		p.field("advice", r.Advice)
	}
	p.printf("The key was not proved: this is about the certificate, not about who has it.\n")
}

func (s explainStep) print(p printer) {
	p.painted(outcomeStyles[s.Outcome], "%-9s", s.Outcome)
	p.printf(" %s\n", strings.TrimRight(fmt.Sprintf("%-11s %s", s.Name, oneLine(s.Detail)), " "))
	for _, f := range s.Proofs {
		what := f.Kind + " " + f.Source // printable, as all text of a Decision
		switch {
		case f.Type != "":
			what = f.Kind + " " + f.Type + " " + f.Source
		case strings.HasPrefix(strings.ToLower(f.Source), f.Kind+" "):
			what = f.Source // such as CRL "http://..."
		}
		p.printf("%21s %s: %s", "", strings.TrimSpace(what), f.Status)
		if len(f.Records) > 0 {
			p.printf(", %s", strings.Join(f.Records, " "))
		}
		if f.TTLSeconds > 0 {
			p.printf(", TTL %d s", f.TTLSeconds)
		}
		if f.From != "" {
			p.printf(", of %s", f.From)
		}
		if f.Expires != "" {
			p.printf(", until %s", f.Expires)
		}
		if f.Authenticated {
			p.printf(", DNSSEC")
		}
		if f.Late {
			p.printf(", late")
		}
		p.printf("\n")
	}
}
