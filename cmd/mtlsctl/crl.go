package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mtlsguard/mtls/internal/fetch"
	"github.com/mtlsguard/mtls/internal/pemfile"
)

// listReport is the form of crl --json.
type listReport struct {
	Source     string       `json:"source"`
	Issuer     string       `json:"issuer"`
	Scope      string       `json:"scope"`
	Delta      bool         `json:"delta"`
	BaseNumber string       `json:"base_number,omitempty"`
	Indirect   bool         `json:"indirect"`
	Number     string       `json:"number,omitempty"`
	ThisUpdate string       `json:"this_update"`
	NextUpdate string       `json:"next_update"`
	Current    bool         `json:"current"`
	NotCurrent string       `json:"not_current,omitempty"` // why
	Entries    int          `json:"entries"`
	Signature  string       `json:"signature"` // verified, not_verified or invalid
	Signer     string       `json:"signer,omitempty"`
	Problem    string       `json:"problem,omitempty"` // with the signature
	Serial     *serialFound `json:"serial,omitempty"`
}

// serialFound is what the list says about one certificate.
type serialFound struct {
	Serial string `json:"serial"`
	Listed bool   `json:"listed"`
	Reason string `json:"reason,omitempty"`
	Date   string `json:"date,omitempty"`
	Answer string `json:"answer"`        // revoked, not_revoked or undetermined
	Why    string `json:"why,omitempty"` // it is undetermined
}

// crlOptions are the flags of crl.
type crlOptions struct {
	issuer, serial, cert, at string
	asJSON                   bool
	wait                     time.Duration
}

func newCRL() *cobra.Command {
	var o crlOptions
	cmd := &cobra.Command{
		Use:   "crl FILE|URL",
		Short: "Show a certificate revocation list, and look a certificate up",
		Long: long(`
Shows what a certificate revocation list (DER, or one PEM block "X509 CRL") says
about itself: for which certificates it speaks, when it was issued and when it
lapses. Its signature is verified only with --issuer, and says nothing without.

With --serial (hexadecimal) or --cert it looks a certificate up. "Not listed" is an
answer only where the signature is verified, the list is current and it speaks for
that certificate; of a list for a part of the issuer's certificates only --cert can
tell. "Listed" is an answer only from a verified and current list, too.

A URL is fetched wherever it leads, private addresses included, since the operator
typed it; where it redirects to must be public.`,
			"shown, or not revoked", "revoked", "the list does not tell: it is not verified, not current or for other certificates"),
		Example: `  mtlsctl crl ca.crl
  mtlsctl crl --issuer ca.pem --serial 4ac0ffee ca.crl
  mtlsctl crl --issuer ca.pem --cert client.pem http://crl.example.com/ca.crl`,
		Args: exactly("FILE|URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			colour, err := coloured(cmd)
			if err != nil {
				return err
			}
			now, err := clock(o.at)
			if err != nil {
				return err
			}
			q, err := o.question()
			if err != nil {
				return err
			}
			der, err := o.load(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r, status, err := examineList(args[0], der, q, now())
			if err != nil {
				return err
			}
			if o.asJSON {
				if err := writeJSON(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			} else {
				r.print(printer{cmd.OutOrStdout(), colour})
			}
			return answer(status)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.issuer, "issuer", "", "`FILE` with the certificate of the CA that signed the list")
	f.StringVar(&o.serial, "serial", "", "serial number to look up, hexadecimal, colons allowed")
	f.StringVar(&o.cert, "cert", "", "`FILE` with the certificate to look up")
	f.StringVar(&o.at, "time", "", "the time at which the list must be current, RFC 3339 (default now)")
	f.DurationVar(&o.wait, "wait", 60*time.Second, "how long a download may take, at most 60s")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("serial", "cert")
	return cmd
}

// question is whom the list is asked about, and who may have signed it.
type question struct {
	issuers []*x509.Certificate
	cert    *x509.Certificate // nil: a serial number alone, or nothing
	serial  *big.Int          // nil: nothing is asked
}

func (o crlOptions) question() (q question, err error) {
	if o.issuer != "" {
		if q.issuers, err = loadCertificates(o.issuer, maxCertFile); err != nil {
			return q, err
		}
	}
	if o.cert != "" {
		certs, err := loadCertificates(o.cert, maxChainFile)
		if err != nil {
			return q, err
		}
		q.cert, q.serial = certs[0], certs[0].SerialNumber
	}
	if o.serial != "" {
		n, ok := new(big.Int).SetString(strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(o.serial), "0x"), ":", ""), 16)
		if !ok || n.Sign() <= 0 || n.BitLen() > 160 {
			return q, fmt.Errorf("--serial %q: not a serial number in hexadecimal", o.serial)
		}
		q.serial = n
	}
	return q, nil
}

// load returns the DER of one list.
func (o crlOptions) load(ctx context.Context, place string) ([]byte, error) {
	if bare := withoutUser(place); bare != place {
		return nil, fmt.Errorf("%s: a URL with user information is not fetched: leave it out", shown(bare))
	}
	var data []byte
	lower := strings.ToLower(place)
	if strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://") {
		ctx, cancel := context.WithTimeout(ctx, o.wait)
		defer cancel()
		res, err := fetch.New(fetch.Options{}).Do(ctx, fetch.Request{URL: place, Operator: true, Accept: "application/pkix-crl", Limit: maxListFile})
		if err != nil {
			return nil, err
		}
		data = res.Body
	} else {
		if i := strings.Index(place, "://"); i > 0 {
			return nil, fmt.Errorf("%s: lists are fetched from http and https only", shown(place))
		}
		var err error
		if data, err = readFile(place, maxListFile); err != nil {
			return nil, err
		}
	}
	der, err := oneList(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown(place), err)
	}
	return der, nil
}

