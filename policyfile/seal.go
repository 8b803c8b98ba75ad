package policyfile

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

const (
	// sealedLine is the first line of a file that Seal has sealed. It says that the
	// last line is the seal: without it, a file that lost its end would be one
	// without a seal.
	sealedLine = "# sealed"
	sealWord   = "sha256:"
	sealBegin  = "# " + sealWord
)

// Seal returns data with a first line "# sealed" and a last line "# sha256: " with
// the SHA-256, in hexadecimal, of all bytes before it; a seal that is there is
// renewed. A file that says so in its first line, or has such a last line, is
// refused unless the seal is right: a file that was cut or damaged on its way
// is not taken. It is no signature: who can write the file can seal it. A JSON
// file becomes one of YAML by it.
//
// Seal looks at nothing else: it is for what Marshal has just made. It gives data that
// was cut before, or has errors, a seal that fits; for a file from elsewhere there is
// Reseal.
func Seal(data []byte) []byte {
	text := string(data)
	if at := sealStart(text); at >= 0 {
		text = text[:at]
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if !hasSealedLine(text) {
		text = sealedLine + "\n" + text
	}
	sum := sha256.Sum256([]byte(text))
	return []byte(text + sealBegin + " " + hex.EncodeToString(sum[:]) + "\n")
}

// Reseal is Seal for a file that people edit: it refuses, with the errors and the
// places of Parse, what Parse refuses, such as a file that says in its first line that
// it is sealed and whose last line is no seal, or whose last line has no end. Only a
// last line that is a seal and does not fit is no error: it is what Reseal renews. A
// file without a seal that was cut at the end of a line cannot be told from a whole
// one.
func Reseal(data []byte, file string) ([]byte, error) {
	if _, err := sound(data, file, true); err != nil {
		return nil, err
	}
	sealed := Seal(data)
	if _, err := sound(sealed, file, false); err != nil { // such as one that is too large now
		return nil, err
	}
	return sealed, nil
}

func hasSealedLine(text string) bool {
	first, _, _ := strings.Cut(text, "\n")
	return strings.TrimRight(first, "\r") == sealedLine
}

// sealStart returns where the last line begins if it is a seal, right or wrong, or
// -1.
func sealStart(text string) int {
	start := strings.LastIndexByte(strings.TrimRight(text, "\r\n"), '\n') + 1
	if !strings.HasPrefix(text[start:], sealBegin) {
		return -1
	}
	return start
}

// checkSeal refuses a file whose seal is wrong or missing.
func checkSeal(text string) (start int, failed *problem) {
	start = sealStart(text)
	if start < 0 {
		if hasSealedLine(text) {
			lines := strings.Count(strings.TrimRight(text, "\r\n"), "\n") + 1
			return start, &problem{at: place{lines, 1}, text: `the first line says that the file is sealed, and the last line is no seal: it was cut or damaged, or take "# sealed" out`}
		}
		return start, nil
	}
	want := sha256.Sum256([]byte(text[:start]))
	found := strings.TrimRight(text[start+len(sealBegin):], "\r\n")
	if found == " "+hex.EncodeToString(want[:]) {
		return start, nil
	}
	what := "the seal does not fit: the file was changed or damaged since it was sealed"
	if b, err := hex.DecodeString(strings.TrimSpace(found)); err != nil || len(b) != sha256.Size {
		what = "the seal is damaged: it is not the 64 hexadecimal digits of a SHA-256"
	}
	return start, &problem{at: place{strings.Count(text[:start], "\n") + 1, 1}, text: what + "; look at the file, and seal it again"}
}
