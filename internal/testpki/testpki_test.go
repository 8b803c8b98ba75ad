package testpki_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/testpki"
)

type world struct {
	root, intermediate *testpki.CA
	leaf               *testpki.Leaf
}

func newWorld(t *testing.T, leaf testpki.Options) world {
	t.Helper()
	root, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	intermediate, err := root.NewIntermediate(testpki.Options{})
	require.NoError(t, err)
	l, err := intermediate.Issue(leaf)
	require.NoError(t, err)
	return world{root, intermediate, l}
}

func verify(leaf *x509.Certificate, root *x509.Certificate, intermediates ...*x509.Certificate) ([][]*x509.Certificate, error) {
	roots, pool := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range intermediates {
		pool.AddCert(c)
	}
	return leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: pool, CurrentTime: testpki.Epoch, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func TestDefaultsVerifyAtEpoch(t *testing.T) {
	w := newWorld(t, testpki.Options{Names: []string{"api.acme.example"}})
	chains, err := verify(w.leaf.Certificate, w.root.Certificate, w.leaf.Chain...)
	require.NoError(t, err)
	require.Len(t, chains, 1)
	require.Len(t, chains[0], 3)
	require.Equal(t, []*x509.Certificate{w.intermediate.Certificate}, w.leaf.Chain)
	require.Equal(t, []string{"api.acme.example"}, w.leaf.Certificate.DNSNames)
	require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, w.leaf.Certificate.ExtKeyUsage)
	require.Equal(t, x509.KeyUsageDigitalSignature, w.leaf.Certificate.KeyUsage)
	require.True(t, w.leaf.Certificate.BasicConstraintsValid)
	require.False(t, w.leaf.Certificate.IsCA)
	require.Positive(t, w.leaf.Certificate.SerialNumber.Sign())
	require.Equal(t, testpki.Epoch.AddDate(2, 0, 0), w.leaf.Certificate.NotAfter)
	require.Equal(t, testpki.Epoch.AddDate(-5, 0, 0), w.root.Certificate.NotBefore)
}

func TestOptionsReachTheCertificate(t *testing.T) {
	spiffe := &url.URL{Scheme: "spiffe", Host: "acme.example", Path: "/x"}
	odd := []string{"good.example\x00.evil", "*.acme.example", "UPPER.example.", "", "a..b", "xn--", "1.2.3.4"}
	extra := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: asn1.NullBytes}
	w := newWorld(t, testpki.Options{
		CommonName: "acme", Names: odd, Serial: big.NewInt(7), ExtKeyUsage: []x509.ExtKeyUsage{}, KeyUsage: x509.KeyUsageKeyAgreement,
		NotBefore: testpki.Epoch, NotAfter: testpki.Epoch.Add(time.Hour), Extra: []pkix.Extension{extra},
		Template: func(c *x509.Certificate) {
			c.EmailAddresses = []string{"a@acme.example"}
			c.URIs = []*url.URL{spiffe}
			c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)}
		},
	})
	c := w.leaf.Certificate
	require.Equal(t, odd, c.DNSNames)
	require.Equal(t, []string{"a@acme.example"}, c.EmailAddresses)
	require.Equal(t, "spiffe://acme.example/x", c.URIs[0].String())
	require.True(t, c.IPAddresses[0].Equal(net.IPv4(192, 0, 2, 1)))
	require.Equal(t, int64(7), c.SerialNumber.Int64())
	require.Empty(t, c.ExtKeyUsage)
	require.Equal(t, x509.KeyUsageKeyAgreement, c.KeyUsage)
	require.Equal(t, testpki.Epoch.Add(time.Hour), c.NotAfter)
	require.Equal(t, "acme", c.Subject.CommonName)
	require.Contains(t, c.Extensions, extra)
}

func TestSANIsCriticalOnlyWithoutSubject(t *testing.T) {
	for cn, critical := range map[string]bool{"": true, "acme": false} {
		c := newWorld(t, testpki.Options{CommonName: cn, Names: []string{"a.example"}}).leaf.Certificate
		for _, e := range c.Extensions {
			if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
				require.Equal(t, critical, e.Critical)
			}
		}
		require.Empty(t, c.UnhandledCriticalExtensions)
	}
}

