//go:build !unix

package store

import (
	"fmt"
	"os"
	"path/filepath"
)

// lockDir opens the lock file. This system has no lock that ends with the process, so nobody is kept out.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return f, nil
}
