package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const iisDocument = "../../docs/migrate-from-iis.md"

// What the document shows is what the commands print for the configuration of the
// example.
func TestIISDocument(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	data, err := os.ReadFile(iisDocument)
	require.NoError(t, err)
	dir := t.TempDir()
	config, err := os.ReadFile("../../examples/fromiis/applicationHost.config")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "applicationHost.config"), config, 0o600))

	const begin, end = "<!-- run -->\n```console\n", "```\n"
	var out bytes.Buffer
	blocks := strings.Split(string(data), begin)
	require.Greater(t, len(blocks), 3)
	require.Equal(t, len(blocks)-1, strings.Count(string(data), "```console"), "every block is run")
	out.WriteString(blocks[0])
	for _, part := range blocks[1:] {
		block, after, ok := strings.Cut(part, end)
		require.True(t, ok, "a block without an end")
		out.WriteString(begin)
		for line := range strings.Lines(block) {
			if command, is := strings.CutPrefix(line, "$ "); is {
				cmd := exec.Command(sh, "-c", command)
				cmd.Dir = dir
				printed, _ := cmd.CombinedOutput() // a status other than 0 is a part of what is shown
				out.WriteString(line)
				out.Write(printed)
			}
		}
		out.WriteString(end + after)
	}
	if *update {
		require.NoError(t, os.WriteFile(iisDocument, out.Bytes(), 0o644))
		return
	}
	require.Equal(t, out.String(), string(data))
}
