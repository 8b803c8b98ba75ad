package iis

import (
	"bytes"
	"fmt"

	"github.com/mtlsguard/mtls/policyfile"
)

// Policy returns a policy file with the rules, under comments that say what the
// rules are and repeat the notes. Without rules it denies all. File is the name of the
// configuration.
func (r *Result) Policy(file string) ([]byte, error) {
	var b bytes.Buffer
	where := ""
	if r.Location != "" {
		where = ", location " + quote(r.Location)
	}
	fmt.Fprintf(&b, "## Made from the client certificate mappings of IIS: %s%s.\n", plain(file), where)
	b.WriteString(`##
## Authorities: any CA can write any name, so each rule that admits says whose
## certificates it means. IIS takes every CA of the machine's store.
## Origin none: the mappings of IIS do not ask where a connection comes from. State an
## origin for each partner whose addresses are known; those of ipSecurity are not taken.
## Deny: such rules are looked at first, hold for every authority, and take letters of
## any case for the same.
`)
	for _, part := range []struct {
		title string
		lost  bool
	}{{"Not carried over, or decided otherwise than by IIS:", true}, {"To know:", false}} {
		for _, n := range r.Notes {
			if n.Lost != part.lost {
				continue
			}
			if part.title != "" {
				fmt.Fprintf(&b, "##\n## %s\n", part.title)
				part.title = ""
			}
			fmt.Fprintf(&b, "## %s\n", n.At(file))
		}
	}
	b.WriteString("\n")
	text, err := policyfile.Marshal(r.Rules...)
	if err != nil {
		return nil, err
	}
	b.Write(text)
	return b.Bytes(), nil
}
