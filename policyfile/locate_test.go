package policyfile_test

import (
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

// What rules and authorities do not agree on has its place in the file, and the names
// of the file.
func TestLocate(t *testing.T) {
	path := newFile(t, "version: 1\nrules:\n  - name: old\n    disabled: true\n    domains: [old.example]\n    authorities: [gone]\n"+
		"  - name: acme\n    domains: [a.example]\n    authorities: [gone, \"also gone\"]\n")
	file, err := policyfile.Load(path)
	require.NoError(t, err)
	require.NoError(t, file.Locate(nil))

	env := mtlstest.NewEnv(t)
	cfg := env.Config(file.Rules()[0])
	cfg.Policy, cfg.Logger = file.Policy(), slog.New(slog.DiscardHandler)
	_, err = mtls.New(cfg)
	require.Error(t, err)
	located := file.Locate(err)
	require.Equal(t, []string{
		`6:19: rule "old": authorities[0]: "gone": no authority of this name in Roots`,
		`9:19: rule "acme": authorities[0]: "gone": no authority of this name in Roots`,
		`9:25: rule "acme": authorities[1]: "also gone": no authority of this name in Roots`,
	}, refusals(t, located))
	var e *policyfile.Error
	require.ErrorAs(t, located, &e)
	require.Equal(t, path, e.File)
	require.Equal(t, located.Error(), file.Locate(located).Error(), "again")

	t.Run("other errors stay", func(t *testing.T) {
		cfg := cfg
		cfg.Roots = nil
		_, err := mtls.New(cfg)
		require.Error(t, err)
		require.Equal(t, err, file.Locate(err))
		other := errors.New("other")
		mixed := file.Locate(errors.Join(other, &mtls.ConfigError{Problem: "Domains", Rule: 2, Item: "Domains[0]"}, &mtls.ConfigError{Problem: "Domains", Rule: 3}))
		require.ErrorIs(t, mixed, other)
		require.EqualError(t, mixed, "mtls: "+path+":8:15: rule \"acme\": domains[0]: domains\nother\nmtls: : Domains")
	})
	t.Run("deny_all has no rules", func(t *testing.T) {
		require.NoError(t, os.WriteFile(path, []byte("version: 1\ndeny_all: true\n"), 0o600))
		require.NoError(t, file.Reload())
		err := &mtls.ConfigError{Problem: "x", Rule: 1}
		require.Equal(t, error(err), file.Locate(err))
	})
}
