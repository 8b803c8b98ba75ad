// Package pemfile reads files of PEM blocks (RFC 7468), and drops nothing that could
// be one. encoding/pem takes whatever it cannot read for a comment: a list that is
// read that way is shorter than the file without a word.
package pemfile

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"unicode"
	"unicode/utf8"
)

var dashes = []byte("-----")

// Is reports whether data is PEM, or was meant as it.
func Is(data []byte) bool { return bytes.Contains(data, dashes) }

// Each calls f with each block of a PEM file, and stops at the first error. What stands
// before, between and behind the blocks must be comments: printable UTF-8 that
// could not be a part of a block.
func Each(data []byte, f func(*pem.Block) error) error {
	for n := 0; ; n++ {
		block, rest := pem.Decode(data)
		if block == nil {
			if bytes.Contains(rest, dashes) {
				return fmt.Errorf("damaged PEM after %d blocks", n)
			}
			return comment(rest, n)
		}
		// A block has four, and stands at the end of what was read.
		read := data[:len(data)-len(rest)]
		if bytes.Count(read, dashes) != 4 {
			return fmt.Errorf("damaged PEM after %d blocks", n)
		}
		if err := comment(read[:bytes.Index(read, dashes)], n); err != nil {
			return err
		}
		if err := f(block); err != nil {
			return err
		}
		data = rest
	}
}

var (
	armour = regexp.MustCompile(`\b(BEGIN|END)\b`)
	// base64Run is as long as no word is. Hexadecimal is usual in comments: serial
	// numbers and hashes.
	base64Run = regexp.MustCompile(`[A-Za-z0-9+/]{40,}`)
	hexRun    = regexp.MustCompile(`^[0-9A-Fa-f]+$`)
)

// comment refuses text beside blocks that is none, or may be a block.
func comment(text []byte, after int) error {
	if after == 0 {
		text = bytes.TrimPrefix(text, []byte("\ufeff")) // editors begin a file with it
	}
	for rest := text; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			return beside(after, errors.New("bytes that are not UTF-8"))
		case r != '\n' && r != '\r' && r != '\t' && !unicode.IsPrint(r):
			return beside(after, fmt.Errorf("a character that cannot be printed, %U", r))
		}
		rest = rest[size:]
	}
	if word := armour.Find(text); word != nil {
		return beside(after, fmt.Errorf("%s, as of a block whose dashes are damaged", word))
	}
	for line := range bytes.Lines(text) {
		for _, run := range base64Run.FindAll(line, -1) {
			alone := len(bytes.Trim(line, " \t\r\n=")) == len(run)
			if alone || !hexRun.Match(run) {
				return beside(after, errors.New("a line that looks like the content of a block"))
			}
		}
	}
	return nil
}

func beside(after int, what error) error {
	return fmt.Errorf("beside the PEM blocks, after %d of them, is something that is no comment: %w", after, what)
}
