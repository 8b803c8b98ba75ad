package evidence

import (
	"fmt"
	"time"
)

// takeStaple puts a response that the client stapled into its slot, once it is
// verified, and reports whether it says anything that counts. It is called in the
// request phase only, when the client has proved that it holds the key.
func (e *Engine) takeStaple(q Query, src sources) bool {
	if !q.Leaf || len(q.Staple) == 0 {
		return false
	}
	st, _, err := e.verify(&slot{kind: kindStaple}, q, q.Staple, "")
	if err != nil {
		return false
	}
	now := e.now()
	_ = src.staple.take(&held{said: []*statement{st}, taken: now, mark: new(mark)}) // an older response than the one held gains nothing: the newer one stays
	return e.view(item{src.staple, src.staple.held.Load().said[0]}, nil, q, now).status != Unknown
}

// peekStaple reads a staple without keeping it.
func (e *Engine) peekStaple(q Query, now time.Time) view {
	s := &slot{kind: kindStaple, id: sourceOf(kindStaple, nil)}
	st, _, err := e.verify(s, q, q.Staple, "")
	if err != nil {
		return view{problem: fmt.Sprintf("%s: %v", s.name(), err)}
	}
	return e.view(item{s, st}, nil, q, now)
}
