package support

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/config"
)

const (
	maxDepth   = 32   // of nested data, and of directories
	maxEntries = 5000 // of the data directory
)

// configuration adds the file without comments, what applies, and what is wrong with it.
func (c *collector) configuration(context.Context) error {
	l := c.o.Loaded
	switch text, err := readSome(l.File, MaxFile); {
	case l.File == "":
	case c.o.Failed != nil:
		c.miss("configuration file", c.o.Failed)
	case err != nil:
		c.miss("configuration file", err)
	default:
		c.add("config/file.yaml", l.File+", without its comments", c.yaml(text), false)
	}
	var effective bytes.Buffer
	if err := l.WriteEffective(&effective); err != nil {
		return err
	}
	c.add("config/effective.yaml", "what applies, and where it is from", c.r.text(effective.String()), false)
	if err := c.explained(); err != nil {
		return err
	}
	return c.addJSON("config/problems.json", "what is wrong with the configuration", append(config.Problems{}, l.Problems...), true)
}

// explained adds what each key means and is. Values of keys that say where somebody lives are left out: they are no secrets of the configuration.
func (c *collector) explained() error {
	text, err := json.Marshal(c.o.Explained)
	if err != nil {
		return err
	}
	v, err := decode(text)
	if err != nil {
		return err
	}
	keys, _ := v.([]any)
	for _, k := range keys {
		m, _ := k.(map[string]any)
		name, _ := m["key"].(string)
		if i := strings.LastIndexByte(name, '.'); strings.HasSuffix(name, "itude") && m["value"] != nil {
			rule, _ := isSecretName(name[i+1:])
			c.r.count[rule]++
			m["value"] = hidden
		}
		m["value"] = c.r.strange(m["value"]) // rules and definitions have names of the user's
	}
	return c.addJSON("config/explain.json", "every key, what it means and what it is", v, true)
}

// yaml returns a configuration file without comments and secrets. Of one that is not YAML only names are left: its values could be anything.
func (c *collector) yaml(text []byte) string {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		name := regexp.MustCompile(`^\s*(?:- )?[\w.-]+:`)
		b := "# It is not YAML. All but names was left out.\n"
		for line := range strings.Lines(string(text)) {
			b += c.r.text(name.FindString(line)) + "\n"
		}
		return b
	}
	c.strip(&root, false, 0)
	clean, err := yaml.Marshal(&root)
	if err != nil {
		return "# It cannot be shown: " + c.r.text(err.Error()) + "\n"
	}
	return c.r.text(string(clean))
}

// strip takes comments and secrets out of a node.
func (c *collector) strip(n *yaml.Node, secret bool, depth int) {
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	if depth > maxDepth {
		*n = yaml.Node{Kind: yaml.ScalarNode, Value: hidden}
		return
	}
	switch n.Kind {
	case yaml.ScalarNode:
		switch {
		case secret && n.Value != "" && n.Tag != "!!bool" && n.Tag != "!!null":
			c.r.count[ruleNamed]++
			n.SetString(hidden)
		default:
			if clean := c.r.text(n.Value); clean != n.Value {
				n.SetString(clean)
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			_, named := isSecretName(n.Content[i].Value)
			c.strip(n.Content[i], false, depth+1)
			c.strip(n.Content[i+1], secret || named && !isFile(n.Content[i].Value), depth+1)
		}
	default:
		for _, x := range n.Content {
			c.strip(x, secret, depth+1)
		}
	}
}

// isFile reports whether a key names a file rather than what is in it.
func isFile(key string) bool { return strings.HasSuffix(key, "file") }

// environment adds the variables that this program goes by. Those that it does not know have no values.
func (c *collector) environment(context.Context) error {
	known := []string{
		"LAWNBERRY_CONFIG", "LAWNBERRY_DATA_DIR", "LAWNBERRY_BROKER_URL", "GOMAXPROCS", "GOMEMLIMIT", "GOGC", "GODEBUG", "LANG", "TZ", "NO_COLOR",
		"TERM", "XDG_STATE_HOME",
		"PATH", "INVOCATION_ID", "JOURNAL_STREAM",
	}
	secret := []string{"MQTT_PASSWORD", "LAWNBERRY_PASSWORD"}
	for k := range config.Keys() {
		switch _, private := isSecretName(k.Path[strings.LastIndexByte(k.Path, '.')+1:]); {
		case k.Env == "":
		case k.Secret || private && !strings.HasSuffix(k.Path, "_file") && !strings.HasSuffix(k.Path, "keyfile"):
			secret = append(secret, k.Env)
		default:
			known = append(known, k.Env)
		}
	}
	var lines []string
	for _, e := range c.o.Environ {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case slices.Contains(known, name):
			lines = append(lines, name+"="+c.r.text(value))
		case slices.Contains(secret, name), strings.HasPrefix(name, "LAWNBERRY_"):
			c.r.count[ruleNamed]++
			lines = append(lines, c.r.text(name)+"="+hidden)
		}
	}
	slices.Sort(lines)
	c.add("environment.txt", "the variables that the program goes by, of whoever made this", strings.Join(append(lines, ""), "\n"), false)
	return nil
}

