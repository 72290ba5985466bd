package config

import (
	"strings"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/seal"
)

// checkSealing finds what signing and encryption lack.
func (c *Config) checkSealing(report func(sev Severity, key, text string)) {
	g, e := &c.Security.Signing, &c.Security.Encryption
	if g.Enabled {
		if g.KeyFile == "" {
			report(SeverityError, "security.signing.key_file", "security.signing.enabled needs a key file: make one with \"lawnberry key new --file FILE\"")
		}
		if a := strings.ToLower(g.Algorithm); a != seal.HMAC && a != seal.Ed25519 {
			report(SeverityError, "security.signing.algorithm", quote(g.Algorithm)+" is unknown, want "+seal.HMAC+" or "+seal.Ed25519)
		}
	}
	if e.Enabled {
		if e.KeyFile == "" {
			report(SeverityError, "security.encryption.key_file", "security.encryption.enabled needs a key file: make one with "+
				"\"lawnberry key new --file FILE --algorithm "+seal.AESGCM+"\"")
		}
		if !strings.EqualFold(e.Algorithm, seal.AESGCM) {
			report(SeverityError, "security.encryption.algorithm", quote(e.Algorithm)+" is unknown, want "+seal.AESGCM)
		}
		if len(e.Topics) == 0 {
			report(SeverityWarning, "security.encryption.topics", "is empty: what others encrypt is decrypted, and nothing is encrypted")
		}
	}
}

// CheckKeys reads the key files that signing and encryption use, as whoever runs it. Its problems say what to do. [Config.ClientOptions] calls it;
// Load does not, as not everybody who reads the configuration may read the keys.
func (c *Config) CheckKeys() Problems {
	var ps Problems
	check := func(enabled bool, key, file string) {
		if !enabled || file == "" {
			return
		}
		if _, err := seal.Load(file); err != nil {
			ps = append(ps, Problem{Severity: SeverityError, Key: key, Text: err.Error()})
		}
	}
	check(c.Security.Signing.Enabled, "security.signing.key_file", c.Security.Signing.KeyFile)
	check(c.Security.Encryption.Enabled, "security.encryption.key_file", c.Security.Encryption.KeyFile)
	return ps
}

// signing returns what clients sign and verify, nil when it is off.
func (c *Config) signing() (*client.Signing, error) {
	g := &c.Security.Signing
	if !g.Enabled {
		return nil, nil
	}
	o := &client.Signing{KeyFile: g.KeyFile, Algorithm: strings.ToLower(g.Algorithm), Window: g.Window, Policies: []client.Policy{}}
	for _, filter := range sortedKeys(g.Policies) {
		v, err := client.ParseVerification(g.Policies[filter])
		if err != nil {
			return nil, err
		}
		o.Policies = append(o.Policies, client.Policy{Filter: filter, Verify: v})
	}
	return o, nil
}

// encryption returns what clients encrypt, nil when it is off.
func (c *Config) encryption() *client.Encryption {
	e := &c.Security.Encryption
	if !e.Enabled {
		return nil
	}
	return &client.Encryption{KeyFile: e.KeyFile, Topics: append([]string(nil), e.Topics...)}
}

// defaultPolicies are those of the client, as they are written in a file.
func defaultPolicies() map[string]string {
	m := map[string]string{}
	for _, p := range client.DefaultPolicies() {
		m[p.Filter] = p.Verify.String()
	}
	return m
}
