package policyfile_test

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/policyfile"
)

// samples are small files in the ways in which people and programs write them.
var samples = map[string]string{
	"by hand": `# Partners of the payments API.
version: 1 # the format
rules:
  # Refused, whatever else they are.
  - name: "former: partners"
    deny: true # since May
    domains:
      - old.example
      - "*.gone.example" # all of it
    # The end of it.
    authorities:
      - partners
  - name: acme
    roles:
      - pay
      - read # only
      - "read it"
    domains: [a.example]
    origin:
      hosts:
        - e.a.example
      prefixes: [2001:db8::/56]
      published: true

  ## roles: [more]
  ## disabled: true
  - disabled: true
    name: O-x
    emails: ['*@b.example']
    subject:
      - type: O
        value: 'B "*" ''1'''
      - {type: OU, value: "x\ty"}
    authorities: [p]
    origin: none
    not_after: 2030-01-02T03:04:05Z
`,
	"lists not indented": `---
version: 1
# All of them.
rules:
# The first.
- name: a
  deny: true
  domains:
  - a.example
  - b.example
  subject:
  - type: O
    value: x
  uris:
  - "spiffe://a/*"
# The second - and last.
- domains:
  - c.example
  name: b
  account: x y
`,
	"JSON on one line": `{"version":1,"rules":[{"name":"a","deny":true,"domains":["a.example","*.b.example"]},{"name":"b,\"]}\\","domains":["c.example"],"roles":["x","y"],` +
		`"origin":{"hosts":["e.example"],"published":true},"subject":[{"type":"O","value":"\u00fc"}],"authorities":["p"],"min_rsa_bits":3072}]}`,
	"JSON on lines": "{\n\t\"version\": 1,\n\t\"rules\": [\n\t\t{\n\t\t\t\"name\": \"a\",\n\t\t\t\"domains\": [\n\t\t\t\t\"a.example\",\n\t\t\t\t\"b.example\"\n\t\t\t]\n\t\t},\n\t\t{ \"deny\": true, \"name\": \"b\", \"uris\": [ \"spiffe://a/b\" ] }\n\t]\n}\n",
	"flow":          "version: 1\nrules: [{name: a, deny: true, domains: [a.example, b.example]},\n  {name: b, domains: [c.example], min_rsa_bits: 2048, curves: [P-256], roles: [pay, read]}]\n",
	"CRLF":          "version: 1\r\nrules:\r\n  - name: a\r\n    deny: true\r\n    domains: [a.example]\r\n    # x\r\n  - name: b\r\n    domains:\r\n      - b.example\r\n",
	"deny all":      "# For now.\nversion: 1\ndeny_all: true\n",
}

// leaf is a value in rules, and where it is.
type leaf struct{ path, value string }

// leaves lists all values of rules in order: what is equal in paths has the same
// structure.
func leaves(rules []mtls.Rule) []leaf {
	var list []leaf
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if s, ok := v.Interface().(fmt.Stringer); ok && v.Kind() != reflect.Pointer {
			list = append(list, leaf{path, s.String()})
			return
		}
		switch v.Kind() {
		case reflect.Pointer:
			if v.IsNil() {
				return
			}
			o := v.Interface().(*mtls.Origin)
			list = append(list, leaf{path + ".none", fmt.Sprint(o.IsNone())})
			walk(path, v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() && v.Field(i).Kind() != reflect.Func {
					walk(path+"."+v.Type().Field(i).Name, v.Field(i))
				}
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		default:
			list = append(list, leaf{path, fmt.Sprint(v.Interface())})
		}
	}
	walk("", reflect.ValueOf(rules))
	return list
}

// changed returns how many values differ, or -1 if the structure does.
func changed(a, b []leaf) (n int, of leaf) {
	if len(a) != len(b) {
		return -1, leaf{}
	}
	for i := range a {
		if a[i].path != b[i].path {
			return -1, a[i]
		}
		if a[i] != b[i] {
			n, of = n+1, a[i]
		}
	}
	return n, of
}