// withoutUser takes user information, which may be a password, out of a URL. What is no
// URL, or none that can be read, has it wherever it might be.
func withoutUser(place string) string {
	scheme, rest, ok := strings.Cut(place, "://")
	if !ok {
		return place
	}
	if _, err := url.Parse(place); err == nil {
		if end := strings.IndexAny(rest, "/?#"); end >= 0 && !strings.Contains(rest[:end], "@") {
			return place
		}
	}
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return place
	}
	return scheme + "://..." + rest[at:]
}

// oneList takes PEM off.
func oneList(data []byte) ([]byte, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("it is empty")
	}
	if !pemfile.Is(data) {
		return data, nil
	}
	var der []byte
	err := pemfile.Each(data, func(block *pem.Block) error {
		switch {
		case block.Type != "X509 CRL":
			return fmt.Errorf("a PEM block %q, not X509 CRL", block.Type)
		case der != nil:
			return errors.New("more than one PEM block; give one list at a time")
		}
		der = block.Bytes
		return nil
	})
	if err == nil && der == nil {
		err = errors.New("damaged PEM")
	}
	return der, err
}

func (r listReport) print(p printer) {
	p.field("issuer", orNone(r.Issuer))
	p.field("speaks for", r.Scope)
	p.field("number", r.Number)
	p.field("delta of", r.BaseNumber)
	p.field("issued", r.ThisUpdate)
	p.field("next", r.NextUpdate)
	p.field("entries", fmt.Sprint(r.Entries))
	p.printf("%-14s ", "current")
	if r.Current {
		p.painted(green, "yes")
	} else {
		p.painted(red, "no")
		p.printf(": %s", oneLine(r.NotCurrent))
	}
	p.printf("\n%-14s ", "signature")
	switch r.Signature {
	case signatureVerified:
		p.painted(green, "verified")
		p.printf(", by %s", orNone(r.Signer))
	case signatureInvalid:
		p.painted(red, "invalid")
		p.printf(": %s", oneLine(r.Problem))
	default:
		p.painted(yellow, "signature not verified")
		p.printf(": give the CA's certificate with --issuer")
	}
	p.printf("\n")
	s := r.Serial
	if s == nil {
		return
	}
	p.printf("\n%-14s %s\n", "serial", s.Serial)
	listed := yesNo(s.Listed)
	if s.Listed {
		listed += ", " + s.Reason + ", " + s.Date
	}
	p.field("listed", listed)
	p.printf("%-14s ", "answer")
	switch s.Answer {
	case "revoked":
		p.painted(red, "revoked")
	case "not_revoked":
		p.painted(green, "not revoked")
	default:
		p.painted(yellow, "undetermined")
		p.printf(": %s", oneLine(s.Why))
	}
	p.printf("\n")
}
