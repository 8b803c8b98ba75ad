package fetch_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/fetch"
)

const (
	modified = "Thu, 01 Jan 2026 00:00:00 GMT"
	later    = "Fri, 02 Jan 2026 00:00:00 GMT"
)

func TestConditionalRequest(t *testing.T) {
	var asked []http.Header
	content, tag, at := evidence, `"v1"`, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header)
		w.Header().Set("Content-Type", "application/pkix-crl")
		if tag != "" {
			w.Header().Set("ETag", tag)
		}
		http.ServeContent(w, r, "", at, bytes.NewReader(content)) // evaluates the conditions as RFC 9110 section 13 says
	})
	c := fetch.New(fetch.Options{AllowNetworks: loopback})
	request := fetch.Request{URL: s.URL, Limit: limit}

	first, err := c.Do(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, &fetch.Response{Body: evidence, ETag: `"v1"`, LastModified: modified}, first)
	require.NotContains(t, asked[0], "If-None-Match")
	require.NotContains(t, asked[0], "If-Modified-Since")

	request.ETag, request.LastModified = first.ETag, first.LastModified
	again, err := c.Do(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, &fetch.Response{ETag: `"v1"`, LastModified: modified, NotModified: true}, again)
	require.Equal(t, `"v1"`, asked[1].Get("If-None-Match"))
	require.Equal(t, modified, asked[1].Get("If-Modified-Since"))

	content, tag = []byte("a newer one"), `"v2"`
	newer, err := c.Do(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, &fetch.Response{Body: content, ETag: `"v2"`, LastModified: modified}, newer)

	tag, request.ETag = "", ""
	byDate, err := c.Do(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, &fetch.Response{LastModified: modified, NotModified: true}, byDate)
	at = at.Add(time.Hour)
	byDate, err = c.Do(t.Context(), request)
	require.NoError(t, err)
	require.False(t, byDate.NotModified)
	require.Equal(t, content, byDate.Body)
}

// A 304 says that the body is the one that was asked about. To keep the new validator of another body with the old body would ask about the new one for
// ever and never see it.
func TestNotModifiedKeepsTheValidatorsOfTheBody(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v2"`)
		w.Header().Set("Last-Modified", later)
		w.WriteHeader(http.StatusNotModified)
	})
	res, err := fetch.New(fetch.Options{AllowNetworks: loopback}).Do(t.Context(), fetch.Request{URL: s.URL, Limit: limit, ETag: `"v1"`, LastModified: modified})
	require.NoError(t, err)
	require.Equal(t, &fetch.Response{ETag: `"v1"`, LastModified: modified, NotModified: true}, res)
}

// A 304 to a caller who has nothing would be an empty answer without an error.
func TestNotModifiedWithoutAQuestionIsRefused(t *testing.T) {
	asked := 0
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("If-None-Match") != "" || r.Header.Get("If-Modified-Since") != "" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.WriteHeader(http.StatusNotModified)
	})
	c := fetch.New(fetch.Options{AllowNetworks: loopback})
	for i, r := range []fetch.Request{
		{},
		{ETag: "v1", LastModified: "yesterday"},
		{ETag: "\"v1\"\r\nX-Evil: 1"},
		{ETag: "\"a\x7fb\""},
		{ETag: `"` + strings.Repeat("a", 255) + `"`},
		{ETag: `"v1"`, LastModified: modified, Body: []byte("ask")},
	} {
		r.URL, r.Limit = s.URL, limit
		res, err := c.Do(t.Context(), r)
		var status *fetch.StatusError
		require.ErrorAs(t, err, &status)
		require.Equal(t, http.StatusNotModified, status.Code, "no validator was sent")
		require.Nil(t, res)
		require.Equal(t, i+1, asked)
	}
}

func TestOtherStatusesToAConditionalRequestAreRefused(t *testing.T) {
	for _, code := range []int{204, 206, 300, 303, 305, 404, 412, 500} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) })
		_, err := fetch.New(fetch.Options{AllowNetworks: loopback}).Do(t.Context(), fetch.Request{URL: s.URL, Limit: limit, ETag: `"v1"`})
		require.Error(t, err, code)
	}
}

