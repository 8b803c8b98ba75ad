package mtls

// Read, Version, Poll and Err are what a Guard calls.
func (c *CRLFiles) Read(rawIssuer []byte) ([][]byte, string, error) { return c.read(rawIssuer) }

// Version see Read.
func (c *CRLFiles) Version(rawIssuer []byte) string { return c.version(rawIssuer) }

// Poll see Read.
func (c *CRLFiles) Poll() bool { return c.poll() }

// Err see Read.
func (c *CRLFiles) Err() error { return c.err() }

// ParseCRLs lets the fuzzer reach the parser.
func ParseCRLs(data []byte) ([][]byte, error) { return parseCRLs(data) }
