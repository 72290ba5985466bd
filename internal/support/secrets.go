package support

import (
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/internal/identity"
)

// learn has the redactor know all secrets that can be found, by reading the files that hold them. None of these is collected.
func (c *collector) learn() {
	r, cfg := c.r, c.o.Loaded.Config
	for _, s := range cfg.Secrets() {
		r.know(string(s))
	}
	r.know(string(c.o.Client.Password))
	r.know(c.o.Secrets...)
	r.know(passwordOf(c.o.Client.URL))
	for _, e := range c.o.Environ {
		name, value, _ := strings.Cut(e, "=")
		if isLearned(name) && name != "PWD" && name != "OLDPWD" { // those are directories
			r.know(value)
		}
		r.know(passwordOf(value))
	}
	if text, err := readSome(c.o.Loaded.File, MaxFile); err == nil {
		r.know(scalars(text, isLearned)...)
	}
	keys := []string{cfg.Security.Signing.KeyFile, cfg.Security.Encryption.KeyFile, cfg.Broker.TLS.KeyFile, cfg.Client.TLS.KeyFile}
	if c.o.DataDir != "" {
		more, _ := filepath.Glob(filepath.Join(c.o.DataDir, "tls", "*.key")) // the pattern is right
		keys = append(keys, more...)
		if text, err := readSome(identity.Path(c.o.DataDir), MaxFile); err == nil {
			r.know(scalars(text, func(key string) bool { return key == "hash" || key == "mosquitto" })...)
		}
	}
	for _, file := range keys {
		if text, err := readSome(file, MaxFile); err == nil {
			r.know(keyTexts(string(text))...)
		}
	}
}

// passwordOf returns the password in a URL, "" without.
func passwordOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return ""
	}
	password, _ := u.User.Password()
	return password
}

// readSome reads a file that is one, up to a length.
func readSome(path string, most int64) ([]byte, error) {
	if path == "" {
		return nil, errors.New("no file")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New(path + " is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// scalars returns the values in a YAML text whose keys, or the keys above, are of a kind.
func scalars(text []byte, of func(key string) bool) (found []string) {
	var root yaml.Node
	if yaml.Unmarshal(text, &root) != nil {
		return nil
	}
	var visit func(n *yaml.Node, secret bool, depth int)
	visit = func(n *yaml.Node, secret bool, depth int) {
		if depth > maxDepth {
			return
		}
		switch n.Kind {
		case yaml.ScalarNode:
			if secret && n.Tag != "!!bool" && n.Tag != "!!null" {
				found = append(found, n.Value)
			}
		case yaml.AliasNode:
			if secret && n.Alias.Kind == yaml.ScalarNode {
				found = append(found, n.Alias.Value)
			}
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				visit(n.Content[i+1], secret || of(n.Content[i].Value), depth+1)
			}
		default:
			for _, x := range n.Content {
				visit(x, secret, depth+1)
			}
		}
	}
	visit(&root, false, 0)
	return found
}

// keyTexts returns what is secret in a key file: the keys of our format, and of PEM each line.
func keyTexts(text string) (found []string) {
	line := regexp.MustCompile(`^[A-Za-z0-9+/=_-]{16,}$`)
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		var entry struct {
			Key string `json:"key"`
		}
		switch {
		case json.Unmarshal([]byte(l), &entry) == nil && entry.Key != "":
			found = append(found, entry.Key)
		case line.MatchString(l):
			found = append(found, l)
		}
	}
	return found
}
