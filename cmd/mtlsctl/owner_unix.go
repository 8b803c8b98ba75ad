//go:build unix

package main

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives a new file the owner and the group of the one that it replaces.
func keepOwner(f *os.File, old fs.FileInfo) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	has, ok := mine.Sys().(*syscall.Stat_t)
	wanted, too := old.Sys().(*syscall.Stat_t)
	if !ok || !too || has.Uid == wanted.Uid && has.Gid == wanted.Gid {
		return nil
	}
	return f.Chown(int(wanted.Uid), int(wanted.Gid))
}