// A listedFile is a file of the data directory.
type listedFile struct {
	Name     string    `json:"name"`
	Bytes    int64     `json:"bytes"`
	Mode     string    `json:"mode"`
	Modified time.Time `json:"modified"`
}

// directory adds the names of what is in the data directory.
func (c *collector) directory(ctx context.Context) error {
	if c.o.DataDir == "" {
		return errors.New("there is none: HOME is not set, and --data-dir not given")
	}
	list := []listedFile{}
	err := filepath.WalkDir(c.o.DataDir, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			if path == c.o.DataDir {
				return err
			}
			c.miss(path, err)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has just gone
		}
		name, _ := filepath.Rel(c.o.DataDir, path) // it is below
		if len(list) == maxEntries {
			c.miss("data directory", fmt.Errorf("it has more than %d entries", maxEntries))
			return filepath.SkipAll
		}
		list = append(list, listedFile{filepath.ToSlash(name), info.Size(), info.Mode().String(), info.ModTime().UTC()})
		return nil
	})
	if err != nil {
		return err
	}
	return c.addJSON("data-directory.json", "names, sizes and modes of what is in "+c.o.DataDir, list, true)
}

// A publicCertificate is what everybody may know of a certificate.
type publicCertificate struct {
	File      string    `json:"file"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Hosts     []string  `json:"hosts"`
	Authority bool      `json:"authority"`
	Algorithm string    `json:"algorithm"`
	SHA256    string    `json:"sha256"`
	Problem   string    `json:"problem,omitempty"`
}

// certificates adds the public details of those that the configuration names and of those of the data directory.
func (c *collector) certificates(context.Context) error {
	b, cl := c.o.Loaded.Config.Broker.TLS, c.o.Loaded.Config.Client.TLS
	files := []string{b.CertFile, b.CAFile, cl.CertFile, cl.CACerts}
	if c.o.DataDir != "" {
		more, _ := filepath.Glob(filepath.Join(c.o.DataDir, "tls", "*.pem")) // the pattern is right
		files = append(files, more...)
	}
	slices.Sort(files)
	list := []publicCertificate{}
	for _, file := range slices.Compact(files) {
		if file == "" || filepath.Base(file) == "crl.pem" {
			continue
		}
		text, err := readSome(file, MaxFile)
		if err != nil {
			list = append(list, publicCertificate{File: file, Problem: err.Error()})
			continue
		}
		for block, rest := pem.Decode(text); block != nil && len(list) < maxEntries; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" {
				list = append(list, describe(file, block.Bytes))
			}
		}
	}
	return c.addJSON("certificates.json", "certificates, without their keys", list, true)
}

func describe(file string, der []byte) publicCertificate {
	p := publicCertificate{File: file, Hosts: []string{}}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		p.Problem = err.Error()
		return p
	}
	sum := sha256.Sum256(der)
	p.Subject, p.Issuer, p.Serial, p.NotBefore, p.NotAfter = x.Subject.String(), x.Issuer.String(), x.SerialNumber.Text(16), x.NotBefore, x.NotAfter
	p.Authority, p.SHA256 = x.IsCA, hex.EncodeToString(sum[:])
	p.Hosts = append(p.Hosts, x.DNSNames...)
	for _, a := range x.IPAddresses {
		p.Hosts = append(p.Hosts, a.String())
	}
	switch k := x.PublicKey.(type) {
	case *ecdsa.PublicKey:
		p.Algorithm = "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		p.Algorithm = fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		p.Algorithm = "Ed25519"
	}
	return p
}
