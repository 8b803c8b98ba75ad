package directory

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// errSlow is the cause of an operation that took longer than Connection.Timeout.
var errSlow = errors.New("no answer in time")

// errLong is the cause of a lookup whose operations took too long together, whether or
// not each was answered in time.
var errLong = errors.New("the account takes too many questions, or too long ones")

// conn is a connection to a server, in use by one goroutine at a time.
type conn struct {
	client *client
	server *server
	raw    net.Conn
	framed *framed
	ldap   *ldap.Conn
	made   time.Time
	root   *rootDSE

	broken   bool // something of an earlier answer may still come
	answered bool // since the present lookup has it
	checked  bool // for filters with a negation
}

// within runs one operation. What has not ended in time is ended by closing the
// connection under it.
func (c *client) within(ctx context.Context, raw net.Conn, operation func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, errSlow)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	err := operation()
	if !stop() {
		return slow(ctx, err)
	}
	return err
}

// slow is the error of an operation that ctx has ended.
func slow(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != errSlow {
		err = cause
	} else if err == nil {
		return errSlow
	}
	return fmt.Errorf("%w: %w", errSlow, err)
}

// open connects, secures the connection and binds.
func (c *client) open(ctx context.Context, s *server) (*conn, error) {
	var password string
	if c.User != "" {
		var err error
		if password, err = c.password(ctx); err != nil {
			return nil, err
		}
	}
	dialing, cancel := context.WithTimeoutCause(ctx, c.Timeout, errSlow)
	defer cancel()
	raw, err := c.Dial(dialing, "tcp", s.address)
	if err != nil {
		if dialing.Err() != nil {
			err = slow(dialing, err)
		}
		return nil, unansweredError{err}
	}
	cn := &conn{client: c, server: s, raw: raw, made: c.Now()}
	secured := net.Conn(raw)
	err = c.within(ctx, raw, func() error {
		if s.plaintext {
			return nil
		}
		if !s.ldaps {
			if err := startTLS(raw); err != nil {
				return err
			}
		}
		t := tls.Client(raw, &tls.Config{RootCAs: c.RootCAs, ServerName: s.host, MinVersion: tls.VersionTLS12, Time: c.Now})
		secured = t
		return t.Handshake()
	})
	if err != nil {
		raw.Close()
		return nil, unansweredError{fmt.Errorf("TLS: %w", err)}
	}
	cn.framed = newFramed(secured)
	cn.ldap = ldap.NewConn(cn.framed, !s.plaintext)
	cn.ldap.Start()
	if c.User == "" {
		return cn, nil
	}
	if err := c.bind(ctx, cn, password); err != nil {
		cn.close()
		return nil, err
	}
	return cn, nil
}

// close is quick even when the server does not take part.
func (cn *conn) close() {
	cn.raw.Close()
	cn.ldap.Close()
}

// startTLS asks for TLS (RFC 4511 section 4.14). It reads the one answer and not a
// byte more: what a stranger on the way adds to it is not taken for what comes later
// under TLS.
func startTLS(raw net.Conn) error {
	request := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
	request.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, 1, ""))
	extended := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationExtendedRequest, nil, "")
	extended.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, "1.3.6.1.4.1.1466.20037", ""))
	request.AppendChild(extended)
	if _, err := raw.Write(request.Bytes()); err != nil {
		return err
	}
	f := newFramed(raw)
	message, err := readMessage(raw, &f.budget)
	if err != nil {
		return fmt.Errorf("StartTLS: %w", err)
	}
	answer, err := ber.DecodePacketErr(message)
	if err != nil || len(answer.Children) < 2 || answer.Children[0].Value != int64(1) ||
		answer.Children[1].ClassType != ber.ClassApplication || answer.Children[1].Tag != ldap.ApplicationExtendedResponse {
		return fmt.Errorf("StartTLS: %w", errNoLDAP)
	}
	if err := ldap.GetLDAPError(answer); err != nil {
		refused := fmt.Errorf("StartTLS is refused: %w", explain(err))
		if says(err) {
			return saidError{refused, false}
		}
		return refused
	}
	return nil
}

