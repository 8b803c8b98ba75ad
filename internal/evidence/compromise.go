package evidence

import "maps"

const maxKeys = 4096 // CA keys known to be compromised

// Compromise records that a CA's key is in other hands: from now on it counts
// for nothing, whatever certificate it appears in. It is not forgotten while the
// process lives.
func (e *Engine) Compromise(key [32]byte, why string) {
	e.compromisedMu.Lock()
	defer e.compromisedMu.Unlock()
	next := map[[32]byte]string{}
	if old := e.compromised.Load(); old != nil {
		if _, known := (*old)[key]; known || len(*old) >= maxKeys {
			return
		}
		maps.Copy(next, *old)
	}
	next[key] = why
	e.compromised.Store(&next)
}

// Keys is a state of the set of compromised keys, and of what else is known
// beyond the slots of a certificate's sources.
type Keys struct {
	m       *map[[32]byte]string
	stapled uint64
}

// CompromisedKeys returns the present set. Two states are equal (==) if nothing
// was added in between, and no client stapled the news of a revocation.
func (e *Engine) CompromisedKeys() Keys {
	return Keys{e.compromised.Load(), e.stapledRevocations.Load()}
}

// Why returns why a key is compromised, and whether it is.
func (k Keys) Why(key [32]byte) (string, bool) {
	if k.m == nil {
		return "", false
	}
	why, ok := (*k.m)[key]
	return why, ok
}
