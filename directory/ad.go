package directory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/mtlsguard/mtls"
)

// A Strength says how a certificate must map to an account (KB5014754).
type Strength int

// Strengths of a mapping.
const (
	// Strong is by the SID that the CA wrote into the certificate, or by an
	// altSecurityIdentities of issuer and serial number, issuer and SID, subject key
	// identifier, or public key.
	Strong Strength = iota
	// Weak is also by the user principal name, or by an altSecurityIdentities of
	// names: issuer and subject, subject, e-mail address. Names can be written by every CA
	// of the NTAuth store and are given to others. A certificate that is older than
	// the account then refuses it, as its name was somebody else's.
	Weak
)

// A GroupForm says how groups of Active Directory are named in Account.Groups. All
// are security groups; nested ones and the primary group count, as in a token of
// Windows.
type GroupForm int

// Forms of groups.
const (
	// GroupNames are sAMAccountNames, such as "Domain Users". Groups of other domains,
	// where the same name means something else, are left out.
	GroupNames GroupForm = iota
	// GroupSIDs are security identifiers, which outlive a change of name.
	GroupSIDs
	// GroupDNs are distinguished names. Groups of other domains are left out.
	GroupDNs
	// NoGroups are not asked for.
	NoGroups
)

// ActiveDirectory describes a domain of Active Directory.
//
// The account's Name is its sAMAccountName and its ID its SID. It is refused if it is
// disabled, locked or expired.
type ActiveDirectory struct {
	Connection
	// BaseDN is where accounts and groups are looked for. Empty: the whole domain of the
	// server (defaultNamingContext). Groups outside it are left out of GroupNames and
	// GroupDNs; without it, a group of the account's domain that is not found is an error.
	BaseDN string
	// ConfigDN is the configuration of the forest, which has the NTAuth store. Empty: what
	// the server says (configurationNamingContext). What is read of the store counts for
	// Lifetime, and so does an account that rests on it: a CA that is removed is refused
	// after at most twice Lifetime, or Flush.
	ConfigDN string
	// MinStrength is the weakest mapping that counts. Zero: Strong. Whatever it is, a
	// certificate that maps to two accounts, or whose SID is another account's, is
	// refused.
	MinStrength Strength
	// KeysOfAnyIssuer lets an altSecurityIdentities of the public key
	// ("X509:<SHA1-PUKEY>...") count for certificates of CAs that are not in the
	// NTAuth store, such as a partner's. All else that such a CA writes, its own name
	// included, still maps to nobody.
	KeysOfAnyIssuer bool
	// Groups says how groups are named. Zero: GroupNames.
	Groups GroupForm
	// MaxGroups bounds the groups of an account; one in more is not known. Zero: 1000.
	MaxGroups int
	// Attributes are the attributes for Account.Attributes, such as "mail".
	Attributes []string
}

// NewActiveDirectory returns a Mapper for a domain, or everything that is wrong with
// the configuration, as mtls.ConfigErrors. It connects to nothing yet.
func NewActiveDirectory(cfg ActiveDirectory) (*Mapper, error) {
	const of = "ActiveDirectory"
	var failed problems
	cfg.URLs, cfg.Attributes = slices.Clone(cfg.URLs), slices.Clone(cfg.Attributes)
	servers := cfg.fill(&failed, of)
	checkDN(&failed, of+".BaseDN", cfg.BaseDN)
	checkDN(&failed, of+".ConfigDN", cfg.ConfigDN)
	checkAttributes(&failed, of+".Attributes", cfg.Attributes)
	bounded(&failed, of+".MaxGroups", &cfg.MaxGroups, 1000, 10000)
	if cfg.MinStrength != Strong && cfg.MinStrength != Weak {
		failed.add(of+".MinStrength", fmt.Sprint(int(cfg.MinStrength)), "neither Strong nor Weak")
	}
	if cfg.Groups < GroupNames || cfg.Groups > NoGroups {
		failed.add(of+".Groups", fmt.Sprint(int(cfg.Groups)), "no GroupForm")
	}
	if cfg.User == "" {
		failed.add(of+".User", "", "missing: Active Directory tells strangers nothing")
	}
	if err := failed.err(); err != nil {
		return nil, err
	}
	return newMapper(&adKind{ActiveDirectory: cfg}, cfg.Connection, servers)
}

