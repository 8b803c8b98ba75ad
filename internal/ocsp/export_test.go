package ocsp

import (
	"math/big"
	"time"
)

// Parsed is what the parser makes of the first SingleResponse, unverified.
type Parsed struct {
	Singles                            int
	Signed, Signature                  []byte
	Serial                             *big.Int
	Status                             Status
	ProducedAt, ThisUpdate, NextUpdate time.Time
}

// Parse lets the fuzzer reach the parser without a signature.
func Parse(der []byte) (*Parsed, error) {
	r, err := parse(der)
	if err != nil {
		return nil, err
	}
	p := &Parsed{Singles: len(r.singles), Signed: r.signed, Signature: r.signature, ProducedAt: r.producedAt}
	if len(r.singles) > 0 {
		s := &r.singles[0]
		p.Serial, p.Status, p.ThisUpdate, p.NextUpdate = &s.serial, s.status, s.thisUpdate, s.nextUpdate
	}
	return p, nil
}
