package mtls

import (
	"slices"
	"time"
)

// EvidenceStatus is what a Guard knows of one source of revocation evidence, or
// of one list of a source that has several: for logs, metrics and status pages. It
// is a value; texts are printable and bounded.
type EvidenceStatus struct {
	// Authorities are the names of those whose anchor the evidence is for; none
	// once they have left Roots.
	Authorities []string `json:"authorities"`
	Kind        string   `json:"kind"`   // "crl", "delta" or "ocsp"
	Source      string   `json:"source"` // URLs, files or the type of a RevocationSource
	Issuer      string   `json:"issuer"` // name of the CA whose certificates it is about
	Scope       string   `json:"scope"`  // which of them; empty: nothing is there yet
	Entries     int      `json:"entries"`
	Number      string   `json:"number,omitempty"` // cRLNumber, decimal; empty: none
	// ThisUpdate and NextUpdate are those of the evidence at hand; NextUpdate is not
	// later than the end of a delegated signer's certificate. Zero: none is at hand.
	ThisUpdate time.Time `json:"thisUpdate,omitzero"`
	NextUpdate time.Time `json:"nextUpdate,omitzero"`
	// LastAttempt is when the source was last asked; zero: not yet. NextAttempt is
	// when it is due again, with Run or by the first request from then on; zero:
	// at once, or not at all while it is being asked or nobody needs it.
	LastAttempt time.Time `json:"lastAttempt,omitzero"`
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	Failures    int       `json:"failures"`            // attempts in a row that brought nothing current
	LastError   string    `json:"lastError,omitempty"` // of the last attempt; empty: it succeeded
	// Lapsing is 50 or 80 once so many percent of the time have passed that was
	// left to the evidence when it was fetched, and 100 once it has lapsed: alert
	// on it long before clients are refused. Zero: less.
	Lapsing int `json:"lapsing"`
}

// EvidenceStatus returns the state of every source of revocation evidence that is
// in use, in a stable order. It asks nobody.
func (g *Guard) EvidenceStatus() []EvidenceStatus {
	if !g.built() {
		return nil
	}
	roots := g.roots.state.Load()
	var list []EvidenceStatus
	for _, s := range g.evidence.Status() {
		e := EvidenceStatus{
			Kind: s.Kind, Source: printable(cut(s.Source, 512)), Issuer: printable(cut(s.Issuer, 512)), Scope: printable(cut(s.Scope, 512)),
			Entries: s.Entries, Number: s.Number, ThisUpdate: s.ThisUpdate, NextUpdate: s.NextUpdate,
			LastAttempt: s.Asked, NextAttempt: s.Next, Failures: s.Failures, LastError: printable(cut(s.Error, 512)), Lapsing: s.Lapsing,
		}
		for _, a := range roots.authorities {
			if a.keys[s.Owner] {
				e.Authorities = append(e.Authorities, a.Name)
			}
		}
		slices.Sort(e.Authorities)
		list = append(list, e)
	}
	return list
}
