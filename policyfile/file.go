package policyfile

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/mtlsguard/mtls"
)

// Options are for Load. The zero Options are useful.
type Options struct {
	// Every is how often Watch looks at the files. Zero: 10 s.
	Every time.Duration
	// Logger takes what Watch and Reload did, with new rules at level Info and failures
	// at level Error. Nil: slog.Default().
	Logger *slog.Logger
	// OnReload is called after each attempt of Watch or Reload to take something new,
	// with nil or with what is wrong. The next look waits for it. Nil: nobody is told.
	OnReload func(error)
	// Now is the clock of Lint. Nil: time.Now.
	Now func() time.Time
}

// A File is a policy that is kept in a file. Its methods are safe for concurrent
// use.
type File struct {
	path    string
	options Options
	policy  *mtls.Policy

	mu       sync.Mutex
	watching bool
	failed   bool    // the policy was told of a failure that still holds
	now      *loaded // in force
	next     *loaded // what was seen at the last look and is not in force; nil: nothing
}

// loaded is what reading the files gave, once.
type loaded struct {
	*content
	sum    [sha256.Size]byte // of the policy, or of why it could not be read
	err    error
	judged bool // what is wrong with it, or with its rules, is reported
}

// Load reads a policy, and the files of certificates and keys that it names. Nothing
// is read again before Reload or Watch is called.
//
// It takes what it finds at one look: Watch looks twice, but a service that starts
// while somebody writes the file may get it without its last rules, which may be
// those that deny. Put files in place by renaming, or Seal them: a sealed file
// that is cut is refused.
func Load(path string) (*File, error) { return Options{}.Load(path) }

// Load is Load with options.
func (o Options) Load(path string) (*File, error) {
	if o.Every <= 0 {
		o.Every = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	f := &File{path: path, options: o}
	f.now = f.read()
	if f.now.err != nil {
		return nil, f.now.err
	}
	var err error
	if f.policy, err = f.now.compile(); err != nil {
		return nil, err
	}
	f.now.named.forget()
	return f, nil
}

// read reads the policy and the files that it names.
func (f *File) read() *loaded {
	data, err := readFile(f.path, maxFile)
	l := &loaded{sum: sum(data, err)}
	if err != nil {
		l.content = &content{file: f.path, named: newNamed("")}
		l.err = join(f.path, &problem{text: "it cannot be read: " + err.Error(), err: err})
		return l
	}
	l.content, l.err = parse(data, f.path)
	return l
}

// unchanged reports whether all files are as they were when this was read.
func (l *loaded) unchanged() bool {
	data, err := readFile(l.file, maxFile)
	if sum(data, err) != l.sum {
		return false
	}
	return l.named.unchanged()
}

// Policy returns the policy, which is live: what Reload and Watch take is in it.
func (f *File) Policy() *mtls.Policy { return f.policy }

// Rules returns a copy of the rules in force. A file that says deny_all has none.
func (f *File) Rules() []mtls.Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	return cloneRules(f.now.rules)
}

// cloneRules copies rules and everything in them that a caller could change.
func cloneRules(rules []mtls.Rule) []mtls.Rule {
	rules = slices.Clone(rules)
	for i := range rules {
		r := &rules[i]
		for _, list := range []*[]string{&r.Roles, &r.Domains, &r.URIs, &r.Emails, &r.UPNs, &r.Authorities, &r.Curves, &r.Groups} {
			*list = slices.Clone(*list)
		}
		r.Certificates, r.PublicKeys, r.IssuerKeys = slices.Clone(r.Certificates), slices.Clone(r.PublicKeys), slices.Clone(r.IssuerKeys)
		r.Subject, r.Issuer, r.PolicyOIDs = slices.Clone(r.Subject), slices.Clone(r.Issuer), slices.Clone(r.PolicyOIDs)
		r.Extensions = slices.Clone(r.Extensions)
		for j := range r.Extensions {
			r.Extensions[j].Value = slices.Clone(r.Extensions[j].Value)
		}
		if r.Origin != nil {
			o := *r.Origin
			o.Hosts, o.ReverseSuffixes = slices.Clone(o.Hosts), slices.Clone(o.ReverseSuffixes)
			o.Prefixes, o.AllowNetworks = slices.Clone(o.Prefixes), slices.Clone(o.AllowNetworks)
			r.Origin = &o
		}
	}
	return rules
}

