// Package config is the configuration file of a mower: typed, with a default for every key, checked with file, line and
// key, overridable from the environment, and explained.
//
// [Load] reads a file and the environment into a [Config]; [Keys] describes every key, which is what [WriteTemplate] writes
// a commented file from; [Config]'s methods give the other packages their options. A key that does nothing yet says so
// when it is set, as a warning in [Loaded.Problems].
package config

import (
	"fmt"
	"reflect"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/topic"
)

// A Config is the whole configuration. [Default] returns a usable one; its zero value is not.
type Config struct {
	Broker             Broker
	Client             Client
	Services           Services
	Topics             Topics
	Protocols          Protocols
	Security           Security
	Safety             Safety
	Monitoring         Monitoring
	Integration        Integration
	ServiceDefinitions map[string]ServiceDefinition // by service id
	Development        Development

	origins map[string]Origin // of the keys that file and environment set, nil when they set none; see given
}

// String shows all values but the passwords. (Package fmt asks no [client.Secret] how to show itself inside a pointer that
// it formats with %s, but it asks this.)
func (c *Config) String() string {
	type plain Config
	p := plain(*c)
	p.origins = nil
	return fmt.Sprintf("%+v", p)
}

// given reports whether somebody has chosen the value of a key, even if it is the default's: in the file, in the environment, or
// as a program that changed it.
func (c *Config) given(path string) bool {
	if _, set := c.origins[path]; set {
		return true
	}
	at := newSchema().byPath[path].at
	return !reflect.DeepEqual(at(c), at(Default()))
}

// The engines: what the broker is.
const (
	EngineEmbedded  = "embedded"  // the one in this program
	EngineMosquitto = "mosquitto" // a Mosquitto that this program runs
	EngineExternal  = "external"  // one that runs elsewhere
)

// Broker configures the broker.
type Broker struct {
	Engine              string // EngineEmbedded, EngineMosquitto or EngineExternal
	Mosquitto           Mosquitto
	External            External
	Port                int    // TCP; 0 lets the system choose
	BindAddress         string // host name or address; "localhost" is 127.0.0.1 and ::1
	KeepAlive           time.Duration
	MaxConnections      int
	Persistence         bool
	PersistenceLocation string
	PersistenceSync     string // always, off, or an interval such as 1s
	MaxQueuedMessages   int    // per session
	MaxQueuedBytes      int    // per session
	MaxPacketSize       int    // bytes
	SocketGroup         string // of the system, whose members need no login on the Unix socket; "" is none
	LogLevel            string // error, warning, notice, information or debug
	AllowAnonymous      *bool  // nil: only while Auth is off; see Anonymous
	Auth                Auth
	TLS                 ServerTLS
	WebSockets          WebSockets
}

// Anonymous reports whether clients without a user name are let in: as AllowAnonymous says, and when it is nil only while
// Auth is off.
func (b *Broker) Anonymous() bool {
	if b.AllowAnonymous != nil {
		return *b.AllowAnonymous
	}
	return !b.Auth.Enabled
}

// Mosquitto configures a Mosquitto that is run as the broker.
type Mosquitto struct {
	Binary string // a path, or a name on the PATH; "" looks for it
}

// External says where a broker is that runs already.
type External struct {
	URLs []string // the first that answers is used
}

// Auth is a user name and a password.
type Auth struct {
	Enabled  bool
	Username string
	Password client.Secret
}

// ServerTLS names the PEM files of a listener.
type ServerTLS struct {
	Enabled  bool
	CertFile string
	KeyFile  string
	CAFile   string // who may sign client certificates; "" takes none
	CRLFile  string // client certificates that are revoked; "" is none

	RequireCertificate bool // no client without one
}

// WebSockets configures MQTT over WebSocket.
type WebSockets struct {
	Enabled        bool
	Port           int
	Hosts, Origins []string
}

// Client configures the programs that connect to the broker.
type Client struct {
	ClientID           string // "" is a fresh one per program
	BrokerHost         string // "" is the broker of this configuration
	BrokerPort         int    // 0 is Broker.Port
	CleanSession       bool
	KeepAlive          time.Duration
	ReconnectDelay     time.Duration
	MaxReconnectDelay  time.Duration
	ReconnectBackoff   float64
	ProbeInterval      time.Duration
	MessageTimeout     time.Duration // how long a command or publication may take when its caller sets no limit
	QueueSize          int           // messages held while disconnected
	DataDir            string        // "" keeps nothing on disk
	CompressionEnabled bool
	Auth               Auth
	TLS                ClientTLS
	RateLimits         RateLimits
}

