//go:build !unix

package app

import (
	"os"
	"path/filepath"
)

// lockDir would take a data directory for this process; only Unix systems let go of it when a process dies.
func lockDir(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "lawnberry.lock"), os.O_RDWR|os.O_CREATE, 0o600)
}
