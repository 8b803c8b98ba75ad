package mtlstest_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

func TestRunCleansUpTheLastFirstHoweverTheFunctionEnds(t *testing.T) {
	for _, test := range []struct {
		name  string
		end   func(mtlstest.TB)
		err   string // empty: none
		panic any
	}{
		{name: "it returns", end: func(mtlstest.TB) {}},
		{name: "Fatalf is the error", end: func(t mtlstest.TB) { t.Fatalf("the port is %d", 8443) }, err: "the port is 8443"},
		{name: "a helper's Fatalf is the error", end: func(t mtlstest.TB) { fail(t) }, err: "deep down"},
		{name: "a panic goes on", end: func(mtlstest.TB) { panic("a defect") }, panic: "a defect"},
		{name: "a panic with an error goes on", end: func(mtlstest.TB) { panic(os.ErrNotExist) }, panic: os.ErrNotExist},
	} {
		t.Run(test.name, func(t *testing.T) {
			var order []string
			var dirs []string
			run := func() error {
				return mtlstest.Run(func(tb mtlstest.TB) {
					tb.Cleanup(func() { order = append(order, "first") })
					for range 2 {
						dirs = append(dirs, tb.TempDir())
					}
					for _, dir := range dirs {
						require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
					}
					tb.Cleanup(func() {
						order = append(order, "second")
						require.DirExists(t, dirs[0], "it was made before, so it is removed after")
					})
					tb.Cleanup(func() { order = append(order, "third") })
					test.end(tb)
					order = append(order, "end")
				})
			}
			if test.panic != nil {
				require.PanicsWithValue(t, test.panic, func() { _ = run() })
			} else if err := run(); test.err != "" {
				require.EqualError(t, err, test.err)
			} else {
				require.NoError(t, err)
				require.Equal(t, "end", order[0])
				order = order[1:]
			}
			require.Equal(t, []string{"third", "second", "first"}, order, "each once, and nothing of the function after its end")
			require.NotEqual(t, dirs[0], dirs[1])
			for _, dir := range dirs {
				require.NoDirExists(t, dir)
			}
		})
	}
}

// fail stands for the helpers of this package.
func fail(t mtlstest.TB) {
	t.Helper()
	t.Fatalf("deep %s", "down")
}

func TestRunWithoutAPlaceForTempDirIsAnError(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	err := mtlstest.Run(func(tb mtlstest.TB) {
		tb.TempDir()
		t.Error("TempDir must end the function")
	})
	require.ErrorContains(t, err, "mtlstest: ")
}

func TestRunsDoNotShareWhatTheyCleanUp(t *testing.T) {
	var order []string
	require.NoError(t, mtlstest.Run(func(outer mtlstest.TB) {
		outer.Cleanup(func() { order = append(order, "outer") })
		require.Error(t, mtlstest.Run(func(inner mtlstest.TB) {
			inner.Cleanup(func() { order = append(order, "inner") })
			inner.Fatalf("this one only")
		}))
		order = append(order, "between")
	}))
	require.Equal(t, []string{"inner", "between", "outer"}, order)
}

func TestServersEndWithRun(t *testing.T) {
	var url string
	var client *http.Client
	require.NoError(t, mtlstest.Run(func(tb mtlstest.TB) {
		env := mtlstest.NewEnv(tb)
		guard := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}})
		server := mtlstest.NewOptionalServer(tb, guard, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		url, client = server.URL, server.Client(nil, mtlstest.ClientOptions{})
		res, err := client.Get(url)
		require.NoError(t, err)
		res.Body.Close()
	}))
	_, err := client.Get(url)
	require.Error(t, err)
}