func checkDN(failed *problems, field, dn string) {
	if _, err := ldap.ParseDN(dn); err != nil {
		*failed = append(*failed, &mtls.ConfigError{Field: field, Value: dn, Problem: "not a distinguished name", Err: err})
	}
}

func checkAttributes(failed *problems, field string, list []string) {
	for i, a := range list {
		checkAttribute(failed, fmt.Sprintf("%s[%d]", field, i), a)
	}
}

// checkAttribute reports what is no attribute description (RFC 4512 section 2.5).
func checkAttribute(failed *problems, field, s string) {
	if s == "" || strings.Trim(s, letters+"-.;") != "" {
		failed.add(field, s, "not the name of an attribute")
	}
}

// maxFilter bounds a filter, in bytes.
const maxFilter = 32 << 10

type adKind struct {
	ActiveDirectory

	mu     sync.Mutex
	ntAuth ntAuth
	epoch  int // counts calls of flush
	order  int // counts beginnings and ends of reads
}

// ntAuth is what is known of the NTAuth store.
type ntAuth struct {
	asked time.Time // zero: nothing
	ended int       // in the order of reads
	cas   map[[sha256.Size]byte]bool
}

func (k *adKind) question(id *mtls.Identity) (string, asker, error) {
	chain := id.Chain()
	if len(chain) < 2 {
		return "", nil, refuse("there is no certificate with an issuing CA")
	}
	cert, err := readADCert(chain[0], chain[1])
	if err != nil {
		return "", nil, err
	}
	filter := cert.filter()
	if len(filter) > maxFilter {
		return "", nil, refuse("the names of the certificate are too long")
	}
	// All that the answer depends on.
	issuer := sha256.Sum256(cert.issuer)
	key := hex.EncodeToString(issuer[:]) + " " + cert.notBefore.UTC().Format(time.RFC3339) + " " + filter
	return key, func(ctx context.Context, cn *conn) (finding, error) {
		return k.lookUp(ctx, cn, cert, issuer, filter)
	}, nil
}

// lookUp finds the account of a certificate.
func (k *adKind) lookUp(ctx context.Context, cn *conn, cert *adCert, issuer [sha256.Size]byte, filter string) (finding, error) {
	trusted, err := k.trusts(ctx, cn, issuer)
	if err != nil {
		return finding{}, err
	}
	if !trusted && !k.KeysOfAnyIssuer {
		return finding{}, refuse("the issuing CA is not in the NTAuth store of the forest (certutil -dspublish -f ca.cer NTAuthCA)")
	}
	base := k.BaseDN
	if base == "" {
		root, err := cn.contexts(ctx)
		if err != nil {
			return finding{}, err
		}
		if base = root.base; base == "" {
			return finding{}, errors.New("the server names no defaultNamingContext: set BaseDN")
		}
	}
	e, err := cn.unique(ctx, base, filter, attrUPN, attrAlt, attrSID, "whenCreated")
	if err != nil {
		return finding{}, err
	}
	sid, err := k.judge(cert, e, trusted)
	if err != nil {
		return finding{}, err
	}
	var f finding
	if trusted { // though a key of any issuer might do as well
		f.issuer = &issuer
	}
	f.account, err = k.account(ctx, cn, base, e.DN, sid)
	return f, err
}

// unique returns the one entry that the filter finds. None and several refuse.
func (cn *conn) unique(ctx context.Context, base, filter string, attributes ...string) (*ldap.Entry, error) {
	entries, err := cn.search(ctx, base, ldap.ScopeWholeSubtree, filter, 2, attributes...)
	switch {
	case errors.Is(err, errAbsent):
		return nil, fmt.Errorf("BaseDN %s does not exist, or User may not see it", quote(base))
	case len(entries) > 1:
		return nil, refuse("the client maps to several accounts, %s and %s", quote(entries[0].DN), quote(entries[1].DN))
	case errors.Is(err, errMore):
		return nil, refuse("the client maps to several accounts")
	case err != nil:
		return nil, err
	case len(entries) == 0:
		return nil, refuse("the directory has none for the client")
	}
	return entries[0], nil
}