// Locate makes errors of mtls.New, of Policy.Replace and of Roots.Replace that are
// about rules in force errors of the file: each is an *Error with its place and the
// keys of the file, at most 20 of them. Other errors stay as they are. A nil error
// stays nil.
func (f *File) Locate(err error) error {
	if err == nil {
		return nil
	}
	f.mu.Lock()
	c := f.now.content
	f.mu.Unlock()
	var ours, others []error
	for _, e := range flat(err) {
		if p, ok := e.(*mtls.ConfigError); ok && p.Rule > 0 && p.Rule <= len(c.rules) {
			ours = append(ours, e)
		} else {
			others = append(others, e)
		}
	}
	if len(ours) == 0 {
		return err
	}
	return errors.Join(append(flat(c.locate(errors.Join(ours...), nil)), others...)...)
}

// Reload reads the files and takes what they say at once, all or nothing. On error
// the present rules stay, and Guard.Ready reports it until the files are right
// again. Call it only when nobody is writing the files; Watch makes sure of that.
func (f *File) Reload() error {
	f.mu.Lock()
	l := f.read()
	err := f.take(l)
	f.next = nil
	if err != nil {
		f.next = l // which Watch need not report again
	}
	f.mu.Unlock()
	f.tell(err)
	return err
}

// tell calls OnReload, without the lock, so that it may use the File.
func (f *File) tell(err error) {
	if f.options.OnReload != nil {
		f.options.OnReload(err)
	}
}

// take puts in force what was read, or reports what is wrong with it.
func (f *File) take(l *loaded) error {
	err := l.err
	changed := !reflect.DeepEqual(l.rules, f.now.rules) // deny_all has none
	switch {
	case err != nil:
		f.policy.ReloadFailed(err)
	case !changed:
		if f.failed {
			f.policy.ReloadFailed(nil)
		}
	default:
		rules := l.rules
		if l.denyAll {
			rules = nobody()
		}
		if err = f.policy.Replace(rules...); err != nil {
			err = l.locate(err, nil)
			f.policy.ReloadFailed(err) // with the places in the file
		}
	}
	l.named.forget()
	again := l.judged
	f.failed, l.judged = err != nil, true
	if err == nil {
		f.now = l
		f.next = nil
	}
	switch {
	case err != nil && again: // it was said
	case err != nil:
		f.options.Logger.Error("the policy file is not taken, and the present rules stay", "file", f.path, "error", err)
	case changed:
		f.options.Logger.Info("the policy file is in force", "file", f.path, "rules", len(l.rules), "deny_all", l.denyAll)
	}
	return err
}

// nobody is deny_all in the form of rules, which Policy.Replace needs: one that is
// out of force and could not admit anybody if it were in force.
func nobody() []mtls.Rule {
	return []mtls.Rule{{Name: "deny_all", Deny: true, Disabled: true, Certificates: []mtls.CertificateHash{{0xff}}}}
}

// Watch looks at the policy and at the files that it names until the context ends,
// and takes what is new. It returns the context's error, or at once if the File is
// watched already. It works with editors that put a new file in the place of the
// old one, and with volumes of Kubernetes.
//
// New content is taken when two looks in a row have found the same, so that a
// file that is just being written is not taken half. A failure is reported once: to
// the Logger, to OnReload and to Guard.Ready, which reports it until the files are
// right again.
func (f *File) Watch(ctx context.Context) error {
	if err := f.watch(true); err != nil {
		return err
	}
	defer f.watch(false)
	ticker := time.NewTicker(f.options.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			if news, err := f.look(); news {
				f.tell(err)
			}
		}
	}
}

func (f *File) watch(on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on && f.watching {
		return errors.New("mtls: " + f.path + " is watched already")
	}
	f.watching = on
	return nil
}

// look takes what it finds as it found it at the last look, and reports whether there
// is something to tell.
func (f *File) look() (news bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.now.unchanged():
		f.next = nil
		if news = f.failed; news {
			f.policy.ReloadFailed(nil)
			f.failed = false
			f.options.Logger.Info("the policy file is again the one in force", "file", f.path)
		}
		return news, nil
	case f.next == nil || !f.next.unchanged():
		f.next = f.read()
		return false, nil
	case f.next.judged && f.next.err != nil:
		return false, nil
	}
	// Rules that were good, and not for the Roots, may be good for the present ones.
	again := f.next.judged
	err = f.take(f.next)
	return err == nil || !again, err
}
