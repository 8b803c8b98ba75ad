package main_test

import (
	"encoding/asn1"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	mtlsctl "github.com/mtlsguard/mtls/cmd/mtlsctl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

var unprintable = regexp.MustCompile(`[^\n -~]`)

// Whatever stands in a certificate's names, the text of inspect is printable and has
// no line that a name has made, and the JSON is JSON in ASCII.
func FuzzInspect(f *testing.F) {
	ca := got(testpki.NewRoot(testpki.Options{CommonName: "CA", Key: newKey("fuzz"), Serial: big.NewInt(1)}))
	base := got(ca.Issue(testpki.Options{Names: []string{"a.example"}, Key: newKey("fuzz leaf"), Serial: big.NewInt(2)})).Certificate
	upn := otherName(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("u@r\nadmitted")})
	sid := got(asn1.Marshal([]asn1.RawValue{otherName(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2, 1}, []byte("S-1-5-21-1"))}))
	f.Add(got(asn1.Marshal([]asn1.RawValue{ia5(2, "a.example"), ia5(1, "a@\x1b[2J"), ia5(6, "u:\u009b"), ia5(7, "\x01\x02\x03\x04"), upn})), sid)
	f.Add(got(asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 8, Bytes: []byte{0x2a}}, {Class: 2, Tag: 4, IsCompound: true, Bytes: base.RawIssuer}, ia5(2, "")})), []byte{})
	f.Fuzz(func(t *testing.T, san, sid []byte) {
		text, doc := mtlsctl.InspectNames(base, san, sid)
		if bad := unprintable.FindString(text + doc); bad != "" {
			t.Fatalf("%q in %q", bad, text)
		}
		if !json.Valid([]byte(doc)) {
			t.Fatalf("not JSON: %q", doc)
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "admitted") {
				t.Fatalf("a line that a name has made: %q", line)
			}
		}
	})
}

// Of a list whose signature nobody has verified, no answer comes but that it is
// undetermined, and what is printed is printable.
func FuzzList(f *testing.F) {
	dir := f.TempDir()
	newPKI().write(folder(dir))
	for _, name := range []string{"ca.crl", "shard.crl", "reasons.crl", "indirect.crl", "delta.crl", "version1.crl", "damaged.crl"} {
		f.Add(got(os.ReadFile(filepath.Join(dir, name))))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		text, answer, status, err := mtlsctl.ListText(der, big.NewInt(0xbad), testpki.Epoch)
		if err != nil {
			return
		}
		if answer != "undetermined" || status != 2 {
			t.Fatalf("%s, %d", answer, status)
		}
		if bad := unprintable.FindString(text); bad != "" {
			t.Fatalf("%q in %q", bad, text)
		}
	})
}

// A list with an issuing distribution point, whatever stands in it, is never said to
// be about all certificates when somebody asks by serial number alone.
func FuzzScope(f *testing.F) {
	for _, s := range []testpki.Scope{{}, {UserOnly: true, SomeReasons: []int{1}}, {Indirect: true, PointName: testpki.PointName{URIs: []string{"http://a/\x1b", "b", "c", "d"}}}, {PointName: testpki.PointName{Relative: "x"}}} {
		f.Add(got(s.Extension()).Value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		text, partial := mtlsctl.ScopeText(value)
		if !partial {
			t.Fatal("not partial")
		}
		if bad := unprintable.FindString(text); bad != "" {
			t.Fatalf("%q in %q", bad, text)
		}
	})
}
