package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"time"
)

// What the tests, which are another package, reach.
var (
	Main    = main
	Run     = run
	NewRoot = newRoot

	ParseServers = parseServers
	ReplaceFile  = replaceFile

	LoadCertificates = loadCertificates

	QuotedASCII = quotedASCII
)

// Printed is what a printer makes of a text that nobody has quoted.
func Printed(text string) string {
	var b strings.Builder
	printer{w: &b, colour: true}.painted(red, "%s", text)
	return b.String()
}

// InspectNames prints a certificate with other values of the extensions that
// mtlsctl reads itself, as text and as JSON.
func InspectNames(base *x509.Certificate, san, sid []byte) (text, json string) {
	c := *base
	c.Extensions = []pkix.Extension{{Id: oidSAN, Value: san}, {Id: oidSID, Value: sid}}
	r := inspect([]*x509.Certificate{&c}, c.NotBefore)
	var b, j strings.Builder
	r.print(printer{w: &b})
	if err := writeJSON(&j, r); err != nil {
		panic(err)
	}
	return b.String(), j.String()
}

// ListText prints a list as crl does without an issuer, and says what became of the
// question for a serial number.
func ListText(der []byte, serial *big.Int, now time.Time) (text, answer string, status int, err error) {
	r, status, err := examineList("list", der, question{serial: serial}, now)
	if err != nil {
		return "", "", status, err
	}
	var b strings.Builder
	r.print(printer{w: &b})
	return b.String(), r.Serial.Answer, status, nil
}

// ScopeText is what crl says of an issuing distribution point.
func ScopeText(value []byte) (text string, partial bool) {
	p := readPart(&x509.RevocationList{Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Value: value}}})
	return p.text(), p.partial
}