func TestPointersGoIntoWhatIsIssuedFromThenOn(t *testing.T) {
	w := newWorld(t, testpki.Options{})
	w.intermediate.CRLURLs = []string{"http://crl.example/a.crl", "http://crl.example/b.crl"}
	w.intermediate.OCSPURLs = []string{"http://ocsp.example"}
	leaf, err := w.intermediate.Issue(testpki.Options{})
	require.NoError(t, err)
	require.Equal(t, w.intermediate.CRLURLs, leaf.Certificate.CRLDistributionPoints)
	require.Equal(t, w.intermediate.OCSPURLs, leaf.Certificate.OCSPServer)
	require.Empty(t, w.leaf.Certificate.CRLDistributionPoints)
	require.Empty(t, w.intermediate.Certificate.OCSPServer)
}

func TestCrossSignedChainVerifiesUnderTheOtherRoot(t *testing.T) {
	w := newWorld(t, testpki.Options{})
	other, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	cross, err := other.CrossSign(w.intermediate, testpki.Options{})
	require.NoError(t, err)
	require.Equal(t, w.intermediate.Certificate.RawSubject, cross.RawSubject)
	_, err = verify(w.leaf.Certificate, other.Certificate, w.leaf.Chain...)
	require.Error(t, err)
	_, err = verify(w.leaf.Certificate, other.Certificate, cross)
	require.NoError(t, err)
}

func TestTLSAndPEM(t *testing.T) {
	w := newWorld(t, testpki.Options{Names: []string{"api.acme.example"}})
	cert, key := w.leaf.PEM()
	pair, err := tls.X509KeyPair(cert, key)
	require.NoError(t, err)
	require.Equal(t, w.leaf.TLS().Certificate, pair.Certificate)
	block, rest := pem.Decode(w.root.PEM())
	require.Empty(t, rest)
	require.Equal(t, w.root.Certificate.Raw, block.Bytes)

	roots := x509.NewCertPool()
	roots.AddCert(w.root.Certificate)
	client, server := net.Pipe()
	now := func() time.Time { return testpki.Epoch }
	s := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, Time: now})
	c := tls.Client(client, &tls.Config{Certificates: []tls.Certificate{w.leaf.TLS()}, Time: now, InsecureSkipVerify: true}) // the server is what is tested
	go func() {
		c.Handshake()
		io.Copy(io.Discard, c)
	}()
	require.NoError(t, s.Handshake())
	require.Equal(t, w.leaf.Certificate.Raw, s.ConnectionState().PeerCertificates[0].Raw)
	server.Close()
}

func TestCRL(t *testing.T) {
	w := newWorld(t, testpki.Options{})
	stranger, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	idp, err := testpki.IssuingDistributionPoint(true, false, "http://crl.example/1", "http://crl.example/2")
	require.NoError(t, err)
	der, err := w.intermediate.CRL(testpki.CRLOptions{
		Number: big.NewInt(9), Extra: []pkix.Extension{idp},
		Entries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: testpki.Epoch, ReasonCode: 1}},
	})
	require.NoError(t, err)
	list, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	require.NoError(t, list.CheckSignatureFrom(w.intermediate.Certificate))
	require.Equal(t, testpki.Epoch.Add(-time.Hour), list.ThisUpdate)
	require.Equal(t, testpki.Epoch.Add(24*time.Hour), list.NextUpdate)
	require.Equal(t, int64(9), list.Number.Int64())
	require.Equal(t, int64(5), list.RevokedCertificateEntries[0].SerialNumber.Int64())
	var point struct {
		Name struct {
			Full []asn1.RawValue `asn1:"optional,tag:0"`
		} `asn1:"optional,tag:0"`
		User bool `asn1:"optional,tag:1"`
		CA   bool `asn1:"optional,tag:2"`
	}
	rest, err := asn1.Unmarshal(idp.Value, &point)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.True(t, idp.Critical)
	require.True(t, point.User)
	require.False(t, point.CA)
	require.Len(t, point.Name.Full, 2)
	require.Equal(t, "http://crl.example/2", string(point.Name.Full[1].Bytes))

	forged, err := w.intermediate.CRL(testpki.CRLOptions{Signer: stranger})
	require.NoError(t, err)
	list, err = x509.ParseRevocationList(forged)
	require.NoError(t, err)
	require.Equal(t, w.intermediate.Certificate.RawSubject, list.RawIssuer)
	require.Error(t, list.CheckSignatureFrom(w.intermediate.Certificate))
}

