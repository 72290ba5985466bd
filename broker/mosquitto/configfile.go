package mosquitto

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// Files in Options.Dir. Mosquitto runs there, so its configuration names them without their directory.
const (
	configName   = "mosquitto.conf"
	passwordName = "passwords"
	aclName      = "acl"
	socketName   = "s"
	stateName    = "process.json"
	savedName    = "mosquitto.db" // in Options.Persist
)

// A text is a configuration being written. Nothing gets into it that would begin a line of its own.
type text struct {
	strings.Builder
	err error
}

func (t *text) line(key string, values ...any) {
	value := fmt.Sprint(values...)
	if value != strings.TrimSpace(value) || strings.ContainsFunc(value, unicode.IsControl) || strings.HasPrefix(value, "#") {
		t.err = errors.Join(t.err, fmt.Errorf("mosquitto: %q cannot stand in its configuration (%s): no line breaks, and no space at either end", value, key))
		return
	}
	t.WriteString(key + " " + value + "\n")
}

// config writes the configuration.
func (b *Broker) config(logins *Logins, l limits) (string, error) {
	t := &text{}
	t.WriteString("# Written by lawnberry at each start: changes in here are lost.\n")
	t.line("per_listener_settings", true)
	t.line("log_dest", "stderr")
	t.line("log_timestamp", false)
	for _, kind := range b.logTypes() {
		t.line("log_type", kind)
	}
	t.line("connection_messages", b.log.Enabled(b.ctx, slog.LevelInfo))
	t.line("set_tcp_nodelay", true)
	t.line("sys_interval", 10)
	t.line("max_inflight_messages", 1000)
	t.line("max_packet_size", or(b.o.MaxPacketSize, 256<<10))
	t.line("max_queued_messages", or(l.queued, 100_000))
	t.line("max_queued_bytes", or(l.queuedBytes, 64<<20))
	if os.Geteuid() == 0 {
		t.line("user", "root") // else it would become the user mosquitto, who may not read these files
	}
	t.line("persistence", b.o.Persist != "")
	if b.o.Persist != "" {
		t.line("persistence_location", strings.TrimSuffix(b.o.Persist, "/")+"/")
		t.line("persistence_file", savedName)
		t.line("autosave_on_changes", true)
		t.line("autosave_interval", saveEvery)
	}
	t.WriteString("\n")
	t.line("listener", "0 "+socketName)
	t.line("allow_anonymous", true)
	for i, at := range b.o.Listeners {
		if b.ports[i] == "" {
			continue
		}
		t.WriteString("\n")
		t.line("listener", b.ports[i])
		if at.Network == "ws" {
			t.line("protocol", "websockets")
		}
		t.line("max_connections", or(l.connections, 1000))
		t.line("allow_anonymous", logins.Anonymous)
		if !logins.open() {
			t.line("password_file", passwordName)
		}
		if logins.Grants != nil {
			t.line("acl_file", aclName)
		}
		at.TLS.write(t)
	}
	return t.String(), t.err
}

// write writes the TLS of a listener.
func (l *TLS) write(t *text) {
	if l == nil {
		return
	}
	t.line("certfile", l.CertFile)
	t.line("keyfile", l.KeyFile)
	if l.RequireCertificate { // without it, Mosquitto would ask for a certificate and not go by it
		t.line("cafile", l.CAFile)
		t.line("require_certificate", true)
		t.line("use_identity_as_username", true)
		if l.CRLFile != "" {
			t.line("crlfile", l.CRLFile)
		}
	}
}

// generation tells whether a process was started with the same options. What can change while it runs is left out.
func (b *Broker) generation() string {
	b.mu.Lock()
	logins, l := b.logins, b.limits
	b.mu.Unlock()
	o := b.o
	o.Logins = Logins{Anonymous: logins.Anonymous}
	o.MaxConnections, o.MaxQueued, o.MaxQueuedBytes = l.connections, l.queued, l.queuedBytes
	open := logins.open()
	o.Logger, o.tune = nil, nil
	raw, err := json.Marshal(struct {
		Options
		Open       bool
		Controlled bool
		Binary     string
		Version    string
		Log        []string
	}{o, open, logins.Grants != nil, b.binary, b.version, b.logTypes()})
	if err != nil { // Options hold nothing that cannot be encoded
		return err.Error()
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// writeConfig writes all that Mosquitto reads, and returns which edit of it that is. b.reload is held.
func (b *Broker) writeConfig() (edit uint64, err error) {
	b.mu.Lock()
	logins, l, edit := b.logins, b.limits, b.edits
	b.mu.Unlock()
	conf, err := b.config(&logins, l)
	if err != nil {
		return 0, err
	}
	return edit, errors.Join(b.writeFile(configName, conf), b.writeLogins())
}

// writeFile writes a file of ours that is there as a whole or not at all, for this user alone.
func (b *Broker) writeFile(name, content string) error {
	f, err := os.CreateTemp(b.o.Dir, "."+name+"-*") // 0600
	if err != nil {
		return fmt.Errorf("mosquitto: %w", err)
	}
	defer os.Remove(f.Name()) // nothing once it is renamed
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(b.o.Dir, name))
	}
	if err != nil {
		return fmt.Errorf("mosquitto: %w", err)
	}
	return nil
}
