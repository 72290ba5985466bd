package uitest

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"
)

// All that a browser loads is under 150 KB, compressed.
func TestSize(t *testing.T) {
	const dist = "../../bridge/web/dist"
	total := 0
	check(t, filepath.WalkDir(dist, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		if _, err := w.Write(body); err != nil {
			return err
		}
		err = w.Close()
		total += out.Len()
		return err
	}))
	t.Logf("%d bytes", total)
	if total == 0 || total > 150_000 {
		t.Errorf("the dashboard has %d bytes, compressed", total)
	}
}
