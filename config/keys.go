package config

import (
	"iter"
	"slices"
	"strings"

	"github.com/lawnberry/lawnberry/client"
)

// A Key describes one key of the configuration.
type Key struct {
	Path        string `json:"key"`                   // "broker.port"
	Type        string `json:"type"`                  // "whole number"
	Allowed     string `json:"allowed,omitempty"`     // "0 to 65535"; "" is anything of the type
	Unit        string `json:"unit,omitempty"`        // "seconds"
	Default     string `json:"default"`               // as YAML
	Description string `json:"description"`           // sentences
	Example     string `json:"example,omitempty"`     // as YAML, where the default shows too little
	Env         string `json:"env,omitempty"`         // LAWNBERRY_BROKER_PORT; "" when the environment cannot set it
	Unsupported string `json:"unsupported,omitempty"` // why it does nothing yet; "" when it works
	Secret      bool   `json:"secret,omitempty"`      // never shown
	Live        bool   `json:"live,omitempty"`        // serve takes a new value in while it runs
}

// Keys yields every key in the order of the file.
func Keys() iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for _, s := range specs() {
			if !yield(s.key()) {
				return
			}
		}
	}
}

// Section returns what the keys of a section ("broker.tls") are for, "" when there is no such section.
func Section(path string) string {
	for _, s := range sections() {
		if s.path == path {
			return s.doc
		}
	}
	return ""
}

// Nearest returns the key or section that someone may have meant who wrote path, "" when none is near.
func Nearest(path string) string {
	s := newSchema()
	if n := nearest(path, slices.Values(s.paths())); n != "" {
		return n
	}
	return s.nearest(splitPath(path))
}

// A spec is what the package knows about a key: where it lives and what may stand there.
type spec struct {
	path string
	at   func(*Config) any // pointer to the field, whose type decides what is read
	doc  string

	min, max float64  // of a number, a map's numbers, or seconds; no bounds when both are 0
	whole    bool     // a duration of whole seconds
	oneOf    []string // of a text, a list's texts or a map's keys; compared without case
	unit     string
	example  string
	isPath   bool                     // relative to the directory of the file
	item     func(text string) string // why a text, a list's text or a map's key is wrong; "" when it is not
	values   []string                 // of a mapping of texts; nil is ways to verify
	merged   bool                     // a mapping adds to its default

	live        bool               // serve takes a new value in while it runs
	unsupported string             // why the key does nothing yet
	works       func(*Config) bool // a value of an unsupported key that asks for what happens anyway
}

func (s *spec) key() Key {
	k := Key{
		Path: s.path, Type: s.typeName(), Allowed: s.allowed(), Unit: s.unitName(), Description: s.doc,
		Default: yamlText(s.effective(Default(), true)), Example: s.example, Unsupported: s.unsupported,
		Secret: s.secret(), Live: s.live,
	}
	if s.inEnvironment() {
		k.Env = envName(s.path)
	}
	return k
}

func envName(path string) string {
	return "LAWNBERRY_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// A section groups keys in the file.
type section struct{ path, doc string }

func sections() []section {
	return []section{
		{"broker", "The broker on the mower."},
		{"broker.mosquitto", "Mosquitto as the broker, with engine mosquitto."},
		{"broker.external", "A broker elsewhere, with engine external."},
		{"broker.auth", "Who may connect to the broker."},
		{"broker.tls", "Encrypted connections: with enabled, the TCP and WebSocket listeners speak TLS only."},
		{"broker.websockets", "MQTT over WebSocket."},
		{"client", "How programs connect to the broker."},
		{"client.auth", "What programs log in with. When it is off and the broker is this file's own, broker.auth is used."},
		{"client.tls", "Encrypted connections to a broker elsewhere. To this file's own broker they follow broker.tls."},
		{"client.rate_limits", "Limits per client and category of message."},
		{"services", "How services watch each other."},
		{"topics", "Changes to the standard topics (lawnberry topic ls shows them)."},
		{"protocols", "What a message may be."},
		{"protocols.validation", "Bounds of a message."},
		{"protocols.compression", "Compression with gzip."},
		{"protocols.retry", "Repeated attempts."},
		{"security", "Protection beyond TLS and logins."},
		{"security.encryption", "Encrypted payloads, of chosen topics."},
		{"security.signing", "Signed messages, whose proof outlives the broker and bridges."},
		{"security.access_control", "Permissions."},
		{"safety", "What keeps the mower from harm."},
		{"safety.emergency_stop", "The emergency stop."},
		{"monitoring", "Metrics, logs and health checks."},
		{"monitoring.metrics", "Metrics."},
		{"monitoring.tracing", "Traces of messages and commands, for OpenTelemetry."},
		{"monitoring.logging", "The log."},
		{"monitoring.health_checks", "Health checks."},
		{"integration", "Bridges to elsewhere."},
		{"integration.websocket_bridge", "The bridge for browsers, with its dashboard."},
		{"integration.home_assistant", "Home Assistant, by its MQTT discovery."},
		{"integration.home_assistant.origin", "Where the lawn's frame begins, on the globe."},
		{"integration.fleet", "The uplink to a fleet of mowers."},
		{"integration.fleet.outbox", "What waits while the engine of the fleet is not reached."},
		{"integration.cloud_logging", "Logs to a server on the network."},
		{"development", "Help while developing."},
		{"development.mock_services", "Simulated services."},
		{"development.debug", "Debugging."},
	}
}

// A schema is the table of keys, indexed.
type schema struct {
	specs    []*spec
	byPath   map[string]*spec
	sections map[string]bool
}

func newSchema() *schema {
	s := &schema{specs: specs(), byPath: map[string]*spec{}, sections: map[string]bool{"": true}}
	for _, k := range s.specs {
		s.byPath[k.path] = k
	}
	for _, sec := range sections() {
		s.sections[sec.path] = true
	}
	return s
}

// below yields the names of the keys and sections directly below a section.
func (s *schema) below(section string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, path := range s.paths() {
			if parent, name := splitPath(path); parent == section && !yield(name) {
				return
			}
		}
	}
}

// paths returns every key and section.
func (s *schema) paths() []string {
	var paths []string
	for _, sec := range sections() {
		paths = append(paths, sec.path)
	}
	for _, k := range s.specs {
		paths = append(paths, k.path)
	}
	return paths
}

// nearest returns the path that someone who wrote name in section may have meant: a similar name there, else the same
// name in another place when there is only one, else "".
func (s *schema) nearest(section, name string) string {
	if n := nearest(name, s.below(section)); n != "" {
		return joinPath(section, n)
	}
	folded := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	elsewhere := slices.DeleteFunc(s.paths(), func(path string) bool {
		_, last := splitPath(path)
		return last != folded
	})
	// Of several, the ones in the same top section are meant rather than others.
	if top, _, _ := strings.Cut(section, "."); len(elsewhere) > 1 && top != "" {
		elsewhere = slices.DeleteFunc(elsewhere, func(path string) bool { return !strings.HasPrefix(path, top+".") })
	}
	if len(elsewhere) == 1 {
		return elsewhere[0]
	}
	return ""
}

func splitPath(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func joinPath(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

// Secrets returns the secrets that the configuration holds, for who has to leave them out of something. It is no log's.
func (c *Config) Secrets() (all []client.Secret) {
	for _, s := range specs() {
		if p, ok := s.at(c).(*client.Secret); ok && *p != "" {
			all = append(all, *p)
		}
	}
	return all
}