// telling are bytes that mean something in YAML or JSON, and some that do not.
const telling = "\x00\t\n\r !\"#%&'*+,-./0:<>?@[\\]_`ae{|}~\x7f\x80\xc2\xff"

// eachDamage calls f with every text that differs from s by one byte: another one,
// one less, or one more. With -short the bytes are those of telling; with the race
// detector, which makes it slow, every ninth place is enough.
func eachDamage(s string, f func(at int, how, damaged string)) {
	bytes := telling
	if !testing.Short() && !raceDetector {
		for b := range 256 {
			if c := string([]byte{byte(b)}); !strings.Contains(bytes, c) {
				bytes += c
			}
		}
	}
	step := 1
	if raceDetector {
		step = 9
	}
	for i := 0; i <= len(s); i += step {
		if i < len(s) {
			f(i, "without", s[:i]+s[i+1:])
		}
		for b := range len(bytes) {
			if i < len(s) && s[i] != bytes[b] {
				f(i, "other", s[:i]+bytes[b:b+1]+s[i+1:])
			}
			f(i, "more", s[:i]+bytes[b:b+1]+s[i:])
		}
	}
}

// damageAll runs f on every damaged text, on all processors.
func damageAll(s string, f func(at int, how, damaged string)) {
	type one struct {
		at           int
		how, damaged string
	}
	work := make(chan one, 100)
	var running sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		running.Go(func() {
			for o := range work {
				f(o.at, o.how, o.damaged)
			}
		})
	}
	eachDamage(s, func(at int, how, damaged string) { work <- one{at, how, damaged} })
	close(work)
	running.Wait()
}

// refusedInPlace reports whether all problems have a place.
func refusedInPlace(err error) bool {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return false
	}
	for _, e := range list.Unwrap() {
		var p *policyfile.Error
		if !errors.As(e, &p) || p.Line < 1 || p.Column < 1 || p.File != "policy.yaml" || strings.HasPrefix(p.Problem, "reading failed") {
			return false
		}
	}
	return true
}

// Whatever happens to one byte of a file, no rule, field or element is lost, comes
// in or moves.
func TestOneDamagedByteChangesOneValueAtMost(t *testing.T) {
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) {
			rules, err := policyfile.Parse([]byte(sample), "policy.yaml")
			require.NoError(t, err)
			want := leaves(rules)
			var same, one, refused atomic.Int64
			damageAll(sample, func(at int, how, damaged string) {
				got, err := policyfile.Parse([]byte(damaged), "policy.yaml")
				if err != nil {
					refused.Add(1)
					if !refusedInPlace(err) {
						t.Errorf("%s at %d of %q: no place: %v", how, at, damaged, err)
					}
					return
				}
				n, of := changed(want, leaves(got))
				switch {
				case n == 0:
					same.Add(1)
				case n == 1 && near(sample, at, of):
					one.Add(1)
				default:
					t.Errorf("%s at %d: %d values changed (%v):\n%s", how, at, n, of, damaged)
				}
			})
			t.Logf("the same: %d; one value: %d; refused: %d", same.Load(), one.Load(), refused.Load())
			require.NotZero(t, refused.Load())
		})
	}
}

// near reports whether a value stands in the line of the damage.
func near(s string, at int, of leaf) bool {
	start := strings.LastIndexByte(s[:at], '\n') + 1
	line, _, _ := strings.Cut(s[start:], "\n")
	if strings.Contains(line, of.value) {
		return true
	}
	// Written in another way in the file.
	return strings.ContainsAny(line, `\'`) || strings.Contains(of.path, ".Not")
}

