// Package owner sees to it that what root writes into a directory of another user's belongs to that user, who runs the broker and has to read it.
package owner

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// MkdirAll makes a directory and those above it that are missing, for their owner's eyes only, who is that of the directory they are in.
func MkdirAll(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o700) // says what is in the way
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := MkdirAll(parent); err != nil {
			return err
		}
	}
	return makeIn(parent, filepath.Base(dir))
}

// makeIn makes a directory in parent. Nothing is looked up by its path twice: whoever owns parent could put something else into its place in between.
func makeIn(parent, name string) (err error) {
	r, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.Mkdir(name, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // another has made it, who gives it away
		}
		return err
	}
	made, err := r.OpenRoot(name) // a directory, and one below parent
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	to, err := r.Stat(".")
	if err != nil {
		return err
	}
	d, err := made.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(give(d, to), d.Close())
}

// Inherit gives what root has made in a directory to the owner of the directory. f is to be new (os.O_EXCL): with a file that was there, which may be a
// link to one elsewhere, that would be given away.
func Inherit(f *os.File, dir string) error {
	to, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return give(f, to)
}
