package pemfile_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/pemfile"
)

// content is DER of a length that is usual for certificates.
var content = bytes.Repeat([]byte{0x30, 0x82, 0x01, 0xf3, 0x05, 0x9c}, 60)

func block() string { return string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: content})) }

// count returns how many blocks a file has.
func count(data string) (n int, err error) {
	err = pemfile.Each([]byte(data), func(b *pem.Block) error {
		n++
		if b.Type != "X" || !bytes.Equal(b.Bytes, content) {
			return errors.New("another block")
		}
		return nil
	})
	return n, err
}

func TestWhatCouldBeABlockIsNoComment(t *testing.T) {
	b := block()
	bare := base64.StdEncoding.EncodeToString(content)
	short := func(n int) string {
		var lines strings.Builder
		for rest := bare; len(rest) > n; rest = rest[n:] {
			lines.WriteString(rest[:n] + "\n")
		}
		return lines.String()
	}
	wrapped := strings.Join(strings.Split(b, "\n")[1:4], "\n") + "\n"
	for name, other := range map[string]string{
		"DER":                             string(content),
		"other dashes":                    strings.ReplaceAll(b, "-----", "\u2014\u2013"),
		"four dashes":                     strings.ReplaceAll(b, "-----", "----"),
		"the first dashes damaged":        strings.Replace(b, "-----", "----", 1),
		"the last dashes damaged":         strings.TrimSuffix(b, "-\n") + "\n",
		"a short block, other dashes":     "---- BEGIN X ----\nAAAA\n---- END X ----\n",
		"a short block, stars":            "*** BEGIN X ***\nAAAA\n*** END X ***\n",
		"stars behind an end of old":      "x\r*** BEGIN X ***\rAAAA\r",
		"an end alone":                    "END X\n",
		"base64":                          bare + "\n",
		"base64 in lines":                 wrapped,
		"base64, quoted as in mail":       "> " + strings.ReplaceAll(wrapped, "\n", "\n> ") + "\n",
		"base64, indented":                "\t" + strings.ReplaceAll(wrapped, "\n", "\n\t") + "\n",
		"base64 as a value":               "certificate: \"" + bare + "\"\n",
		"base64 in short lines":           short(16),
		"base64 in lines of 39":           short(39),
		"base64 in short lines, quoted":   "> " + strings.ReplaceAll(strings.TrimSuffix(short(32), "\n"), "\n", "\n> ") + "\n",
		"base64 in short lines, apart":    strings.ReplaceAll(short(32), "\n", "\n\n"),
		"base64 in a program":             "\"" + strings.ReplaceAll(strings.TrimSuffix(short(32), "\n"), "\n", "\",\n\"") + "\"\n",
		"base64 in a makefile":            strings.ReplaceAll(short(32), "\n", " \\\n"),
		"base64, lines of old":            strings.ReplaceAll(short(32), "\n", "\r"),
		"base64 behind a URL, JSON":       `{"aia":"http://ca.example/ca.cer","certificate":"` + bare + "\"}\n",
		"base64 behind a URL, CSV":        "http://ca.example/ca.cer," + bare + "\n",
		"base64 in a URL":                 "X-Cert: https://x.example/?cert=" + bare + "\n",
		"hexadecimal":                     hex.EncodeToString(content) + "\n",
		"dashes":                          "-----\n",
		"dashes in a line":                "partner: ---- BEGIN X\n",
		"a NUL":                           "a\x00b\n",
		"an escape sequence":              "\x1b[2K\n",
		"bytes that are no UTF-8":         "M\xfcller\n",
		"text that is turned":             "\u202e\n",
		"UTF-16":                          "\xff\xfe-\x00-\x00-\x00-\x00-\x00",
		"a block that has not its end":    b[:len(b)-10] + "\n",
		"a block whose content is broken": strings.Replace(b, "\n", "\n*", 1),
	} {
		for place, file := range map[string]string{"before": other + b, "between": b + other + b, "behind": b + other, "in the second gap": b + b + other + b} {
			t.Run(name+"/"+place, func(t *testing.T) {
				_, err := count(file)
				require.Error(t, err)
				require.NotContains(t, err.Error(), "another block")
			})
		}
	}
}

// TestContentIsNeverAComment: a block that has lost both its lines of dashes, whatever
// its content, is found by what is left.
func TestContentIsNeverAComment(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := block()
	for range 2000 {
		der := make([]byte, 200+r.IntN(800))
		for i := range der {
			der[i] = byte(r.Uint32())
		}
		lines := strings.Split(string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: der})), "\n")
		_, err := count(b + strings.Join(lines[1:len(lines)-2], "\n") + "\n" + b)
		require.Error(t, err, der)
	}
}

