package testdir

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"unicode/utf16"

	"github.com/go-ldap/ldap/v3"
)

// add is an entry to add.
type add struct {
	dn, class string
	values    map[string][]string
}

func user(cn, upn, uac string, more ...string) add {
	quoted := utf16.Encode([]rune(`"` + Password + `"`))
	var pwd []byte
	for _, u := range quoted {
		pwd = append(pwd, byte(u), byte(u>>8))
	}
	v := map[string][]string{"sAMAccountName": {cn}, "userAccountControl": {uac}, "unicodePwd": {string(pwd)}}
	if upn != "" {
		v["userPrincipalName"] = []string{upn}
	}
	for i := 0; i < len(more); i += 2 {
		v[more[i]] = append(v[more[i]], more[i+1])
	}
	return add{"CN=" + cn + "," + UsersDN, "user", v}
}

func group(cn, kind string, members ...string) add {
	v := map[string][]string{"sAMAccountName": {cn}, "groupType": {kind}}
	for _, m := range members {
		v["member"] = append(v["member"], "CN="+m+","+UsersDN)
	}
	return add{"CN=" + cn + "," + UsersDN, "group", v}
}

// Kinds of groups ([MS-ADTS] 2.2.12).
const (
	globalGroup       = "-2147483646"
	universalGroup    = "-2147483640"
	domainLocalGroup  = "-2147483644"
	distributionGroup = "8"
)

// populate fills the domain and keeps a copy of it for Clone.
func (dc *DC) populate() error {
	c, err := dc.Admin()
	if err != nil {
		return err
	}
	defer c.Close()
	entries := []add{
		{UsersDN, "organizationalUnit", nil},
		user("svc-mtls", ServiceUser, "66048"),
		user("alice", "alice@ad.test", "512", "mail", "alice@ad.test", "description", "first"),
		user("bob", "bob@corp.example", "512"),
		user("carol", "carol@ad.test", "512"),
		user("dave", "dave@ad.test", "512"),
		user("disabled", "disabled@ad.test", "514"),
		user("expired", "expired@ad.test", "512", "accountExpires", "131000000000000000"),
		user("future", "future@ad.test", "512", "accountExpires", "159000000000000000"),
		user("never0", "never0@ad.test", "512", "accountExpires", "0"),
		user("locked", "locked@ad.test", "512"),
		user("noupn", "", "512"),
		user("odd", `we(i)r&d\x@ad.test`, "512"),
		user("unicode", "ünïcøde@ad.test", "512"),
		user("twin1", "twin1@ad.test", "512"),
		user("twin2", "twin2@ad.test", "512"),
		{"CN=pc1," + UsersDN, "computer", map[string][]string{"sAMAccountName": {"PC1$"}, "dNSHostName": {"pc1.ad.test"}, "userAccountControl": {"4096"}}},
		group("G-inner", globalGroup, "alice", "disabled"),
		group("G-middle", universalGroup, "G-inner"),
		group("G-outer", domainLocalGroup, "G-middle"),
		group("G-loop1", universalGroup, "bob"),
		group("G-loop2", universalGroup, "G-loop1"),
		group("G-mail", distributionGroup, "alice"),
		group("G-other", globalGroup, "dave"),
	}
	for _, e := range entries {
		r := ldap.NewAddRequest(e.dn, nil)
		r.Attribute("objectClass", []string{e.class})
		for attribute, values := range e.values {
			r.Attribute(attribute, values)
		}
		if err := c.Add(r); err != nil {
			return fmt.Errorf("add %s: %w", e.dn, err)
		}
	}
	for _, m := range []struct {
		dn, attribute string
		value         string
	}{
		{"CN=G-loop1," + UsersDN, "member", "CN=G-loop2," + UsersDN},
		{DomainDN, "lockoutThreshold", "3"},
		{DomainDN, "lockoutDuration", "-18000000000"},
		{DomainDN, "lockOutObservationWindow", "-18000000000"},
	} {
		r := ldap.NewModifyRequest(m.dn, nil)
		if m.attribute == "member" {
			r.Add(m.attribute, []string{m.value})
		} else {
			r.Replace(m.attribute, []string{m.value})
		}
		if err := c.Modify(r); err != nil {
			return fmt.Errorf("modify %s: %w", m.dn, err)
		}
	}
	for range 4 {
		if wrong, err := dc.dial(); err == nil {
			_ = wrong.Bind("locked@ad.test", "wrong") // is refused, which locks the account
			wrong.Close()
		}
	}
	dc.Stop()
	if out, err := exec.Command("tar", "-C", dc.dir, "--xattrs", "--xattrs-include=*", "-cf", filepath.Join(dc.dir, "filled.tar"), "private", "state").CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w\n%s", err, out)
	}
	return dc.Start()
}
