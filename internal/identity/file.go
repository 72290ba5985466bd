package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/internal/owner"
)

const (
	fileName = "users.yaml"
	lockName = "users.lock"
	maxFile  = 1 << 20 // bytes
	maxUsers = 1000
)

const heading = `# Written by "lawnberry user". Whoever reads this can try passwords on it, so only its owner may.
`

// Path returns the path of the users file in a data directory.
func Path(dir string) string { return filepath.Join(dir, fileName) }

// A Book is what the file holds.
type Book struct {
	Users []User `yaml:"users"`
}

// Find returns the user of that name, nil without one. It is valid until the book is changed.
func (b *Book) Find(name string) *User {
	if i := b.index(name); i >= 0 {
		return &b.Users[i]
	}
	return nil
}

func (b *Book) index(name string) int {
	return slices.IndexFunc(b.Users, func(u User) bool { return u.Name == name })
}

// ErrNoUser is a name that nobody has, ErrExists one that somebody has.
var (
	ErrNoUser = errors.New("no such user")
	ErrExists = errors.New("there is such a user already")
)

// Add adds a user whose password has that hash.
func (b *Book) Add(name, role, hash string) error {
	if err := errors.Join(CheckName(name), CheckRole(role)); err != nil {
		return err
	}
	if b.index(name) >= 0 {
		return fmt.Errorf("user %s: %w", name, ErrExists)
	}
	if len(b.Users) >= maxUsers {
		return fmt.Errorf("there are %d users, and that is the limit", maxUsers)
	}
	now := time.Now().UTC().Truncate(time.Second)
	b.Users = append(b.Users, User{Name: name, Role: role, Hash: hash, Created: now, Changed: now})
	slices.SortFunc(b.Users, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// Change calls change with the user of that name.
func (b *Book) Change(name string, change func(*User)) error {
	u := b.Find(name)
	if u == nil {
		return fmt.Errorf("user %s: %w", name, ErrNoUser)
	}
	before := *u
	if change(u); *u != before {
		u.Changed = time.Now().UTC().Truncate(time.Second)
	}
	return nil
}

// Remove removes the user of that name.
func (b *Book) Remove(name string) error {
	i := b.index(name)
	if i < 0 {
		return fmt.Errorf("user %s: %w", name, ErrNoUser)
	}
	b.Users = slices.Delete(b.Users, i, i+1)
	return nil
}

// Load reads the users of a data directory. A directory without the file has none. A file that others may read or change is refused.
func Load(dir string) (*Book, error) {
	b, _, err := load(dir)
	return b, err
}

// load also returns what the file was like; nil without one.
func load(dir string) (*Book, fs.FileInfo, error) {
	path := Path(dir)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Book{}, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("users: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("users: %w", err)
	}
	if err := checkAccess(path, info); err != nil {
		return nil, info, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, info, fmt.Errorf("users: %w", err)
	}
	b, err := parse(text)
	if err != nil {
		return nil, info, fmt.Errorf("users: %s: %w", path, err)
	}
	return b, info, nil
}

// parse reads the file. Its errors show no hash.
func parse(text []byte) (*Book, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	b := &Book{}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(b); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New(`is empty: want "users: []" at least`)
		}
		var wrong *yaml.TypeError
		if errors.As(err, &wrong) { // it quotes values
			line, _, _ := strings.Cut(wrong.Errors[0], ":")
			return nil, fmt.Errorf("%s: has an unknown key, or a value of the wrong kind", line)
		}
		return nil, err
	}
	if d.Decode(new(yaml.Node)) != io.EOF {
		return nil, errors.New("holds more than one YAML document")
	}
	if len(b.Users) > maxUsers {
		return nil, fmt.Errorf("holds more than %d users", maxUsers)
	}
	names := make(map[string]bool, len(b.Users))
	for i, u := range b.Users {
		if err := errors.Join(CheckName(u.Name), CheckRole(u.Role)); err != nil {
			return nil, fmt.Errorf("user %d: %w", i+1, err)
		}
		if names[u.Name] {
			return nil, fmt.Errorf("user %s is there twice", u.Name)
		}
		names[u.Name] = true
		if _, err := parseDigest(u.Hash); err != nil {
			return nil, fmt.Errorf("user %s: the hash %w", u.Name, err)
		}
		if len(u.Mosquitto) > maxVerifier {
			return nil, fmt.Errorf("user %s: the password for Mosquitto is longer than %d bytes", u.Name, maxVerifier)
		}
	}
	return b, nil
}

// Edit reads the users of a data directory, which it makes when missing, calls change, and writes them unless that fails. The file is
// replaced as a whole and is on the disk when Edit returns. Another Edit, of any process, waits.
func Edit(dir string, change func(*Book) error) (err error) {
	if err := owner.MkdirAll(dir); err != nil {
		return fmt.Errorf("users: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, lockName))
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	defer unlock()
	b, err := Load(dir)
	if err != nil {
		return err
	}
	if err := change(b); err != nil {
		return err
	}
	var text bytes.Buffer
	text.WriteString(heading)
	e := yaml.NewEncoder(&text)
	e.SetIndent(2)
	if b.Users == nil {
		b.Users = []User{}
	}
	if err := errors.Join(e.Encode(b), e.Close()); err != nil {
		return fmt.Errorf("users: %w", err)
	}
	if _, err := parse(text.Bytes()); err != nil { // what could not be read again is not written
		return fmt.Errorf("users: %w", err)
	}
	if err := replace(Path(dir), text.Bytes()); err != nil {
		return fmt.Errorf("users: %w", err)
	}
	return nil
}

// replace writes a file that is there as a whole or not at all, also after a power cut.
func replace(path string, text []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".users-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing once it is renamed
	err = owner.Inherit(f, dir)
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(syncDir(d), d.Close())
}
