// Package directory maps the clients that package mtls has verified to accounts of
// Active Directory or of another LDAP directory: name, identifier, groups and
// attributes, disabled or not. A *Mapper is a value for mtls.Config.Accounts.
//
// NewActiveDirectory does what Windows does with a client's certificate (IIS with
// clientCertificateMappingAuthentication, KB5014754): the issuing CA must be in the
// enterprise NTAuth store, and the certificate must map to one account, by default
// strongly. NewLDAP finds the account with a filter of the operator's.
//
// Whatever happens, nobody is admitted by default. Where the directory says that
// there is no such account, or more than one, the client is refused
// (mtls.ErrNoAccount). Where it does not answer, or not fully, that is not known, and
// the client is asked to try again (mtls.ReasonAccountUnknown), unless
// Connection.Stale allows an earlier answer for a while. Referrals are never followed.
package directory
