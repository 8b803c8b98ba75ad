package mtls

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// A partner with a sub-CA of its own cannot have all clients of the anchor
// that it shares refused, by revoking many CAs below its own.
func TestOnePartnerFillsTheCompromisedKeysOfAnAnchor(t *testing.T) {
	a := &authority{Authority: Authority{Name: "shared"}}
	a.roots = &rootsState{authorities: []*authority{a}}
	root, partner, victim := KeyHash{1}, KeyHash{2}, KeyHash{3}
	a.keys = map[KeyHash]bool{root: true}
	var c compromisedKeys
	for i := range maxCompromisedKeys + 1 {
		var key KeyHash
		binary.BigEndian.PutUint64(key[8:], uint64(i)+1)
		c.add(key, candidate{authority: a, keys: []KeyHash{key, partner, root}}, "revoked")
	}
	_, bad := c.condemned(candidate{authority: a, keys: []KeyHash{victim, root}})
	require.False(t, bad)
	_, bad = c.condemned(candidate{authority: a, keys: []KeyHash{partner, root}})
	require.True(t, bad, "the partner's own")
}