// judge decides whether the certificate maps to the entry, and returns the SID.
func (k *adKind) judge(cert *adCert, e *ldap.Entry, trusted bool) (string, error) {
	raw, _ := values(e, attrSID)
	if len(raw) != 1 {
		return "", fmt.Errorf("entry %s has no objectSid that User may read", quote(e.DN))
	}
	sid, ok := sidText(raw[0])
	if !ok {
		return "", fmt.Errorf("the objectSid of entry %s cannot be read", quote(e.DN))
	}
	if cert.sid != "" && cert.sid != sid {
		return "", refuse("the certificate's SID is %s, that of account %s is %s", cert.sid, quote(e.DN), sid)
	}
	upns, err := texts(e, attrUPN)
	if err != nil {
		return "", err
	}
	alts, err := texts(e, attrAlt)
	if err != nil {
		return "", err
	}
	forms, strong := cert.matches(upns, alts, sid, trusted)
	switch {
	case len(forms) == 0 && !trusted:
		return "", refuse("the issuing CA is not in the NTAuth store, and account %s has no altSecurityIdentities of the public key", quote(e.DN))
	case len(forms) == 0:
		return "", refuse("account %s was found, but nothing of it is exactly as in the certificate", quote(e.DN))
	case strong:
		return sid, nil
	case k.MinStrength == Strong:
		return "", refuse("account %s maps weakly only (%s): issue a certificate with the SID extension, or give it a strong altSecurityIdentities", quote(e.DN), strings.Join(forms, ", "))
	}
	created, err := single(e, "whenCreated")
	if err != nil {
		return "", err
	}
	at, err := time.Parse("20060102150405.0Z", created)
	if err != nil {
		return "", fmt.Errorf("the whenCreated of account %s cannot be read", quote(e.DN))
	}
	if cert.notBefore.Before(at) {
		return "", refuse("account %s maps weakly (%s), and is younger than the certificate", quote(e.DN), strings.Join(forms, ", "))
	}
	return sid, nil
}

// trusts reports whether the issuing CA is in the NTAuth store, bit for bit.
func (k *adKind) trusts(ctx context.Context, cn *conn, issuer [sha256.Size]byte) (bool, error) {
	now := k.Now()
	k.mu.Lock()
	known, epoch := k.ntAuth, k.epoch
	k.order++
	began := k.order
	k.mu.Unlock()
	if !known.asked.IsZero() && now.Before(known.asked.Add(k.Lifetime)) && !now.Before(known.asked) {
		return known.cas[issuer], nil
	}
	config := k.ConfigDN
	if config == "" {
		root, err := cn.contexts(ctx)
		if err != nil {
			return false, err
		}
		if config = root.config; config == "" {
			return false, errors.New("the server names no configurationNamingContext: set ConfigDN")
		}
	}
	known = ntAuth{asked: now, cas: map[[sha256.Size]byte]bool{}}
	e, err := cn.one(ctx, "CN=NTAuthCertificates,CN=Public Key Services,CN=Services,"+config, "cACertificate")
	if err != nil && !errors.Is(err, errAbsent) {
		return false, err
	}
	if err == nil {
		certs, whole := values(e, "cACertificate")
		if !whole {
			return false, errors.New("the NTAuth store has more certificates than the directory gives at once")
		}
		for _, der := range certs {
			known.cas[sha256.Sum256(der)] = true
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoch == epoch {
		// Of two reads at once, which of them saw the later state is not known.
		if k.ntAuth.ended > began {
			known.asked = earlier(known.asked, k.ntAuth.asked)
			maps.DeleteFunc(known.cas, func(ca [sha256.Size]byte, _ bool) bool { return !k.ntAuth.cas[ca] })
		}
		k.order++
		known.ended = k.order
		k.ntAuth = known
	}
	return known.cas[issuer], nil
}

// holds: the store that was read last, however long ago, has the CA.
func (k *adKind) holds(f finding) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return f.issuer == nil || k.ntAuth.cas[*f.issuer]
}

// same: a SID has one spelling.
func (k *adKind) same(id string) string { return id }

func (k *adKind) flush() {
	k.mu.Lock()
	k.ntAuth = ntAuth{}
	k.epoch++
	k.mu.Unlock()
}
