package fetch

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	hardCap           = 60 * time.Second // of one fetch, whatever the caller's context allows: a server may drip for ever
	maxValidatorBytes = 256              // of an ETag or a Last-Modified, which callers keep
	userAgent         = "mtlsguard"
	identityCoding    = "identity"
)

// Request is one fetch. URL and Limit are required.
type Request struct {
	URL    string // http or https
	Accept string // the Accept header; empty: none

	// Body, not nil: a POST of it with ContentType, which an empty one leaves out. A redirect that would turn it into a GET is refused. Nil: a GET.
	Body        []byte
	ContentType string

	Limit int64 // most bytes of a response; positive

	// ETag and LastModified are the validators of an earlier Response, whose body the caller still holds; they make a GET conditional (RFC 9110 section
	// 13.1). Empty, of a form that Do would not have returned, or with a Body: not sent.
	ETag, LastModified string

	// Operator says that the URL is the operator's own and not out of a certificate: the address and the port of its host are not judged. Redirects are,
	// one back to the same host included.
	Operator bool

	// Large, not nil, is asked for leave before more than Small bytes of a body are read, so that a caller can bound how many large bodies come in at
	// once. It may wait; the time of the fetch runs on meanwhile, and its context ends with it. An error is a refusal and ends the fetch. Otherwise release
	// (nil: none) is called when Do returns. A body of exactly Small bytes that does not state its length may be a larger one and needs leave, too.
	Large func(context.Context) (release func(), err error)
	Small int64
}

// Response is what a server sent, without any authority: over plain http everybody on the path could have.
type Response struct {
	Body []byte // not empty, unless NotModified

	// ETag and LastModified are the validators of Body, for the next Request; empty: the server sent none, or one that is malformed or longer than 256
	// bytes. With NotModified they are those of the request: a 304 that names others must not bind them to a body that they do not belong to.
	ETag, LastModified string

	// NotModified is true for a status 304 to a request with validators: the server claims that the body which they came with is current. That extends
	// nothing: held evidence ends when it says so itself.
	NotModified bool
}

// Do fetches. The context should have a deadline; without one a fetch ends after a minute. Errors are *[URLError], *[BlockedError], *[StatusError], one of
// the Err variables, the context's, or a failure of the network or of this side, wrapped in *[Error]; [Unavailable] tells them apart.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	ctx, cancel := context.WithTimeout(ctx, hardCap)
	defer cancel()
	ctx = context.WithValue(ctx, fetchContext{}, ctx)
	r.tidy()
	res, err := c.attempt(ctx, &r)
	if err != nil {
		err = tidy(err, r.URL)
		// A closed connection that came of the context's end; but a response that was refused stays refused, however late that was.
		if _, ok := err.(*failure); ok && ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &Error{Method: r.method(), URL: r.URL, Err: err}
	}
	return res, nil
}

func (r *Request) method() string {
	if r.Body != nil {
		return http.MethodPost
	}
	return http.MethodGet
}

func (c *Client) attempt(ctx context.Context, r *Request) (*Response, error) {
	if r.Limit <= 0 || r.Limit == math.MaxInt64 {
		return nil, local(fmt.Errorf("limit of %d bytes", r.Limit))
	}
	u, err := c.guard.parse(r.URL)
	if err != nil {
		return nil, err
	}
	if r.Operator {
		first := new(atomic.Bool)
		first.Store(true)
		ctx = context.WithValue(ctx, operatorHop{}, first)
	} else if err := c.guard.checkTarget(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, r.method(), u.String(), bytes.NewReader(r.Body))
	if err != nil {
		return nil, local(err)
	}
	r.setHeader(req.Header)

	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if r.conditional() && res.StatusCode == http.StatusNotModified {
		return &Response{ETag: r.ETag, LastModified: r.LastModified, NotModified: true}, nil
	}
	if err := checkResponse(res, r.Limit); err != nil {
		return nil, err
	}
	large, release := r.leave(ctx)
	defer release()
	body, err := readBody(res.Body, res.ContentLength, r.Limit, r.Small, large)
	if err != nil {
		return nil, err
	}
	tag, modified := validators(res.Header)
	return &Response{Body: body, ETag: tag, LastModified: modified}, nil
}

