package config

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/tracing"
)

// LogLevel returns the level of the log: monitoring.logging.log_level, only errors when the log is off, and debug when
// development.debug is on.
func (c *Config) LogLevel() slog.Level {
	switch {
	case c.Development.Debug.Enabled:
		return slog.LevelDebug
	case !c.Monitoring.Logging.Enabled:
		return slog.LevelError
	}
	return level(c.Monitoring.Logging.LogLevel)
}

// BrokerLogLevel returns the level of the broker's log, broker.log_level with the same two exceptions.
func (c *Config) BrokerLogLevel() slog.Level {
	if c.Development.Debug.Enabled || !c.Monitoring.Logging.Enabled {
		return c.LogLevel()
	}
	return level(c.Broker.LogLevel)
}

// LogPackages returns the names of the parts of serve that can have a level of their own.
func LogPackages() []string {
	return []string{"app", "broker", "client", "fleet", "homeassistant", "mosquitto", "safety", "service", "tracing", "web"}
}

// LogLevels returns the levels of the parts of serve that do not follow LogLevel: monitoring.logging.levels, and for the broker, where that says nothing,
// BrokerLogLevel.
func (c *Config) LogLevels() map[string]slog.Level {
	levels := map[string]slog.Level{"broker": c.BrokerLogLevel(), "mosquitto": c.BrokerLogLevel()}
	if !c.Development.Debug.Enabled && c.Monitoring.Logging.Enabled {
		for name, text := range c.Monitoring.Logging.Levels {
			levels[name] = level(text)
		}
	}
	return levels
}

// checkLogPackage says what is wrong with the name of a part of serve.
func checkLogPackage(name string) string {
	if slices.Contains(LogPackages(), name) {
		return ""
	}
	return quote(name) + " is unknown, want " + words(LogPackages())
}

func level(name string) slog.Level {
	switch name {
	case "debug":
		return slog.LevelDebug
	case "warning", "warn":
		return slog.LevelWarn
	case "error", "critical":
		return slog.LevelError
	}
	return slog.LevelInfo // info, information, notice
}

// TracingOptions returns the options of the tracer of a program, the service.name of its spans, but for its Logger: without
// monitoring.tracing.enabled one that sends nothing. A program that wants no tracing then leaves [client.Options].Tracer nil.
func (c *Config) TracingOptions(name string) tracing.Options {
	o := tracing.Options{Service: name}
	if t := &c.Monitoring.Tracing; t.Enabled {
		o.Endpoint, o.SampleRatio = t.Endpoint, t.SampleRatio
	}
	return o
}

// Limits returns what a message may be.
func (c *Config) Limits() message.Limits {
	v, z := &c.Protocols.Validation, &c.Protocols.Compression
	l := message.Limits{MaxPayload: v.MaxPayloadSize, MaxAge: v.MaxMessageAge, CompressAbove: z.Threshold}
	if l.MaxAge == 0 {
		l.MaxAge = -1
	}
	if !z.Enabled || !c.Client.CompressionEnabled {
		l.CompressAbove = -1
	}
	return l
}

// BrokerOptions returns the options of the embedded broker but for its Logger. A packet may be as large as
// protocols.validation.max_payload_size needs. It listens on TCP, on WebSocket when that is
// enabled, and on the Unix socket of dataDir ([SocketPath]) when there is one.
//
// A bind_address of localhost makes two listeners of each, on 127.0.0.1 and on ::1, the latter optional, because clients
// try either; with port 0 only the first, as two would get two ports.
//
// It fails on what [Config.Check] finds wrong, when [Config.NeedsUsers], and on certificates that cannot be read.
func (c *Config) BrokerOptions(dataDir string) (broker.Options, error) {
	if err := c.Check().Err(); err != nil {
		return broker.Options{}, err
	}
	if why := c.NeedsUsers(); why != "" {
		return broker.Options{}, errors.New(why)
	}
	b := &c.Broker
	o := broker.Options{
		Namespace: c.Topics.Namespace, MaxConnections: b.MaxConnections, KeepAlive: b.KeepAlive,
		Authenticate: certified(b.authenticator()),
	}
	const room = 128 << 10 // bytes: topic and properties
	o.MaxPacketSize = max(b.MaxPacketSize, c.Protocols.Validation.MaxPayloadSize+room)
	o.MaxQueued, o.MaxQueuedBytes = b.MaxQueuedMessages, b.MaxQueuedBytes
	if b.Persistence {
		o.Dir, o.Sync = c.StoreDir(dataDir), syncOf(b.PersistenceSync)
	}
	var encrypted *tls.Config
	if b.TLS.Enabled {
		keyring, err := b.TLS.keyring()
		if err != nil {
			return broker.Options{}, err
		}
		encrypted, o.Keyring = keyring.Config(), keyring
	}
	listen := func(network string, port int) {
		for i, address := range b.addresses(port) {
			o.Listeners = append(o.Listeners, broker.Listener{
				Network: network, Address: address, TLS: encrypted, Optional: i > 0,
				Hosts: b.WebSockets.Hosts, Origins: b.WebSockets.Origins,
			})
		}
	}
	listen("tcp", b.Port)
	if b.WebSockets.Enabled {
		listen("ws", b.WebSockets.Port)
	}
	if path := SocketPath(dataDir); path != "" {
		o.Listeners = append(o.Listeners, broker.Listener{Network: "unix", Address: path})
	}
	return o, nil
}