func TestValidatorsOfAServer(t *testing.T) {
	c := fetch.New(fetch.Options{AllowNetworks: loopback})
	of := func(t *testing.T, name string, values []string) *fetch.Response {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()[name] = values
			good(w, r)
		})
		res, err := c.Do(t.Context(), fetch.Request{URL: s.URL, Limit: limit})
		require.NoError(t, err, "whatever its validators are, the body counts")
		return res
	}
	for _, tc := range []struct {
		name   string
		values []string
		want   string
	}{
		{"strong", []string{`"abc"`}, `"abc"`},
		{"weak", []string{`W/"abc"`}, ""},
		{"empty opaque tag", []string{`""`}, `""`},
		{"comma", []string{`"a,b"`}, `"a,b"`},
		{"octets above ASCII", []string{"\"\x80\xff\""}, "\"\x80\xff\""},
		{"256 octets", []string{`"` + strings.Repeat("a", 254) + `"`}, `"` + strings.Repeat("a", 254) + `"`},

		{"257 octets", []string{`"` + strings.Repeat("a", 255) + `"`}, ""},
		{"none", nil, ""},
		{"without quotes", []string{`abc`}, ""},
		{"asterisk, which matches everything", []string{`*`}, ""},
		{"one quote", []string{`"`}, ""},
		{"only opened", []string{`"abc`}, ""},
		{"only closed", []string{`abc"`}, ""},
		{"quote inside", []string{`"a"b"`}, ""},
		{"two tags", []string{`"a","b"`}, ""},
		{"space inside", []string{`"a b"`}, ""},
		{"tab inside", []string{"\"a\tb\""}, ""},
		{"weak in lower case", []string{`w/"abc"`}, ""},
		{"weak without a tag", []string{`W/`}, ""},
		{"two lines", []string{`"a"`, `"b"`}, ""},
	} {
		t.Run("ETag: "+tc.name, func(t *testing.T) {
			res := of(t, "Etag", tc.values)
			require.Equal(t, tc.want, res.ETag)
			require.Empty(t, res.LastModified)
		})
	}
	for _, tc := range []struct {
		name   string
		values []string
		want   string
	}{
		{"as preferred", []string{modified}, modified},
		{"as in RFC 850", []string{"Thursday, 01-Jan-26 00:00:00 GMT"}, "Thursday, 01-Jan-26 00:00:00 GMT"},
		{"as in ANSI C", []string{"Thu Jan  1 00:00:00 2026"}, "Thu Jan  1 00:00:00 2026"},

		{"none", nil, ""},
		{"a number", []string{"1767225600"}, ""},
		{"no time", []string{"yesterday"}, ""},
		{"ISO 8601", []string{"2026-01-01T00:00:00Z"}, ""},
		{"two lines", []string{modified, later}, ""},
		{"long", []string{"Thu, 01 Jan 2026 00:00:00." + strings.Repeat("0", 300) + " GMT"}, ""},
	} {
		t.Run("Last-Modified: "+tc.name, func(t *testing.T) {
			res := of(t, "Last-Modified", tc.values)
			require.Equal(t, tc.want, res.LastModified)
			require.Empty(t, res.ETag)
		})
	}
}

// FuzzValidators: nothing that a server says panics or fails the fetch, and what is kept can be sent as it is and is at most 256 octets.
// Two lists of one second have one date, and so would a revocation in the same
// second be no change.
func TestYoungDateIsNoValidator(t *testing.T) {
	for age, kept := range map[time.Duration]bool{0: false, 59 * time.Second: false, time.Minute: true} {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Last-Modified", modified)
			w.Header().Set("Date", at.Add(age).Format(http.TimeFormat))
			good(w, r)
		})
		res, err := fetch.New(fetch.Options{AllowNetworks: loopback}).Do(t.Context(), fetch.Request{URL: s.URL, Limit: limit})
		require.NoError(t, err)
		require.Equal(t, kept, res.LastModified != "", "%v", age)
	}
}

func FuzzValidators(f *testing.F) {
	f.Add(`"abc"`, modified)
	f.Add(`W/""`, "Thursday, 01-Jan-26 00:00:00 GMT")
	f.Add("\"\r\n", "Thu Jan  1 00:00:00 2026")
	f.Fuzz(func(t *testing.T, tag, date string) {
		var sent []http.Header
		c := fetch.New(fetch.Options{Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.Header)
			h := http.Header{"Etag": {tag}, "Last-Modified": {date}}
			return &http.Response{StatusCode: 200, Header: h, Body: &scripted{portions: []int{1}}, ContentLength: 1, Request: r}, nil
		})}})
		res, err := c.Do(t.Context(), fetch.Request{URL: "http://crl.example/", Limit: 1})
		require.NoError(t, err)
		require.Contains(t, []string{"", tag}, res.ETag)
		require.Contains(t, []string{"", date}, res.LastModified)
		for _, kept := range []string{res.ETag, res.LastModified} {
			require.LessOrEqual(t, len(kept), 256)
			require.False(t, strings.ContainsFunc(kept, func(r rune) bool { return r < ' ' || r == 0x7f }), "%q", kept)
		}
		_, err = c.Do(t.Context(), fetch.Request{URL: "http://crl.example/", Limit: 1, ETag: tag, LastModified: date})
		require.NoError(t, err)
		if res.ETag != "" {
			require.Equal(t, res.ETag, sent[1].Get("If-None-Match"))
		}
		if res.LastModified != "" {
			require.Equal(t, res.LastModified, sent[1].Get("If-Modified-Since"))
		}
	})
}
