package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/lawnberry/lawnberry/internal/owner"
)

const (
	maxFile = 1 << 20 // bytes
	maxKeys = 1000
)

// A key file has one key a line, as JSON; empty lines and those that begin with # say nothing. The file's mode is 0600.

// Load reads the keys of a file, in its order.
func Load(path string) ([]*Key, error) {
	keys, _, err := load(path)
	return keys, err
}

func load(path string) ([]*Key, fs.FileInfo, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("key file %s is not there: make one with \"lawnberry key new --file %s\", or copy it from who has the keys: %w", path, path, fs.ErrNotExist)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("key file %s cannot be read by this user: run as its owner, or give it to this user with chown: %w", path, fs.ErrPermission)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("key file: %w", err)
	}
	if err := checkMode(path, info); err != nil {
		return nil, info, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, info, fmt.Errorf("key file: %w", err)
	}
	keys, err := parseFile(text)
	if err != nil {
		return nil, info, fmt.Errorf("key file %s: %w", path, err)
	}
	return keys, info, nil
}

// checkMode refuses a file that others than its owner may read or change.
func checkMode(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("key file %s is no file", path)
	}
	if m := info.Mode().Perm(); runtime.GOOS != "windows" && m&0o077 != 0 {
		return fmt.Errorf("key file %s may be used by others than its owner (mode %04o): chmod 600 %s", path, m, path)
	}
	return nil
}

func parseFile(text []byte) ([]*Key, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	var keys []*Key
	seen := make(map[string]int)
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if at, twice := seen[k.ID]; twice {
			return nil, fmt.Errorf("line %d: has the id of line %d: an id is one key's for ever", n, at)
		}
		seen[k.ID] = n
		if keys = append(keys, k); len(keys) > maxKeys {
			return nil, fmt.Errorf("has more than %d keys: take out those that no message is signed or encrypted with any more", maxKeys)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("has no key in it")
	}
	return keys, nil
}

const heading = "# Keys of lawnberry, one a line. Whoever reads this can sign and decrypt, so only its owner may (mode 0600).\n"

// Create writes a new file with one key, on the disk when it returns. A file that is there is an error.
func Create(path string, k *Key) error {
	line, err := k.line(false)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("key file %s is there already: add a key to it with \"lawnberry key rotate\", or choose another name: %w", path, fs.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	if err := owner.Inherit(f, filepath.Dir(path)); err != nil {
		return errors.Join(fmt.Errorf("key file: %w", err), f.Close())
	}
	return finish(f, append([]byte(heading), line...))
}

// Add appends k to a file. Programs that use the file take it up within a second.
func Add(path string, k *Key) error {
	if _, err := Load(path); err != nil {
		return err
	}
	line, err := k.line(false)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	last := []byte{'\n'}
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		_, _ = f.ReadAt(last, info.Size()-1)
	}
	if last[0] != '\n' { // somebody's editor left it out
		line = append([]byte{'\n'}, line...)
	}
	return finish(f, line) // in one write: of two that add at a time neither is lost
}

func finish(f *os.File, text []byte) error {
	_, err := f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	if d, err := os.Open(filepath.Dir(f.Name())); err == nil {
		_ = d.Sync() // as far as the system can
		_ = d.Close()
	}
	return nil
}

// PublicLines returns the Ed25519 keys among keys without their secrets, as lines for the files of those who verify.
// identity, unless it is "", is whose they are.
func PublicLines(keys []*Key, identity string) []byte {
	var out []byte
	for _, k := range keys {
		if k.Algorithm != Ed25519 {
			continue
		}
		p := &Key{ID: k.ID, Algorithm: k.Algorithm, Identity: k.Identity, Created: k.Created, Active: k.Active, public: k.public}
		if identity != "" {
			p.Identity = identity
		}
		line, _ := p.line(true)
		out = append(out, line...)
	}
	return out
}

// Newest returns the key that signs or encrypts by algorithm at a time, nil without one.
func Newest(keys []*Key, algorithm string, at time.Time) *Key {
	var best *Key
	for _, k := range keys {
		if k.Algorithm == algorithm && k.Private() && !k.Active.After(at) && (best == nil || !k.Active.Before(best.Active)) {
			best = k
		}
	}
	return best
}