// addresses returns where to listen on a port; of several the first is the one that matters.
func (b *Broker) addresses(port int) (all []string) {
	hosts := []string{b.BindAddress}
	if isLocalhost(b.BindAddress) {
		if hosts = []string{"127.0.0.1", "::1"}; port == 0 {
			hosts = hosts[:1]
		}
	}
	for _, host := range hosts {
		all = append(all, net.JoinHostPort(host, strconv.Itoa(port)))
	}
	return all
}

// BridgeOptions returns where the bridge for browsers listens: on the hosts of the broker, and over TLS if that does, with the same certificate. It does
// not ask browsers for one. Of several addresses the first is the one that matters.
func (c *Config) BridgeOptions() (addresses []string, encrypted *tls.Config, err error) {
	if t := c.Broker.TLS; t.Enabled {
		own := ServerTLS{Enabled: true, CertFile: t.CertFile, KeyFile: t.KeyFile}
		keyring, err := own.keyring()
		if err != nil {
			return nil, nil, err
		}
		encrypted = keyring.Config()
	}
	return c.Broker.addresses(c.Integration.WebSocketBridge.Port), encrypted, nil
}

// StoreDir returns the directory of what the broker keeps, "" when it keeps nothing: with persistence off, and without a
// place, when neither broker.persistence_location nor dataDir is set.
func (c *Config) StoreDir(dataDir string) string {
	switch {
	case !c.Broker.Persistence:
		return ""
	case c.Broker.PersistenceLocation != "": // may be another broker's
		return filepath.Join(c.Broker.PersistenceLocation, "lawnberry-store")
	case dataDir != "":
		return filepath.Join(dataDir, "store")
	}
	return ""
}

// checkSync says what is wrong with a value of broker.persistence_sync.
func checkSync(text string) string {
	if text == "always" || text == "off" {
		return ""
	}
	if d, err := time.ParseDuration(text); err != nil || d < time.Millisecond || d > time.Hour {
		return quote(text) + " does not fit, want always, off, or an interval of 1ms to 1h such as {interval: 1s}"
	}
	return ""
}

// syncOf returns what the broker is told for a value of broker.persistence_sync.
func syncOf(text string) time.Duration {
	switch text {
	case "always", "":
		return 0
	case "off":
		return -1
	}
	d, _ := time.ParseDuration(text) // was checked
	return d
}

// authenticator returns what decides over a login, nil when everyone may come in.
func (b *Broker) authenticator() func(context.Context, broker.Login) error {
	if !b.Auth.Enabled {
		return nil
	}
	anonymous := b.Anonymous()
	// Sums of equal length, so that the time of the comparison says nothing about the password, its length included.
	username, password := sha256.Sum256([]byte(b.Auth.Username)), sha256.Sum256([]byte(b.Auth.Password))
	return func(_ context.Context, l broker.Login) error {
		if l.Username == "" && !l.HasPassword {
			if anonymous {
				return nil
			}
			return errors.New("a user name and a password are needed")
		}
		user, pass := sha256.Sum256([]byte(l.Username)), sha256.Sum256(l.Password)
		if subtle.ConstantTimeCompare(user[:], username[:])&subtle.ConstantTimeCompare(pass[:], password[:]) != 1 {
			return errors.New("wrong user name or password")
		}
		return nil
	}
}

// OwnBroker reports whether clients are to connect to this configuration's own broker: broker.engine is not external, client.broker_host is
// empty or this host, and client.broker_port is 0 or broker.port.
func (c *Config) OwnBroker() bool {
	if c.Broker.Engine == EngineExternal {
		return false
	}
	host, port := c.Client.BrokerHost, c.Client.BrokerPort
	return (host == "" || isLoopback(host) || host == c.Broker.BindAddress) && (port == 0 || port == c.Broker.Port)
}