// ClientTLS names the PEM files of a connection.
type ClientTLS struct {
	Enabled  bool
	CACerts  string
	CertFile string
	KeyFile  string
}

// RateLimits are messages per minute and client; 0 is no limit.
type RateLimits struct{ SensorData, Commands, Status, General int }

// Services configures how services watch each other.
type Services struct {
	HeartbeatInterval time.Duration
	HeartbeatTimeout  time.Duration
	DependencyTimeout time.Duration
	DiscoveryTimeout  time.Duration
}

// Topics changes the registry of topics; see [Config.Registry].
type Topics struct {
	Namespace  string
	QoS        map[string]int  // by type of topic, such as sensor_data
	Retained   []string        // patterns retained beside the standard ones
	RateLimits map[string]int  // messages per minute and concrete topic, by pattern; 0 is no limit
	Compress   map[string]bool // by pattern; false is never compressed
}

// Protocols configures what a message may be.
type Protocols struct {
	Validation  Validation
	Compression Compression
	Retry       Retry
}

// Validation bounds messages.
type Validation struct {
	Enabled        bool
	MaxPayloadSize int           // bytes
	MaxMessageAge  time.Duration // 0 is no limit
}

// Compression configures gzip.
type Compression struct {
	Enabled   bool
	Threshold int // bytes; what is longer is compressed
}

// Retry configures repeated attempts.
type Retry struct {
	MaxRetries   int
	RetryDelay   time.Duration
	RetryBackoff float64
}

// Security configures protection beyond TLS and the broker's users.
type Security struct {
	Encryption    Encryption
	Signing       Signing
	AccessControl AccessControl
}

// Signing configures signatures.
type Signing struct {
	Enabled   bool
	Algorithm string
	KeyFile   string
	Policies  map[string]string // off, verify or require, by filter
	Window    time.Duration
}

// Encryption configures encrypted payloads.
type Encryption struct {
	Enabled   bool
	Algorithm string
	KeyFile   string
	Topics    []string // filters
}

// AccessControl lists who may do what.
type AccessControl struct {
	Enabled bool
	Rules   []any
}

// Safety configures what keeps the mower from harm.
type Safety struct {
	EmergencyStop EmergencyStop
}

// EmergencyStop configures who keeps the state of the emergency stop.
type EmergencyStop struct {
	Enabled bool // serve does
}

// Monitoring configures metrics, logs and health checks.
type Monitoring struct {
	Metrics      Metrics
	Tracing      Tracing
	Logging      Logging
	HealthChecks HealthChecks
}

// Metrics configures the collection of figures.
type Metrics struct {
	Enabled            bool
	CollectionInterval time.Duration
	RetentionPeriod    time.Duration
}

// Tracing configures what is sent to an OpenTelemetry collector; see [Config.TracingOptions].
type Tracing struct {
	Enabled     bool
	Endpoint    string
	SampleRatio float64
}

// Logging configures the log; see [Config.LogLevel].
type Logging struct {
	Enabled        bool
	LogLevel       string
	LogMessages    bool
	LogPerformance bool
	Levels         map[string]string // by package, see [LogPackages]
}

// HealthChecks configures checks beside the services' heartbeats.
type HealthChecks struct {
	Enabled       bool
	CheckInterval time.Duration
	Timeout       time.Duration
}

// Integration configures bridges to elsewhere.
type Integration struct {
	WebSocketBridge WebSocketBridge
	HomeAssistant   HomeAssistant
	Fleet           Fleet
	CloudLogging    CloudLogging
}

// WebSocketBridge configures the bridge for browsers.
type WebSocketBridge struct {
	Enabled        bool
	Port           int
	MaxConnections int
}

// HomeAssistant configures how the mower is shown to Home Assistant.
type HomeAssistant struct {
	Enabled         bool
	DiscoveryPrefix string
	BirthTopic      string
	DeviceName      string
	DeviceID        string
	MowerService    string
	StartCommand    string
	PauseCommand    string
	DockCommand     string
	Activities      map[string]string // of the mower's service: mowing, paused, docked, returning or error
	Origin          Place             // see [Config.LawnOrigin]
}

// A Place is one on the globe, in degrees.
type Place struct{ Latitude, Longitude float64 }

