package directory

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/mtlsguard/mtls"
)

// Bits of userAccountControl and msDS-User-Account-Control-Computed ([MS-ADTS] 2.2.16).
const (
	uacDisabled = 0x2
	uacLockout  = 0x10
	uacLogsOn   = 0x200 | 0x1000 | 0x2000 // normal, workstation and server accounts
)

const (
	attrUAC      = "userAccountControl"
	attrComputed = "msDS-User-Account-Control-Computed"
	attrLockout  = "lockoutTime"
	attrExpires  = "accountExpires"
	attrName     = "sAMAccountName"
	attrTokens   = "tokenGroups"
)

// sidsAtOnce bounds the groups of which one search asks the names.
const sidsAtOnce = 100

// account reads the account whose entry was found.
func (k *adKind) account(ctx context.Context, cn *conn, base, dn, sid string) (mtls.Account, error) {
	attributes := append([]string{attrSID, attrName, attrUAC, attrComputed, attrLockout, attrExpires}, k.Attributes...)
	if k.Groups != NoGroups {
		attributes = append(attributes, attrTokens) // in a search of the entry alone
	}
	e, err := cn.one(ctx, dn, attributes...)
	if err != nil {
		return mtls.Account{}, err
	}
	raw, _ := values(e, attrSID)
	if len(raw) != 1 {
		return mtls.Account{}, fmt.Errorf("entry %s has changed meanwhile", quote(dn))
	}
	if now, ok := sidText(raw[0]); !ok || now != sid { // another one has taken the name
		return mtls.Account{}, fmt.Errorf("entry %s has changed meanwhile", quote(dn))
	}
	a := mtls.Account{ID: sid}
	if a.Name, err = single(e, attrName); err != nil {
		return mtls.Account{}, err
	}
	if a.Name == "" {
		return mtls.Account{}, fmt.Errorf("entry %s has no sAMAccountName that User may read", quote(dn))
	}
	why, err := k.state(e, &a)
	if err != nil {
		return mtls.Account{}, err
	}
	if why != "" {
		k.Logger.Info("mtls: directory account may not be used", "account", a.Name, "dn", dn, "why", why)
		a.Disabled = true
		return a, nil
	}
	if a.Attributes, err = chosen(e, k.Attributes); err != nil {
		return mtls.Account{}, err
	}
	if k.Groups == NoGroups {
		return a, nil
	}
	a.Groups, err = k.groups(ctx, cn, base, e, sid)
	return a, err
}

// state says why the account may not be used, or "". What User may not read is an
// error.
func (k *adKind) state(e *ldap.Entry, a *mtls.Account) (string, error) {
	number := func(attribute string) (int64, bool, error) {
		s, err := single(e, attribute)
		if err != nil || s == "" {
			return 0, false, err
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, false, fmt.Errorf("the %s of entry %s is no number", attribute, quote(e.DN))
		}
		return n, true, nil
	}
	uac, ok, err := number(attrUAC)
	if err == nil && !ok {
		err = fmt.Errorf("entry %s has no userAccountControl that User may read", quote(e.DN))
	}
	if err != nil {
		return "", err
	}
	computed, known, err := number(attrComputed)
	if err != nil {
		return "", err
	}
	lockout, ok, err := number(attrLockout)
	if err == nil && !known && !ok {
		err = fmt.Errorf("entry %s has neither msDS-User-Account-Control-Computed nor lockoutTime that User may read", quote(e.DN))
	}
	if err != nil {
		return "", err
	}
	expires, ok, err := number(attrExpires)
	if err == nil && !ok {
		err = fmt.Errorf("entry %s has no accountExpires that User may read", quote(e.DN))
	}
	if err == nil && expires < 0 {
		err = fmt.Errorf("the accountExpires of entry %s is no time", quote(e.DN))
	}
	if err != nil {
		return "", err
	}
	end, ends := fileTime(expires)
	switch {
	case uac&uacDisabled != 0:
		return "disabled", nil
	case uac&uacLogsOn == 0:
		return "not an account that logs on", nil
	case known && computed&uacLockout != 0 || !known && lockout != 0:
		return "locked", nil
	case ends && !end.After(k.Now()):
		return "expired at " + end.Format(time.RFC3339), nil
	}
	if ends {
		a.Expires = end
	}
	return "", nil
}