// TestDERWithDashesIsNoPEM: five hyphens may be in a name, or in a signature by chance.
func TestDERWithDashesIsNoPEM(t *testing.T) {
	der := append([]byte{0x30, 0x82, 0x01, 0x02}, bytes.Repeat([]byte("-"), 0x102)...)
	require.False(t, pemfile.Is(der))
	require.True(t, pemfile.Is(der[:len(der)-1]))
	require.True(t, pemfile.Is(append(der, '\n')))
}

func TestUsualCommentsAreTaken(t *testing.T) {
	b := block()
	for name, text := range map[string]string{
		"nothing":        "",
		"blank lines":    "\n\r\n \t\n",
		"a name":         "# Acme GmbH, Zürich – the end of 2026\n",
		"s_client":       " 0 s:C=US, O=Acme, CN=api.acme.example\n   i:C=US, O=Acme, CN=Acme CA 1\n   a:PKEY: id-ecPublicKey, 256 (bit); sigalg: ecdsa-with-SHA256\n   v:NotBefore: Jan  1 00:00:00 2026 GMT; NotAfter: Jan  1 00:00:00 2027 GMT\n---\n",
		"openssl x509":   "subject=C = US, O = Acme, CN = api.acme.example\nissuer=CN = Acme CA\nserial=5F3C00112233445566778899AABBCCDDEEFF0011\nsha256 Fingerprint=AB:CD:EF:00\n",
		"openssl pkcs12": "Bag Attributes\n    friendlyName: api.acme.example\n    localKeyID: 54 69 6D 65 20 31 36 \nKey Attributes: <No Attributes>\n",
		"-text": "Certificate:\n    Data:\n        Version: 3 (0x2)\n        Serial Number:\n            5f:3c:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11\n" +
			"        Signature Algorithm: sha256WithRSAEncryption\n        Subject Public Key Info:\n            Public Key Algorithm: rsaEncryption\n                Modulus:\n" +
			"                    00:c2:1f:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:\n        X509v3 extensions:\n            X509v3 CRL Distribution Points: \n                Full Name:\n" +
			"                  URI:http://crl.acme.example/partners/one.crl\n    Signature Value:\n        3e:02:11\n",
		"a bundle of browsers": "Acme Global Root Certification Authority of the Year G4\n=======================================================\n## SHA256: 1bf458412568e134a4514f5e170a328d11091e071c7110955c9884ed87972ac9\n# Serial: 1266423423423423423423423423423423423423423423423\n",
		"a long URL":           "                  URI:http://vault.acme.example/v1/partners/pki/intermediate/production/crl\n",
		"URLs of CAs": "        X509v3 Issuing Distribution Point: critical\n            Full Name:\n              URI:http://crl.sectigo.com/SectigoPublicServerAuthenticationRootR46.crl\n" +
			"                CPS: https://www.microsoft.com/pkiops/crl/MicrosoftAzureRSATLSIssuingCA03/x?Aaaaaaaaaaaaaaaaaaaaaaaaaa0\n",
		"words":       "Zertifizierungsstelle\nCertificateAuthorities\nAuthorisedPartners\n",
		"paths":       "/srv/pki/Partners2027\n/srv/pki/Partners2028\n",
		"names":       "AcmePaymentsClient2027\nAcmeReportsClient2027\n",
		"capitals":    "URI:HTTP://crl.sectigo.com/SectigoPublicServerAuthenticationRootR46.crl\n",
		"a path":      "# /home/admin/certificates/partners/acme/client.pem\n/srv/certificates/partners/acme/production/client\n",
		"END a word":  "        Subject: O=ACME, CN=FRONT END CA, OU=BACK-END\nvalid until the END of 2027\n",
		"BEGIN, END":  "# BEGIN partners of 2027\n# END partners\n",
		"many words":  "certificatesofpartners/certificatesofpartners/Certificates/2027\n",
		"one of many": "http://pki.acme.example/InterneDienste2027/Zertifikate2027/Sperrlisten/2027/Produktion\n",
	} {
		t.Run(name, func(t *testing.T) {
			n, err := count(text + b + text + b + text)
			require.NoError(t, err)
			require.Equal(t, 2, n)
		})
	}
}

func TestAFileMayBeginWithAByteOrderMark(t *testing.T) {
	n, err := count("\ufeff# Partners\n" + block())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = count(block() + "\ufeff# Partners\n" + block())
	require.Error(t, err)
}

func TestEachStopsAtTheFirstError(t *testing.T) {
	stop, n := errors.New("stop"), 0
	require.ErrorIs(t, pemfile.Each([]byte(block()+block()), func(*pem.Block) error { n++; return stop }), stop)
	require.Equal(t, 1, n)
	require.True(t, pemfile.Is([]byte(block())))
	require.False(t, pemfile.Is(content))
}
