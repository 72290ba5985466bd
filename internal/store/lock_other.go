//go:build !unix

package store

import (
	"fmt"
	"os"
	"path/filepath"
)

// Lock opens the lock file. This system has no lock that ends with the process, so nobody is kept out.
func Lock(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return f, nil
}
