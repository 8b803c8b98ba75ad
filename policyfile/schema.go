package policyfile

import (
	_ "embed" // for the schema
	"slices"
)

//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of the format, with descriptions
// that editors show. What it refuses Parse refuses; Parse knows more, such as two
// rules of one name.
func Schema() []byte { return slices.Clone(schema) }
