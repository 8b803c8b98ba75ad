package crl

import "sync"

// parallel runs the functions side by side and waits for all of them. A panic of
// one is the caller's, who may recover from it: in a goroutine of its own it would
// end the program.
func parallel(list ...func()) {
	var wg sync.WaitGroup
	panics := make([]any, len(list))
	for i, f := range list {
		wg.Go(func() {
			defer func() { panics[i] = recover() }()
			f()
		})
	}
	wg.Wait()
	for _, p := range panics {
		if p != nil {
			panic(p)
		}
	}
}
