package pki

import (
	"fmt"
	"os"
)

// A watched value comes from files that may change.
type watched[T any] struct {
	files []File
	load  func() (T, error)

	value T
	seen  []os.FileInfo // what value, or the complaint about it, was made from; nil entries are missing files
}

// look takes over what is new in the files and reports whether it did. An error says why it did not; it is told once.
func (w *watched[T]) look() (changed bool, err error) {
	now := make([]os.FileInfo, len(w.files))
	same := w.seen != nil
	for i, f := range w.files {
		now[i], _ = os.Stat(f.Path) // nil when it is missing: load says so
		same = same && alike(now[i], w.seen[i])
	}
	if same {
		return false, nil
	}
	w.seen = now // before the reading: what changes meanwhile is new the next time
	value, err := w.load()
	if err != nil {
		return false, err
	}
	w.value = value
	return true, nil
}

func alike(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// paths names the files with their keys.
func (w *watched[T]) paths() string {
	text := w.files[0].String()
	for _, f := range w.files[1:] {
		text += fmt.Sprintf(", %s", f)
	}
	return text
}