// fileTime reads accountExpires: 100 ns since 1601, where 0 and the largest number
// mean never ([MS-ADA1] 2.2).
func fileTime(n int64) (time.Time, bool) {
	if n == 0 || n == 1<<63-1 {
		return time.Time{}, false
	}
	const seconds = 11644473600 // from 1601 to 1970
	return time.Unix(n/1e7-seconds, n%1e7*100).UTC(), true
}

// chosen returns the attributes under the names that they are asked by.
func chosen(e *ldap.Entry, attributes []string) (map[string][]string, error) {
	if len(attributes) == 0 {
		return nil, nil
	}
	m := make(map[string][]string, len(attributes))
	for _, name := range attributes {
		list, err := texts(e, name)
		if err != nil {
			return nil, err
		}
		if len(list) > 0 {
			m[name] = list
		}
	}
	return m, nil
}

// groups returns all groups of the account: those of its token, which the server
// computes.
func (k *adKind) groups(ctx context.Context, cn *conn, base string, e *ldap.Entry, own string) ([]string, error) {
	raw, whole := values(e, attrTokens)
	switch {
	case len(raw) > k.MaxGroups || !whole:
		return nil, fmt.Errorf("account %s is in more than %d groups: see MaxGroups", quote(e.DN), k.MaxGroups)
	case len(raw) == 0: // everybody is in a primary group
		return nil, fmt.Errorf("the groups of account %s cannot be read: put User into Windows Authorization Access Group", quote(e.DN))
	}
	var sids []string
	for _, b := range raw {
		sid, ok := sidText(b)
		if !ok {
			return nil, fmt.Errorf("a group of account %s has a SID that cannot be read", quote(e.DN))
		}
		sids = append(sids, sid)
	}
	if k.Groups == GroupSIDs {
		return sids, nil
	}
	asked := map[string]bool{}
	for _, sid := range sids {
		asked[sid] = true
	}
	// Groups of the account's own domain are all found where the whole domain is looked at.
	missing := map[string]bool{}
	if k.BaseDN == "" {
		for _, sid := range sids {
			missing[sid] = domainOf(sid) == domainOf(own)
		}
	}
	var list []string
	for len(raw) > 0 {
		n := min(len(raw), sidsAtOnce)
		var filter strings.Builder
		filter.WriteString("(&(objectClass=group)(|")
		for _, sid := range raw[:n] {
			filter.WriteString("(objectSid=" + escapeBytes(sid) + ")")
		}
		filter.WriteString("))")
		raw = raw[n:]
		groups, err := cn.search(ctx, base, ldap.ScopeWholeSubtree, filter.String(), n, attrSID, attrName)
		if err != nil {
			return nil, fmt.Errorf("the groups of account %s: %w", quote(e.DN), err)
		}
		for _, g := range groups {
			raw, _ := values(g, attrSID)
			if len(raw) != 1 {
				continue
			}
			sid, ok := sidText(raw[0])
			if !ok || !asked[sid] {
				continue
			}
			name := g.DN
			if k.Groups == GroupNames {
				if name, err = single(g, attrName); err != nil {
					return nil, err
				}
			}
			if name == "" {
				return nil, fmt.Errorf("group %s has no sAMAccountName that User may read", quote(g.DN))
			}
			missing[sid] = false
			list = append(list, name)
		}
	}
	for _, sid := range sids {
		if missing[sid] {
			return nil, fmt.Errorf("group %s of account %s is not found, or User may not see it", sid, quote(e.DN))
		}
	}
	return list, nil
}

// domainOf returns a SID without its last part: that of the domain, for an account or
// group that is not built in ([MS-DTYP] 2.4.2.4).
func domainOf(sid string) string { return sid[:strings.LastIndexByte(sid, '-')] }