func TestOCSPAgreesWithXCrypto(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	rsaRoot, err := testpki.NewRoot(testpki.Options{Key: rsaKey})
	require.NoError(t, err)
	edRoot, err := testpki.NewRoot(testpki.Options{Key: edKey})
	require.NoError(t, err)
	root, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	responder, err := root.Issue(testpki.Options{CommonName: "OCSP", ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}})
	require.NoError(t, err)

	for _, tc := range []struct {
		name string
		ca   *testpki.CA
		o    testpki.OCSPOptions
	}{
		{"good", root, testpki.OCSPOptions{}},
		{"unknown", root, testpki.OCSPOptions{Status: ocsp.Unknown}},
		{"revoked", root, testpki.OCSPOptions{Status: ocsp.Revoked, Reason: 1, RevokedAt: testpki.Epoch.Add(-48 * time.Hour)}},
		{"delegated", root, testpki.OCSPOptions{Responder: responder}},
		{"SHA-256 CertID, responder by key", root, testpki.OCSPOptions{Hash: crypto.SHA256, ResponderByKey: true}},
		{"no nextUpdate", root, testpki.OCSPOptions{NoNextUpdate: true}},
		{"RSA", rsaRoot, testpki.OCSPOptions{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.o.Serial = big.NewInt(77)
			der, err := tc.ca.OCSP(tc.o)
			require.NoError(t, err)
			r, err := ocsp.ParseResponse(der, tc.ca.Certificate)
			require.NoError(t, err)
			require.Equal(t, tc.o.Status, r.Status)
			require.Equal(t, int64(77), r.SerialNumber.Int64())
			require.Equal(t, testpki.Epoch.Add(-time.Hour), r.ThisUpdate)
			require.Equal(t, testpki.Epoch.Add(-time.Hour), r.ProducedAt)
			require.Equal(t, tc.o.NoNextUpdate, r.NextUpdate.IsZero())
			require.Equal(t, tc.o.Responder != nil, r.Certificate != nil)
			require.Equal(t, tc.o.ResponderByKey, r.ResponderKeyHash != nil)
			if tc.o.Status == ocsp.Revoked {
				require.Equal(t, testpki.Epoch.Add(-48*time.Hour), r.RevokedAt)
				require.Equal(t, 1, r.RevocationReason)
			}
			stranger, err := testpki.NewRoot(testpki.Options{})
			require.NoError(t, err)
			_, err = ocsp.ParseResponse(der, stranger.Certificate)
			require.Error(t, err)
		})
	}

	// x/crypto/ocsp knows no Ed25519; that the response is signed at all is what counts here.
	_, err = edRoot.OCSP(testpki.OCSPOptions{Serial: big.NewInt(1)})
	require.NoError(t, err)
	_, err = root.OCSP(testpki.OCSPOptions{})
	require.Error(t, err)
	_, err = root.OCSP(testpki.OCSPOptions{Serial: big.NewInt(1), Status: 9})
	require.Error(t, err)
}

func TestOCSPCertIDIsThatOfXCrypto(t *testing.T) {
	w := newWorld(t, testpki.Options{})
	der, err := w.intermediate.OCSP(testpki.OCSPOptions{Serial: w.leaf.Certificate.SerialNumber})
	require.NoError(t, err)
	request, err := ocsp.CreateRequest(w.leaf.Certificate, w.intermediate.Certificate, nil)
	require.NoError(t, err)
	parsed, err := ocsp.ParseRequest(request)
	require.NoError(t, err)
	require.True(t, bytes.Contains(der, parsed.IssuerKeyHash))
	require.True(t, bytes.Contains(der, parsed.IssuerNameHash))
}

func TestIssuingIsConcurrent(t *testing.T) {
	w := newWorld(t, testpki.Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			leaf, err := w.intermediate.Issue(testpki.Options{Names: []string{"a.example"}})
			if err == nil {
				_, err = w.intermediate.OCSP(testpki.OCSPOptions{Serial: leaf.Certificate.SerialNumber})
			}
			if err == nil {
				_, err = w.intermediate.CRL(testpki.CRLOptions{})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