// activeDirectorySays is what Active Directory means by the code in the diagnostic
// message of a refused bind ("data 532").
var activeDirectorySays = map[string]string{
	"525": "there is no such user", "52e": "the password is wrong", "530": "it may not log on at this time", "531": "it may not log on here",
	"532": "the password has expired: set a new one", "533": "the account is disabled", "701": "the account has expired",
	"773": "the password must be changed before it can be used", "775": "the account is locked",
}

// bindError says what to do about a refused bind.
func (c *client) bindError(err error, sum [sha256.Size]byte) error {
	const wrong = "the password is wrong or has expired, or the account is locked or disabled"
	why := wrong
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials):
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultConstraintViolation, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultUnwillingToPerform): // too many attempts, inactive
		why = explain(err).Error() + ": " + wrong
	case says(err):
		return unansweredError{saidError{fmt.Errorf("bind as %s: %w", quote(c.User), explain(err)), false}}
	default:
		return unansweredError{fmt.Errorf("bind as %s: %w", quote(c.User), explain(err))}
	}
	if _, after, ok := strings.Cut(err.Error(), ", data "); ok {
		code, _, _ := strings.Cut(after, ",")
		if says, ok := activeDirectorySays[strings.TrimSpace(code)]; ok {
			why = says
		}
	}
	refused := fmt.Errorf("the directory refuses the password of %s: %s (the same one is not sent again for a minute)", quote(c.User), why)
	c.passwords.refuse(sum, refused, c.Now())
	return refused
}

// explain shortens an error of package ldap, which may quote what the server says.
func explain(err error) error {
	var e *ldap.Error
	if !errors.As(err, &e) {
		return err
	}
	code, ok := resultOf(e)
	if !ok {
		return err
	}
	name := "unknown"
	if known, ok := ldap.LDAPResultCodeMap[e.ResultCode]; ok && e.ResultCode < ldap.ErrorNetwork {
		name = known
	}
	hint := ""
	switch e.ResultCode {
	case ldap.LDAPResultReferral:
		hint = ": it refers to another server, which is not followed; set BaseDN to what this directory holds"
	case ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired:
		hint = ": it wants TLS"
	case ldap.LDAPResultOperationsError, ldap.LDAPResultInsufficientAccessRights:
		hint = ": the service may not read; see User"
	}
	return fmt.Errorf("LDAP result %d (%s)%s", code, name, hint)
}

// resultOf returns the result that a server has sent, if the error is of one. Package ldap
// has numbers of its own for what it cannot read, which a server may send as well.
func resultOf(e *ldap.Error) (int64, bool) {
	if e.ResultCode < ldap.ErrorNetwork || e.ResultCode > ldap.ErrorMalformedPacket {
		return int64(e.ResultCode), true
	}
	if p := e.Packet; p != nil && len(p.Children) > 1 && len(p.Children[1].Children) > 0 {
		code, ok := p.Children[1].Children[0].Value.(int64)
		return code, ok
	}
	return 0, false
}

// says reports whether an error is a result of the server's (RFC 4511 appendix A) other
// than that it cannot answer now.
func says(err error) bool {
	var e *ldap.Error
	if !errors.As(err, &e) {
		return false
	}
	code, ok := resultOf(e)
	return ok && code != ldap.LDAPResultTimeLimitExceeded && code != ldap.LDAPResultBusy && code != ldap.LDAPResultUnavailable
}

// errMore means that there are more entries than were asked for.
var errMore = errors.New("more entries than asked for")

