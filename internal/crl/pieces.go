package crl

import "fmt"

// maxPieces is into how many pieces a large list is divided, so that several
// processors read it. The signature is verified at the same time.
const maxPieces = 4

// readPieces reads all entries. Where an entry begins is known only when the one
// before it has been read, so the other processors begin at guesses: a guess was
// right if the entries before it end there, and otherwise what was read from it is
// thrown away.
func readPieces(b *indexBuilder, contents []byte, o entryOptions) ([]*run, error) {
	starts := []int{0}
	// In an indirect list an entry may be for the issuer that an earlier one names.
	for i := 1; i < maxPieces && len(contents) > large && !o.indirect; i++ {
		if at, ok := guess(contents, i*(len(contents)/maxPieces)); ok {
			starts = append(starts, at)
		}
	}
	type piece struct {
		run      *run
		from, to int // where its first entry begins, and the next piece's
		end      int // of its last entry
		err      error
	}
	read := func(p *piece) {
		p.run = b.newRun()
		p.end, p.err = readRun(p.run, contents, p.from, p.to, o)
	}
	pieces := make([]piece, len(starts))
	var work []func()
	for i, start := range starts {
		pieces[i] = piece{from: start, to: len(contents)}
		if i > 0 {
			pieces[i-1].to = start
		}
		work = append(work, func() { read(&pieces[i]) })
	}
	parallel(work...)

	var runs []*run
	at, count := 0, 0
	for _, p := range pieces {
		if p.from != at {
			p.from = at
			read(&p)
		}
		if p.err != nil {
			return nil, fmt.Errorf("entry %d: %w", count+p.run.count, p.err)
		}
		runs = append(runs, p.run)
		at = p.end
		count += p.run.count
	}
	return runs, nil
}

// guess returns where an entry seems to begin, from a place on.
func guess(contents []byte, from int) (int, bool) {
	const (
		window = 1024
		row    = 4 // so many entries one after the other are hardly chance
	)
	for at := from; at < min(from+window, len(contents)); at++ {
		next := at
		for i := 0; ; i++ {
			if i == row {
				return at, true
			}
			_, _, size := commonEntry(contents[next:])
			if size == 0 {
				break
			}
			next += size
		}
	}
	return 0, false
}