// ClientURL returns the address of the broker that programs connect to, such as tcp://localhost:1883. It is the Unix
// socket of dataDir when the own broker has port 0, which only a running broker knows, and when it requires a certificate and there is
// none to show.
func (c *Config) ClientURL(dataDir string) string {
	if urls := c.externalURLs(); len(urls) > 0 {
		return urls[0]
	}
	host, port := c.Client.BrokerHost, c.Client.BrokerPort
	if port == 0 {
		port = c.Broker.Port
	}
	if path := SocketPath(dataDir); c.OwnBroker() && (port == 0 || c.lacksCertificate()) && path != "" {
		return "unix://" + path
	}
	if host == "" {
		host = c.Broker.BindAddress
		if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
			host = "localhost"
		}
	}
	scheme := "tcp"
	if c.Client.TLS.Enabled || c.OwnBroker() && c.Broker.TLS.Enabled {
		scheme = "ssl"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// externalURLs are the addresses of a broker elsewhere, none when broker.external does not say.
func (c *Config) externalURLs() []string {
	if c.Broker.Engine != EngineExternal {
		return nil
	}
	return c.Broker.External.URLs
}

// ClientOptions returns the options of a client but for its Logger and Will.
//
// To the own broker ([Config.OwnBroker]) it logs in with broker.auth unless client.auth is enabled or it shows a certificate
// instead, and trusts the broker's own certificate unless client.tls is enabled. Unless they are set, the delays between attempts to
// connect to it are within 1 s. It is an error when a file of certificates cannot be read, or a key file of security is of no use.
func (c *Config) ClientOptions() (client.Options, error) {
	topics, err := c.Registry()
	if err != nil {
		return client.Options{}, err
	}
	if err := c.CheckKeys().Err(); err != nil {
		return client.Options{}, err
	}
	signing, err := c.signing()
	if err != nil {
		return client.Options{}, err
	}
	cl := &c.Client
	o := client.Options{
		Signing: signing, Encryption: c.encryption(),
		URL: c.ClientURL(""), ID: cl.ClientID, Topics: topics, CleanStart: cl.CleanSession, KeepAlive: cl.KeepAlive,
		ReconnectDelay: cl.ReconnectDelay, MaxReconnect: cl.MaxReconnectDelay, ReconnectFactor: cl.ReconnectBackoff,
		Outbox: client.Queue{Max: cl.QueueSize}, Limits: c.Limits(), Probe: cl.ProbeInterval,
		Rates: client.Rates{SensorData: cl.RateLimits.SensorData, Commands: cl.RateLimits.Commands, Status: cl.RateLimits.Status, General: cl.RateLimits.General},
		Dir:   c.clientDir(cl.ClientID), Uncompressed: sortedKeys(c.Topics.Compress),
	}
	if urls := c.externalURLs(); len(urls) > 1 {
		o.Fallback = slices.Clone(urls[1:])
	}
	// What nobody has chosen is as the client wants it, which may be one marked for safety, and near when the broker is on this host.
	if c.OwnBroker() && !c.given("client.reconnect_delay") {
		o.ReconnectDelay = 0
	}
	if c.OwnBroker() && !c.given("client.max_reconnect_delay") {
		o.MaxReconnect = max(time.Second, o.ReconnectDelay) // the client cannot tell it when the broker listens on the address of a network
	}
	if !c.given("client.probe_interval") {
		o.Probe = 0
	}
	if auth := c.login(); auth.Enabled {
		o.Username, o.Password = auth.Username, auth.Password
	}
	switch {
	case cl.TLS.Enabled:
		o.GetTLS, err = cl.TLS.source()
	case c.OwnBroker() && c.Broker.TLS.Enabled:
		o.GetTLS, err = c.ownBrokerTLS()
	}
	return o, err
}

// clientDir is where the client of that id keeps what outlives it.
func (c *Config) clientDir(id string) string {
	if c.Client.DataDir == "" || id == "" || id == "." || id == ".." {
		return ""
	}
	return filepath.Join(c.Client.DataDir, id)
}

// login returns what clients log in with.
func (c *Config) login() Auth {
	if !c.Client.Auth.Enabled && c.OwnBroker() && !c.showsCertificate() {
		return c.Broker.Auth
	}
	return c.Client.Auth
}

// Identity is who programs are to the broker: their user name, or the common name of the certificate that they show; "" is nobody.
func (c *Config) Identity() string {
	if l := c.login(); l.Enabled {
		return l.Username
	}
	if t := c.Client.TLS; !t.Enabled || t.CertFile == "" {
		return ""
	}
	pair, err := tls.LoadX509KeyPair(c.Client.TLS.CertFile, c.Client.TLS.KeyFile)
	if err != nil || pair.Leaf == nil {
		return "" // connecting says what is wrong with it
	}
	return pair.Leaf.Subject.CommonName
}

// ServiceOptions returns the options of the service with that id but for its Logger, with type and dependencies of its
// definition when there is one. Its session is the service's own: client.client_id is not used.
func (c *Config) ServiceOptions(id string) (service.Options, error) {
	o, err := c.ClientOptions()
	if err != nil {
		return service.Options{}, err
	}
	o.ID, o.Dir = "", c.clientDir(id)
	d := c.ServiceDefinitions[id]
	beat, timeout := c.Services.HeartbeatInterval, c.Services.HeartbeatTimeout
	if !c.given("services.heartbeat_interval") && !c.given("services.heartbeat_timeout") {
		beat, timeout = 0, 0 // as the class of the service wants it
	}
	return service.Options{
		ID: id, Type: d.ServiceType, Dependencies: append([]string(nil), d.Dependencies...), Client: o,
		DependencyTimeout: c.Services.DependencyTimeout,
		Heartbeat:         beat, HeartbeatTimeout: timeout,
	}, nil
}