// A sealed file with one damaged byte, or cut anywhere, is refused or says the same.
func TestSealedFileIsNeverTakenForAnother(t *testing.T) {
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) {
			sealed := string(policyfile.Seal([]byte(sample)))
			rules, err := policyfile.Parse([]byte(sealed), "policy.yaml")
			require.NoError(t, err)
			want := leaves(rules)
			check := func(at int, how, damaged string) {
				got, err := policyfile.Parse([]byte(damaged), "policy.yaml")
				if err != nil {
					if !refusedInPlace(err) {
						t.Errorf("%s at %d of %q: no place: %v", how, at, damaged, err)
					}
					return
				}
				if n, of := changed(want, leaves(got)); n != 0 {
					t.Errorf("%s at %d: %d values changed (%v):\n%s", how, at, n, of, damaged)
				}
			}
			damageAll(sealed, check)
			for i := range sealed {
				check(i, "cut", sealed[:i])
			}
		})
	}
}

// Where a file without a seal is cut, it is refused or says a part of the same,
// which is why there are seals.
func TestCutFile(t *testing.T) {
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) {
			rules, err := policyfile.Parse([]byte(sample), "policy.yaml")
			require.NoError(t, err)
			whole := map[leaf]bool{}
			for _, l := range leaves(rules) {
				whole[l] = true
			}
			for i := range sample {
				got, err := policyfile.Parse([]byte(sample[:i]), "policy.yaml")
				if err != nil {
					require.True(t, refusedInPlace(err), "%v", err)
					continue
				}
				if i < len(sample)-1 {
					require.Equal(t, byte('\n'), sample[i-1], "cut in a line: %q", sample[:i])
					require.NotContains(t, name, "JSON")
				}
				for _, l := range leaves(got) {
					if !whole[l] {
						require.Contains(t, []string{"false", "0", "", "0001-01-01 00:00:00 +0000 UTC"}, l.value, "%v in %q", l, sample[:i])
					}
				}
			}
		})
	}
}

func TestSeal(t *testing.T) {
	plain := []byte(samples["deny all"])
	sealed := policyfile.Seal(plain)
	require.Equal(t, sealed, policyfile.Seal(sealed), "sealing again changes nothing")
	require.True(t, strings.HasPrefix(string(sealed), "# sealed\n"))
	lines := strings.Split(strings.TrimSuffix(string(sealed), "\n"), "\n")
	require.Regexp(t, `^# sha256: [0-9a-f]{64}$`, lines[len(lines)-1])

	for name, c := range map[string]struct {
		text  string
		line  int
		wants string
	}{
		"changed":                   {strings.Replace(string(sealed), "For now", "For ever", 1), 5, "does not fit"},
		"no hash":                   {"version: 1\ndeny_all: true\n# sha256: abc\n", 3, "damaged"},
		"seal in the middle":        {string(sealed) + "# more\n", 6, "no seal"},
		"seal in the middle, alone": {strings.TrimPrefix(string(policyfile.Seal(plain)), "# sealed\n") + "# more\n", 4, "last line"},
		"seal missing":              {strings.Join(lines[:len(lines)-1], "\n") + "\n", 4, "no seal"},
		"capital letters":           {strings.Replace(string(sealed), lines[len(lines)-1], strings.ToUpper(lines[len(lines)-1]), 1), 5, "no seal"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policyfile.Parse([]byte(c.text), "policy.yaml")
			var p *policyfile.Error
			require.ErrorAs(t, err, &p)
			require.Equal(t, c.line, p.Line, "%v", err)
			require.ErrorContains(t, err, c.wants)
		})
	}
	t.Run("a last line that is right is enough", func(t *testing.T) {
		_, err := policyfile.Parse(policyfile.Seal(plain), "policy.yaml")
		require.NoError(t, err)
		_, err = policyfile.Parse([]byte("version: 1\ndeny_all: true\n# sha256: 2df4ec8dbcf1cf5e1e3d11e7c9fb0aa6ba8bd7bd6a52b8d01ec1fe0cf3eda1f4\n"), "policy.yaml")
		require.ErrorContains(t, err, "does not fit")
	})
}