// search asks one question. It returns errMore with the entries that came where there
// are more than most, and errAbsent where the base does not exist. References to
// other servers (RFC 4511 section 4.5.3) are left out.
func (cn *conn) search(ctx context.Context, base string, scope int, filter string, most int, attributes ...string) ([]*ldap.Entry, error) {
	request := ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, most, int(cn.client.Timeout/time.Second)+1, false, filter, attributes, nil)
	request.EnforceSizeLimit = true // Samba looks at no size limit
	cn.framed.renew()
	var result *ldap.SearchResult
	err := cn.client.within(ctx, cn.raw, func() (err error) {
		result, err = cn.ldap.Search(request)
		return err
	})
	if err == nil || says(err) || errors.Is(err, ldap.ErrSizeLimitExceeded) || cn.framed.budget.exceeded() {
		cn.client.answers(cn.server)
		cn.answered = true
	}
	switch {
	case err == nil:
		return result.Entries, nil
	case errors.Is(err, ldap.ErrSizeLimitExceeded):
		cn.broken = true
		return result.Entries, errMore
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded):
		return result.Entries, errMore
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return nil, errAbsent
	case says(err) || cn.framed.budget.exceeded():
		return nil, unansweredError{saidError{explain(err), true}}
	}
	return nil, unansweredError{explain(err)}
}

// errAbsent means that an entry does not exist, or may not be seen.
var errAbsent = errors.New("no such entry")

// one returns the entry, of which there must be exactly one.
func (cn *conn) one(ctx context.Context, base string, attributes ...string) (*ldap.Entry, error) {
	entries, err := cn.search(ctx, base, ldap.ScopeBaseObject, "(objectClass=*)", 1, attributes...)
	if err == nil && len(entries) == 0 {
		err = errAbsent
	}
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w", quote(base), err)
	}
	return entries[0], nil
}

// rootDSE says which trees the server holds (RFC 4512 section 5.1).
type rootDSE struct{ base, config string }

func (cn *conn) contexts(ctx context.Context) (*rootDSE, error) {
	if cn.root == nil {
		e, err := cn.one(ctx, "", "defaultNamingContext", "configurationNamingContext")
		if err != nil {
			return nil, err
		}
		cn.root = &rootDSE{e.GetEqualFoldAttributeValue("defaultNamingContext"), e.GetEqualFoldAttributeValue("configurationNamingContext")}
	}
	return cn.root, nil
}

// values returns the values of an attribute, and whether these are all of them: a
// directory gives long lists in pieces ([MS-ADTS] 3.1.1.3.1.3.3). With other options
// than ;range= and ;binary it is another attribute (RFC 4512 section 2.5).
func values(e *ldap.Entry, attribute string) ([][]byte, bool) {
	var list [][]byte
	for _, a := range e.Attributes {
		if len(a.Name) < len(attribute) || !strings.EqualFold(a.Name[:len(attribute)], attribute) {
			continue
		}
		options := strings.Split(strings.ToLower(a.Name[len(attribute):]), ";")
		ranged := func(option string) bool { return strings.HasPrefix(option, "range=") }
		if options[0] != "" || slices.ContainsFunc(options[1:], func(o string) bool { return o != "binary" && !ranged(o) }) {
			continue
		}
		if slices.ContainsFunc(options, ranged) {
			return nil, false
		}
		list = append(list, a.ByteValues...)
	}
	return list, true
}

// texts is values as text.
func texts(e *ldap.Entry, attribute string) ([]string, error) {
	raw, whole := values(e, attribute)
	if !whole {
		return nil, fmt.Errorf("entry %s has more values of %s than the directory gives at once", quote(e.DN), attribute)
	}
	list := make([]string, len(raw))
	for i, v := range raw {
		list[i] = string(v)
	}
	return list, nil
}

// single returns the one value of an attribute, or "" if there is none.
func single(e *ldap.Entry, attribute string) (string, error) {
	list, err := texts(e, attribute)
	if err == nil && len(list) > 1 {
		err = fmt.Errorf("entry %s has %d values of %s", quote(e.DN), len(list), attribute)
	}
	if err != nil || len(list) == 0 {
		return "", err
	}
	return list[0], nil
}

// escapeBytes writes a binary value for a filter (RFC 4515 section 3).
func escapeBytes(b []byte) string {
	var s strings.Builder
	for _, octet := range b {
		s.WriteByte('\\')
		s.WriteString(hex.EncodeToString([]byte{octet}))
	}
	return s.String()
}