// leave returns Large without its release, nil where there is no Large, and the release of whatever it will have given.
func (r *Request) leave(ctx context.Context) (large func() error, release func()) {
	given := func() {}
	release = func() { given() }
	if r.Large == nil {
		return nil, release
	}
	return func() error {
		f, err := r.Large(ctx)
		if err != nil {
			return local(err)
		}
		if f != nil {
			given = f
		}
		return nil
	}, release
}

// tidy empties the fields that are not sent. Validators may come out of a store that others write.
func (r *Request) tidy() {
	if r.Body == nil {
		r.ContentType = ""
		r.ETag, r.LastModified = entityTag([]string{r.ETag}), httpDate([]string{r.LastModified})
	} else {
		r.ETag, r.LastModified = "", "" // RFC 9110 section 15.4.5: a 304 answers GET and HEAD only
	}
}

// settled is how much older than its response a modification date must be: two versions of one second have one date (RFC 9110 section 8.8.2.2), and a list
// that is revoked from twice in a second would be the same list.
const settled = time.Minute

// validators are those of a response that tell every other body from this one.
func validators(h http.Header) (tag, modified string) {
	tag, modified = entityTag(h.Values("ETag")), httpDate(h.Values("Last-Modified"))
	if strings.HasPrefix(tag, "W/") {
		tag = "" // as good as the same, says the server
	}
	if at, err := http.ParseTime(modified); err == nil {
		if date, err := http.ParseTime(h.Get("Date")); err != nil || date.Sub(at) < settled {
			modified = ""
		}
	}
	return tag, modified
}

func (r *Request) conditional() bool { return r.ETag != "" || r.LastModified != "" }

func (r *Request) setHeader(h http.Header) {
	h.Set("User-Agent", userAgent)
	// Said aloud, so that a caller's transport does not ask for gzip and unpack it behind our back: a bomb would be measured packed.
	h.Set("Accept-Encoding", identityCoding)
	for name, value := range map[string]string{
		"Accept":            r.Accept,
		"Content-Type":      r.ContentType,
		"If-None-Match":     r.ETag,
		"If-Modified-Since": r.LastModified,
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
}

// entityTag returns the one value if it is an entity-tag (RFC 9110 section 8.8.3), weak or strong, and else nothing.
func entityTag(values []string) string {
	if len(values) != 1 || len(values[0]) > maxValidatorBytes {
		return ""
	}
	opaque := strings.TrimPrefix(values[0], "W/")
	if len(opaque) < 2 || opaque[0] != '"' || opaque[len(opaque)-1] != '"' {
		return ""
	}
	for _, c := range []byte(opaque[1 : len(opaque)-1]) {
		if c <= ' ' || c == '"' || c == 0x7f {
			return ""
		}
	}
	return values[0]
}

// httpDate returns the one value if it is an HTTP-date (RFC 9110 section 5.6.7), as it was written: servers compare the text.
func httpDate(values []string) string {
	if len(values) != 1 || len(values[0]) > maxValidatorBytes {
		return ""
	}
	if _, err := http.ParseTime(values[0]); err != nil {
		return ""
	}
	return values[0]
}

// checkResponse refuses from the header alone what cannot be evidence. The body of any status but 200 is somebody's error page.
func checkResponse(res *http.Response, limit int64) error {
	if res.StatusCode != http.StatusOK {
		return &StatusError{Code: res.StatusCode}
	}
	if res.Uncompressed {
		return ErrEncoded
	}
	for _, coding := range res.Header.Values("Content-Encoding") {
		if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, identityCoding) {
			return ErrEncoded
		}
	}
	for _, v := range res.Header.Values("Content-Type") {
		if isHTML(v) {
			return ErrHTML // a captive portal, a parked domain, an error page with status 200
		}
	}
	if res.ContentLength > limit {
		return ErrTooLarge
	}
	return nil
}

func isHTML(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		mediaType, _, _ = strings.Cut(contentType, ";")
		mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	}
	return mediaType == "text/html" || mediaType == "application/xhtml+xml"
}