// LawnOrigin returns where x and y of positions are 0; ok is false when nobody has said so.
func (c *Config) LawnOrigin() (p Place, ok bool) {
	const key = "integration.home_assistant.origin."
	return c.Integration.HomeAssistant.Origin, c.given(key+"latitude") && c.given(key+"longitude")
}

// CloudLogging configures a log sink on the network.
type CloudLogging struct {
	Enabled       bool
	Endpoint      string
	Token         client.Secret
	BatchSize     int
	FlushInterval time.Duration
}

// ServiceDefinition describes one service; see [Config.ServiceOptions].
type ServiceDefinition struct {
	ServiceType  string        `json:"service_type"`
	Dependencies []string      `json:"dependencies"`
	Topics       ServiceTopics `json:"topics"`
}

// ServiceTopics lists the filters of a service, relative to the namespace or full.
type ServiceTopics struct {
	Subscribe []string `json:"subscribe"`
	Publish   []string `json:"publish"`
}

// Development configures what helps while developing.
type Development struct {
	MockServices MockServices
	Debug        Debug
}

// MockServices lists services to simulate.
type MockServices struct {
	Enabled  bool
	Services []string
}

// Debug configures debugging.
type Debug struct {
	Enabled           bool
	LogAllMessages    bool
	SimulateFailures  bool
	LatencySimulation time.Duration
}

// Default returns the configuration of a mower without a file.
func Default() *Config {
	return &Config{
		Broker: Broker{
			Engine: EngineEmbedded, Port: 1883, BindAddress: "localhost", KeepAlive: 60 * time.Second, MaxConnections: 100,
			Persistence: true, PersistenceSync: "always", LogLevel: "information",
			MaxQueuedMessages: 100_000, MaxQueuedBytes: 64 << 20, MaxPacketSize: 256 << 10,
			WebSockets: WebSockets{Port: 9001},
		},
		Client: Client{
			KeepAlive: 60 * time.Second, ReconnectDelay: 5 * time.Second, MaxReconnectDelay: 300 * time.Second,
			ReconnectBackoff: 2, ProbeInterval: time.Second, MessageTimeout: 30 * time.Second, QueueSize: 1000, CompressionEnabled: true,
		},
		Services: Services{
			HeartbeatInterval: 30 * time.Second, HeartbeatTimeout: 90 * time.Second,
			DependencyTimeout: 60 * time.Second, DiscoveryTimeout: 300 * time.Second,
		},
		Topics: Topics{Namespace: topic.DefaultNamespace},
		Protocols: Protocols{
			Validation:  Validation{Enabled: true, MaxPayloadSize: 10_000, MaxMessageAge: 300 * time.Second},
			Compression: Compression{Enabled: true, Threshold: 1000},
			Retry:       Retry{MaxRetries: 3, RetryDelay: 5 * time.Second, RetryBackoff: 2},
		},
		Security: Security{
			Encryption: Encryption{Algorithm: "aes-256-gcm"},
			Signing:    Signing{Algorithm: "hmac-sha256", Policies: defaultPolicies(), Window: 30 * time.Second},
		},
		Safety: Safety{EmergencyStop: EmergencyStop{Enabled: true}},
		Monitoring: Monitoring{
			Metrics:      Metrics{CollectionInterval: 60 * time.Second, RetentionPeriod: 24 * time.Hour},
			Tracing:      Tracing{Endpoint: "http://localhost:4318", SampleRatio: 1},
			Logging:      Logging{Enabled: true, LogLevel: "info"},
			HealthChecks: HealthChecks{Enabled: true, CheckInterval: 30 * time.Second, Timeout: 10 * time.Second},
		},
		Integration: Integration{
			WebSocketBridge: WebSocketBridge{Port: 9002, MaxConnections: 10},
			HomeAssistant: HomeAssistant{
				DiscoveryPrefix: "homeassistant", BirthTopic: "homeassistant/status", DeviceName: "Lawnberry", DeviceID: "lawnberry",
				MowerService: "navigation", StartCommand: "start_mowing", PauseCommand: "pause", DockCommand: "dock", Activities: defaultActivities(),
			},
			Fleet: Fleet{SessionExpiry: 7 * 24 * time.Hour, BatchInterval: 10 * time.Second, Outbox: FleetOutbox{
				MaxSize: 64 << 20, TelemetryAge: 7 * 24 * time.Hour, EventAge: 30 * 24 * time.Hour, AlertAge: 365 * 24 * time.Hour,
			}},
			CloudLogging: CloudLogging{BatchSize: 100, FlushInterval: 60 * time.Second},
		},
	}
}
