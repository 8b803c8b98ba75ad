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

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

var dashes = []byte("-----")

// Is reports whether data is PEM, or was meant as it. DER may have five dashes in a
// name or, by chance, in a signature.
func Is(data []byte) bool { return bytes.Contains(data, dashes) && !isDER(data) }

// isDER reports whether data is one SEQUENCE by its first octets, which no text can
// be: it would have to end within 129 characters, or has an octet that is not ASCII.
func isDER(data []byte) bool {
	var inner cryptobyte.String
	s := cryptobyte.String(data)
	return s.ReadASN1(&inner, asn1.SEQUENCE) && s.Empty()
}

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
	// armour is a BEGIN or END that nothing but punctuation stands before, or dashes.
	// "FRONT END CA" is none, nor is "# BEGIN partners".
	armour = regexp.MustCompile(`(?m)(?:^[^\pL\pN#\n]*|--[\t ]*|[\x{2010}-\x{2015}\x{2212}][\t ]*)(BEGIN|END)\b`)
	// base64Run is a line of base64, or most of one. Hexadecimal is usual in comments,
	// serial numbers and hashes, and so are paths and URLs.
	base64Run = regexp.MustCompile(`[A-Za-z0-9+/]{40,}`)
	hexRun    = regexp.MustCompile(`^[0-9A-Fa-f]+$`)
	// inURL is one whole URL and not what a comma or a quotation mark parts from it.
	inURL = regexp.MustCompile(`(?i)\b[a-z][a-z0-9+.-]{1,15}://[A-Za-z0-9._~/?#@!$&'()*+:;=%-]*`)
	// longRun is more than a path has, and may be a parameter.
	longRun = regexp.MustCompile(`[A-Za-z0-9+]{60,}|[A-Za-z0-9+/]{200,}`)
	// base64Line is a line of a block that is wrapped early.
	base64Line = regexp.MustCompile(`^[A-Za-z0-9+/]{16,}$`)
)

// encoded reports whether a run of characters of base64 is more than words between
// slashes. What encodes 30 octets at random has a part without one, of 20 characters
// with upper case, lower case and digits, but for a few in a hundred; a block has
// many such lines.
func encoded(run []byte) bool {
	for part := range bytes.SplitSeq(run, []byte("/")) {
		if len(part) >= 20 && mixed(part) {
			return true
		}
	}
	return false
}

// mixed reports whether a text has upper case, lower case and digits, and is not
// hexadecimal.
func mixed(text []byte) bool {
	return !hexRun.Match(text) && bytes.ContainsFunc(text, unicode.IsUpper) &&
		bytes.ContainsFunc(text, unicode.IsLower) && bytes.ContainsFunc(text, unicode.IsDigit)
}

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
	text = bytes.ReplaceAll(text, []byte("\r"), []byte("\n")) // which ends a line as well
	if m := armour.FindSubmatch(text); m != nil {
		return beside(after, fmt.Errorf("%s, as of a block whose dashes are damaged", m[1]))
	}
	short := 0 // the length of the line before, if that was as of a block
	for line := range bytes.Lines(text) {
		line = inURL.ReplaceAllFunc(line, func(url []byte) []byte { return bytes.Join(longRun.FindAll(url, -1), []byte(" ")) })
		bare := bytes.Trim(line, " \t\n>=\"',\\")
		now := len(bare) > 0 && bare[0] != '/' && base64Line.Match(bare) && mixed(bare)
		if now && len(bare) == short {
			return beside(after, errors.New("lines that look like the content of a block"))
		}
		if now {
			short = len(bare)
		} else if len(bare) > 0 {
			short = 0
		}
		for _, run := range base64Run.FindAll(line, -1) {
			alone := len(bytes.Trim(line, " \t\n=")) == len(run)
			if encoded(run) || alone && hexRun.Match(run) {
				return beside(after, errors.New("a line that looks like the content of a block"))
			}
		}
	}
	return nil
}

func beside(after int, what error) error {
	return fmt.Errorf("beside the PEM blocks, after %d of them, is something that is no comment: %w", after, what)
}
