package mtls

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"time"
)

// TLSConfig returns a tls.Config for servers all of whose clients must be
// admitted: the handshake refuses whom memory can refuse, with an alert (a TLS
// 1.3 client that is still sending may see a reset connection instead), and
// Handler or Check decides the rest. base is copied; nil is an empty one. The
// server's own certificate is the caller's: in base, or the files given to
// ListenAndServeTLS.
//
// ClientAuth becomes tls.RequireAnyClientCert, because crypto/tls would
// otherwise insist on the clientAuth purpose and forget to look at resumed
// sessions again; so tls.ConnectionState.VerifiedChains is nil, and Identity has the
// chain. The caller's VerifyPeerCertificate, VerifyConnection and
// GetConfigForClient are kept: the first two run after the guard's own, and a
// config that the third returns is guarded as well. WrapSession and
// UnwrapSession, with SessionLifetime, go on sealing and opening the tickets; so
// do keys set with SetSessionTicketKeys on base or on the result, but not on a
// clone of the result or on a config that GetConfigForClient returns. TLS
// versions before 1.2 are refused.
func (g *Guard) TLSConfig(base *tls.Config) *tls.Config { return g.tlsConfig(base, nil, true) }

// OptionalTLSConfig returns a tls.Config for servers that also have public
// routes: the handshake completes for any certificate and for none, and Handler or
// Require answers whom it refuses. It is otherwise as TLSConfig.
func (g *Guard) OptionalTLSConfig(base *tls.Config) *tls.Config {
	return g.tlsConfig(base, nil, false)
}

// tlsConfig guards a copy of base. Tickets are sealed with the keys of the
// config in keys, or with the copy's own.
func (g *Guard) tlsConfig(base, keys *tls.Config, required bool) *tls.Config {
	conf := base.Clone()
	if conf == nil {
		conf = &tls.Config{}
	}
	if keys == nil {
		keys = conf
	}
	if conf.MinVersion < tls.VersionTLS12 {
		conf.MinVersion = tls.VersionTLS12
	}
	if conf.Time == nil && g.built() {
		conf.Time = g.clock
	}
	conf.ClientAuth = tls.RequestClientCert
	if required {
		conf.ClientAuth = tls.RequireAnyClientCert
		if g.built() && g.reportOnly {
			conf.ClientAuth = tls.RequestClientCert
		}
		verifyConnection, verifyCertificate := conf.VerifyConnection, conf.VerifyPeerCertificate
		conf.VerifyConnection = func(cs tls.ConnectionState) error {
			if err := g.VerifyConnection(cs); err != nil || verifyConnection == nil {
				return err
			}
			return verifyConnection(cs)
		}
		if verifyCertificate != nil { // only then: it would decide everything twice
			conf.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
				if err := g.VerifyPeerCertificate(raw, chains); err != nil {
					return err
				}
				return verifyCertificate(raw, chains)
			}
		}
	}
	g.limitSessions(conf, keys)
	if next := conf.GetConfigForClient; next != nil {
		conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := next(hello)
			if chosen == nil || err != nil {
				return nil, err // nil: go on with the config that is guarded already
			}
			return g.tlsConfig(chosen, keys, required), nil
		}
	}
	return conf
}

// stampPrefix marks our entry of a session's Extra: the time of the full
// handshake and the server name follow.
var stampPrefix = []byte("mtlsguard/full-handshake\x00")

// limitSessions turns session tickets off, or bounds the lifetime of sessions
// from the full handshake on: crypto/tls gives each resumption of TLS 1.3 a
// ticket that is young again, so that a lineage of sessions would never end.
func (g *Guard) limitSessions(conf, keys *tls.Config) {
	if !g.built() || g.lifetime == 0 {
		conf.SessionTicketsDisabled = true
		return
	}
	wrap, unwrap := conf.WrapSession, conf.UnwrapSession
	if wrap == nil {
		wrap = keys.EncryptTicket
	}
	if unwrap == nil {
		unwrap = keys.DecryptTicket
	}
	conf.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		if cs.DidResume {
			// The time of the full handshake is not known any more. A ticket must be
			// sent all the same; nothing can be done with this one.
			ticket := make([]byte, 32)
			rand.Read(ticket)
			return ticket, nil
		}
		stamp := binary.BigEndian.AppendUint64(bytes.Clone(stampPrefix), uint64(g.now().Unix()))
		ss.Extra = append(ss.Extra, append(stamp, cs.ServerName...))
		return wrap(cs, ss)
	}
	conf.UnwrapSession = func(id []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := unwrap(id, cs)
		if ss == nil || err != nil || !g.resumable(ss, cs) {
			return nil, err
		}
		return ss, nil
	}
}

// resumable reports whether the session's full handshake was within the
// lifetime, and for the same server name: a session of one virtual host must not
// be of use at another (CVE-2025-23419).
func (g *Guard) resumable(ss *tls.SessionState, cs tls.ConnectionState) bool {
	for _, extra := range ss.Extra {
		stamp, ok := bytes.CutPrefix(extra, stampPrefix)
		if !ok || len(stamp) < 8 {
			continue
		}
		age := g.now().Sub(time.Unix(int64(binary.BigEndian.Uint64(stamp)), 0))
		return age >= -time.Minute && age <= g.lifetime && string(stamp[8:]) == cs.ServerName
	}
	return false
}
