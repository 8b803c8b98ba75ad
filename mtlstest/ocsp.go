package mtlstest

import (
	"crypto"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/crypto/ocsp"
)

// maxNonce is the longest nonce in octets (RFC 9654 section 2.1).
const maxNonce = 128

var oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2} // id-pkix-ocsp-nonce

// ocspRequest is what a responder reads of a request.
type ocspRequest struct {
	serial *big.Int
	hash   crypto.Hash // of the CertID
	nonce  []byte      // nil: none
}

// parseOCSPRequest reads a request that came by POST or GET (RFC 6960 appendix
// A.1); rest is what follows the responder's own path.
func parseOCSPRequest(method string, body []byte, rest []string) (ocspRequest, error) {
	der := body
	if method != http.MethodPost {
		encoded, err := url.PathUnescape(strings.Join(rest, "/"))
		if err != nil {
			return ocspRequest{}, err
		}
		if der, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return ocspRequest{}, err
		}
	}
	request, err := ocsp.ParseRequest(der)
	if err != nil {
		return ocspRequest{}, err
	}
	nonce, err := requestNonce(der)
	if err != nil {
		return ocspRequest{}, err
	}
	return ocspRequest{request.SerialNumber, request.HashAlgorithm, nonce}, nil
}

// requestNonce returns the nonce of a request, or nil if there is none, which
// package ocsp does not look at (RFC 6960 section 4.1.1).
func requestNonce(der []byte) ([]byte, error) {
	var request struct {
		TBS struct {
			Version    int           `asn1:"explicit,tag:0,default:0,optional"`
			Requestor  asn1.RawValue `asn1:"explicit,tag:1,optional"`
			List       asn1.RawValue
			Extensions []pkix.Extension `asn1:"explicit,tag:2,optional"`
		}
		Signature asn1.RawValue `asn1:"explicit,tag:0,optional"`
	}
	if _, err := asn1.Unmarshal(der, &request); err != nil {
		return nil, err
	}
	for _, e := range request.TBS.Extensions {
		if !e.Id.Equal(oidNonce) {
			continue
		}
		nonce := []byte{}
		if rest, err := asn1.Unmarshal(e.Value, &nonce); err != nil || len(rest) > 0 {
			return nil, errors.New("malformed nonce")
		}
		return nonce, nil
	}
	return nil, nil
}
