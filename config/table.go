package config

import (
	"math"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// Bounds that several keys share.
const (
	maxPort    = 65535
	maxMessage = 256_000_000 // bytes: the longest packet that MQTT can express, less room for topic and properties
	maxSeconds = 365 * 24 * 3600
	maxCount   = 1_000_000
)

// Reasons that several keys share.
const (
	noRetry     = "messages are repeated by the MQTT session itself; there is no second layer of attempts"
	noRetention = "the figures are kept by the Prometheus that fetches them, for as long as its --storage.tsdb.retention.time says"
	noCheckTime = "how long a service may be silent is its own lease, which it announces (services.heartbeat_timeout)"
)

// logLevels are the names that the log level keys take; see level.
func logLevels() []string { return []string{"error", "warning", "notice", "information", "debug"} }

// specs returns the table of keys, in the order of the file.
func specs() []*spec {
	return []*spec{
		{path: "broker.engine", at: func(c *Config) any { return &c.Broker.Engine }, oneOf: []string{EngineEmbedded, EngineMosquitto, EngineExternal},
			doc: "What the broker is. embedded: the one in this program, which keeps all promises. mosquitto: a Mosquitto that this program configures, " +
				"starts and watches over. external: one that runs elsewhere, see broker.external; of this section nothing else counts then."},
		{path: "broker.mosquitto.binary", at: func(c *Config) any { return &c.Broker.Mosquitto.Binary }, item: checkProgram, example: "/opt/mosquitto/sbin/mosquitto",
			doc: "The program, version 2; empty looks for mosquitto on the PATH and in /usr/sbin and /usr/local/sbin."},
		{path: "broker.external.urls", at: func(c *Config) any { return &c.Broker.External.URLs }, item: checkBrokerURL, example: "[\"ssl://broker.example:8883\", \"tcp://192.168.1.7:1883\"]",
			doc: "Addresses of the same broker, or of brokers that share what they hold, tcp://, ssl://, ws:// or wss://; one after the other is tried until " +
				"one answers. Empty is client.broker_host and client.broker_port. The login is client.auth, certificates are client.tls."},
		{path: "broker.port", at: func(c *Config) any { return &c.Broker.Port }, max: maxPort,
			doc: "TCP port; 0 lets the system choose one."},
		{path: "broker.bind_address", at: func(c *Config) any { return &c.Broker.BindAddress }, item: checkBind,
			doc: "Host name or address to listen on. localhost listens on 127.0.0.1 and on ::1; 0.0.0.0 (IPv4) and \"::\" listen " +
				"on every address. Anything but this host needs a user (lawnberry user add), broker.auth, or allow_anonymous set to true."},
		{path: "broker.keepalive", at: func(c *Config) any { return &c.Broker.KeepAlive }, max: 65535, whole: true,
			doc: "The longest keep alive that a client may ask for; one that asks for more, or for none, gets this. " +
				"0 leaves it to the clients."},
		{path: "broker.max_connections", live: true, at: func(c *Config) any { return &c.Broker.MaxConnections }, min: 1, max: maxCount,
			doc: "Clients connected at once; one more is refused."},
		{path: "broker.persistence", at: func(c *Config) any { return &c.Broker.Persistence },
			doc: "Keep sessions, queued and retained messages over a restart and a crash."},
		{path: "broker.persistence_location", at: func(c *Config) any { return &c.Broker.PersistenceLocation }, isPath: true,
			doc: "Directory for what is kept, in a directory lawnberry-store of its own; empty is store in the data directory."},
		{path: "broker.persistence_sync", at: func(c *Config) any { return &c.Broker.PersistenceSync }, item: checkSync, example: "{interval: 1s}",
			doc: "When what is kept is on the disk. always: before it is acknowledged, so nothing acknowledged is lost. {interval: 1s}: " +
				"at most so long afterwards; a power cut loses what was acknowledged within it. off: when the system does it; a power " +
				"cut may lose the last half minute. A crash of the program alone loses nothing in any mode."},
		{path: "broker.max_queued_messages", live: true, at: func(c *Config) any { return &c.Broker.MaxQueuedMessages }, min: 1, max: 10 * maxCount,
			doc: "QoS 1 and 2 messages that wait for one session, connected or not. One more is refused, and counted as dropped."},
		{path: "broker.max_queued_bytes", live: true, at: func(c *Config) any { return &c.Broker.MaxQueuedBytes }, min: 1 << 20, max: 1 << 40, unit: "bytes",
			doc: "The same in bytes."},
		{path: "broker.max_packet_size", at: func(c *Config) any { return &c.Broker.MaxPacketSize }, min: 4096, max: maxMessage, unit: "bytes",
			doc: "The largest packet that a client may send; a larger one ends its connection. It is raised to what " +
				"protocols.validation.max_payload_size needs."},
		{path: "broker.socket_group", at: func(c *Config) any { return &c.Broker.SocketGroup }, item: checkGroup, example: "lawnberry",
			doc: "A group of this system whose members may connect to the socket in the data directory without a login, and do everything there, as " +
				"the broker's own user and root may. Empty is none."},
		{path: "broker.log_level", live: true, at: func(c *Config) any { return &c.Broker.LogLevel }, oneOf: logLevels(),
			doc: "What the broker logs."},
		{path: "broker.allow_anonymous", at: func(c *Config) any { return &c.Broker.AllowAnonymous },
			doc: "Let in clients without a user name. Unless set: true while broker.auth is off and there is no user (lawnberry user add), false otherwise."},
		{path: "broker.auth.enabled", at: func(c *Config) any { return &c.Broker.Auth.Enabled },
			doc: "Ask clients for a login: that of the user below, or of one that was added with lawnberry user add."},
		{path: "broker.auth.username", at: func(c *Config) any { return &c.Broker.Auth.Username },
			doc: "User name."},
		{path: "broker.auth.password", at: func(c *Config) any { return &c.Broker.Auth.Password },
			doc: "Password. Better than in this file: the environment variable MQTT_PASSWORD, which wins over all else."},
		{path: "broker.tls.enabled", at: func(c *Config) any { return &c.Broker.TLS.Enabled },
			doc: "Speak TLS (1.2 or newer)."},
		{path: "broker.tls.cert_file", at: func(c *Config) any { return &c.Broker.TLS.CertFile }, isPath: true,
			doc: "Certificate chain of the broker, PEM. A relative path starts at this file. All files of TLS are watched: what is new in them is " +
				"used from the next connection on."},
		{path: "broker.tls.key_file", at: func(c *Config) any { return &c.Broker.TLS.KeyFile }, isPath: true,
			doc: "Private key of the certificate, PEM."},
		{path: "broker.tls.ca_file", at: func(c *Config) any { return &c.Broker.TLS.CAFile }, isPath: true,
			doc: "Certificates, PEM, of the authorities that may sign clients' certificates. With it clients are asked for one; its common name " +
				"is then who the client is, and it needs no password. A client that shows none logs in as without this key."},
		{path: "broker.tls.crl_file", at: func(c *Config) any { return &c.Broker.TLS.CRLFile }, isPath: true,
			doc: "List of clients' certificates that are revoked, PEM, signed by one of ca_file (lawnberry cert revoke)."},
		{path: "broker.tls.require_certificate", at: func(c *Config) any { return &c.Broker.TLS.RequireCertificate },
			doc: "Refuse clients on the network that show no certificate. It is false by default, so that clients with a password go on as before; the " +
				"socket in the data directory needs none."},
		{path: "broker.websockets.enabled", at: func(c *Config) any { return &c.Broker.WebSockets.Enabled },
			doc: "Listen for MQTT over WebSocket too, on broker.bind_address."},
		{path: "broker.websockets.port", at: func(c *Config) any { return &c.Broker.WebSockets.Port }, max: maxPort,
			doc: "TCP port; 0 lets the system choose one."},
		{path: "broker.websockets.hosts", at: func(c *Config) any { return &c.Broker.WebSockets.Hosts }, item: checkHost, example: "[mower.home.arpa]",
			doc: "Names by which browsers may reach it, beside addresses, localhost and this machine's own name. A page that reaches it by another " +
				"name is refused: somebody else may have pointed that here."},
		{path: "broker.websockets.origins", at: func(c *Config) any { return &c.Broker.WebSockets.Origins }, item: checkOrigin, example: "[\"https://mower.example\"]",
			doc: "Where pages may come from, beside this host and port itself; scheme, name and port, if it is not the usual one."},

		{path: "client.client_id", at: func(c *Config) any { return &c.Client.ClientID }, item: checkClientID,
			doc: "MQTT client identifier; empty makes a fresh one per program. Two programs must not use one at the same time."},
		{path: "client.broker_host", at: func(c *Config) any { return &c.Client.BrokerHost }, item: checkHost,
			doc: "Host name or address of the broker; empty is the broker of this file."},
		{path: "client.broker_port", at: func(c *Config) any { return &c.Client.BrokerPort }, max: maxPort,
			doc: "TCP port of the broker; 0 is broker.port."},
		{path: "client.clean_session", at: func(c *Config) any { return &c.Client.CleanSession },
			doc: "Forget at start what the broker kept for this client_id since its last run."},
		{path: "client.keepalive", at: func(c *Config) any { return &c.Client.KeepAlive }, min: 1, max: 65535, whole: true,
			doc: "MQTT keep alive: how soon a dead connection is noticed."},
		{path: "client.reconnect_delay", at: func(c *Config) any { return &c.Client.ReconnectDelay }, min: 0.01, max: 3600,
			doc: "Delay before the first attempt to connect again; each is drawn at random below the current delay. Unless set it is 1 s " +
				"for the broker of this file (client.broker_host)."},
		{path: "client.max_reconnect_delay", at: func(c *Config) any { return &c.Client.MaxReconnectDelay }, min: 0.01, max: 86400,
			doc: "The delay grows up to this. Unless set it is 1 s for the broker of this file, or reconnect_delay when that is longer."},
		{path: "client.reconnect_backoff", at: func(c *Config) any { return &c.Client.ReconnectBackoff }, min: 1, max: 100,
			doc: "The delay grows by this factor with each attempt."},
		{path: "client.probe_interval", at: func(c *Config) any { return &c.Client.ProbeInterval }, min: 0.05, max: 3600,
			doc: "A client that hears nothing for so long asks the broker for a sign of life; after three times as long the connection counts as dead. " +
				"Unless set it is 0.16 for services of the safety class."},
		{path: "client.message_timeout", at: func(c *Config) any { return &c.Client.MessageTimeout }, min: 0.01, max: 86400,
			doc: "How long a command or a publication may take when its caller sets no limit."},
		{path: "client.queue_size", at: func(c *Config) any { return &c.Client.QueueSize }, min: 1, max: maxCount, unit: "messages",
			doc: "What is published while the broker cannot be reached waits in a queue of this size."},
		{path: "client.data_dir", at: func(c *Config) any { return &c.Client.DataDir }, isPath: true,
			doc: "Directory in which a client that has an id keeps, in a directory of that name, what waits for the broker and which " +
				"commands it has executed; empty keeps it in memory. A relative path starts at this file."},
		{path: "client.compression_enabled", at: func(c *Config) any { return &c.Client.CompressionEnabled },
			doc: "Compress long messages; see protocols.compression, which must be enabled too."},
		{path: "client.auth.enabled", at: func(c *Config) any { return &c.Client.Auth.Enabled },
			doc: "Log in with the user name and password below."},
		{path: "client.auth.username", at: func(c *Config) any { return &c.Client.Auth.Username },
			doc: "User name."},
		{path: "client.auth.password", at: func(c *Config) any { return &c.Client.Auth.Password },
			doc: "Password. Better than in this file: the environment variable MQTT_PASSWORD, which wins over all else."},
		{path: "client.tls.enabled", at: func(c *Config) any { return &c.Client.TLS.Enabled },
			doc: "Speak TLS (1.2 or newer)."},
		{path: "client.tls.ca_certs", at: func(c *Config) any { return &c.Client.TLS.CACerts }, isPath: true,
			doc: "Certificates, PEM, that must have signed the broker's; empty is the system's. A relative path starts at this file."},
		{path: "client.tls.certfile", at: func(c *Config) any { return &c.Client.TLS.CertFile }, isPath: true,
			doc: "Certificate chain to show to the broker, PEM. What is new in the files of TLS is used from the next connection on."},
		{path: "client.tls.keyfile", at: func(c *Config) any { return &c.Client.TLS.KeyFile }, isPath: true,
			doc: "Private key of certfile, PEM."},
		{path: "client.rate_limits.sensor_data", at: func(c *Config) any { return &c.Client.RateLimits.SensorData }, max: maxCount,
			unit: "messages per minute", doc: "Sensor data; 0 is no limit."},
		{path: "client.rate_limits.commands", at: func(c *Config) any { return &c.Client.RateLimits.Commands }, max: maxCount,
			unit: "messages per minute", doc: "Commands; 0 is no limit."},
		{path: "client.rate_limits.status", at: func(c *Config) any { return &c.Client.RateLimits.Status }, max: maxCount,
			unit: "messages per minute", doc: "Status; 0 is no limit."},
		{path: "client.rate_limits.general", at: func(c *Config) any { return &c.Client.RateLimits.General }, max: maxCount,
			unit: "messages per minute", doc: "Everything else; 0 is no limit."},

		{path: "services.heartbeat_interval", at: func(c *Config) any { return &c.Services.HeartbeatInterval }, min: 0.01, max: 3600,
			doc: "How often a service says that it is well."},
		{path: "services.heartbeat_timeout", at: func(c *Config) any { return &c.Services.HeartbeatTimeout }, min: 0.02, max: 86400,
			doc: "Silence after which the others take a service for offline; longer than heartbeat_interval."},
		{path: "services.dependency_timeout", at: func(c *Config) any { return &c.Services.DependencyTimeout }, min: 0.01, max: 86400,
			doc: "How long a starting service waits for the services it needs."},
		{path: "services.discovery_timeout", at: func(c *Config) any { return &c.Services.DiscoveryTimeout }, max: maxSeconds,
			doc:         "How long to look for services.",
			unsupported: "nothing waits for discovery: the broker tells a service about all others as soon as it connects"},

		{path: "topics.namespace", at: func(c *Config) any { return &c.Topics.Namespace }, item: checkNamespace,
			doc: "First level of every topic of the bus."},
		{path: "topics.qos", at: func(c *Config) any { return &c.Topics.QoS }, max: 2, example: "{sensor_data: 0}",
			doc: "Quality of service by type of topic, instead of the standard one. Topics below safety/ never get less than theirs."},
		{path: "topics.retained", at: func(c *Config) any { return &c.Topics.Retained }, item: checkFilter,
			example: "[power/consumption]",
			doc:     "Patterns of topics whose last message the broker keeps, beside the standard ones."},
		{path: "topics.rate_limits", at: func(c *Config) any { return &c.Topics.RateLimits }, max: maxCount, item: checkFilter,
			unit: "messages per minute", example: `{"sensors/imu/data": 600}`,
			doc: "Limit per concrete topic, by pattern, instead of the standard one; 0 is no limit. Topics below safety/ have none."},
		{path: "topics.compress", at: func(c *Config) any { return &c.Topics.Compress }, item: checkFilter,
			example: `{"vision/detections": false}`,
			doc: "Topics, by pattern, whose messages are never compressed because programs read them that know no gzip. Those outside the " +
				"namespace never are."},

		{path: "protocols.validation.enabled", at: func(c *Config) any { return &c.Protocols.Validation.Enabled },
			doc:         "Check messages.",
			unsupported: "messages are always checked, so that no handler sees a broken one: raise max_payload_size or max_message_age instead",
			works:       func(c *Config) bool { return c.Protocols.Validation.Enabled }},
		{path: "protocols.validation.max_payload_size", at: func(c *Config) any { return &c.Protocols.Validation.MaxPayloadSize },
			min: 1, max: maxMessage, unit: "bytes", doc: "Longest message, before compression."},
		{path: "protocols.validation.max_message_age", at: func(c *Config) any { return &c.Protocols.Validation.MaxMessageAge },
			max: maxSeconds, doc: "Oldest message that is still handled; 0 is no limit."},
		{path: "protocols.compression.enabled", at: func(c *Config) any { return &c.Protocols.Compression.Enabled },
			doc: "Compress long messages."},
		{path: "protocols.compression.threshold", at: func(c *Config) any { return &c.Protocols.Compression.Threshold },
			min: 1, max: maxMessage, unit: "bytes", doc: "Longer messages are compressed."},
		{path: "protocols.retry.max_retries", at: func(c *Config) any { return &c.Protocols.Retry.MaxRetries }, max: maxCount,
			doc: "Attempts after the first.", unsupported: noRetry},
		{path: "protocols.retry.retry_delay", at: func(c *Config) any { return &c.Protocols.Retry.RetryDelay }, max: maxSeconds,
			doc: "Delay before the second attempt.", unsupported: noRetry},
		{path: "protocols.retry.retry_backoff", at: func(c *Config) any { return &c.Protocols.Retry.RetryBackoff }, min: 1, max: 100,
			doc: "The delay grows by this factor with each attempt.", unsupported: noRetry},

		{path: "security.encryption.enabled", at: func(c *Config) any { return &c.Security.Encryption.Enabled },
			doc: "Encrypt the payloads of the topics below, and decrypt whatever was encrypted with a key of the key file. See docs/security.md."},
		{path: "security.encryption.algorithm", at: func(c *Config) any { return &c.Security.Encryption.Algorithm },
			doc: "Method: aes-256-gcm."},
		{path: "security.encryption.key_file", at: func(c *Config) any { return &c.Security.Encryption.KeyFile }, isPath: true,
			doc: "Keys, made by lawnberry key new --algorithm aes-256-gcm; mode 0600. A changed file is taken up within a second. A relative path " +
				"starts at this file."},
		{path: "security.encryption.topics", at: func(c *Config) any { return &c.Security.Encryption.Topics }, item: checkFilter,
			example: `["navigation/#", vision/detections]`,
			doc:     "Filters of topics whose payloads are encrypted. Programs without the key read none of them."},
		{path: "security.signing.enabled", at: func(c *Config) any { return &c.Security.Signing.Enabled },
			doc: "Sign messages and verify signatures, as the policies below say. It needs MQTT 5. See docs/security.md."},
		{path: "security.signing.algorithm", at: func(c *Config) any { return &c.Security.Signing.Algorithm },
			doc: "What is signed with: hmac-sha256 (everyone has the same key) or ed25519 (who verifies cannot sign). Both are verified."},
		{path: "security.signing.key_file", at: func(c *Config) any { return &c.Security.Signing.KeyFile }, isPath: true,
			doc: "Keys, made by lawnberry key new; mode 0600. It may be that of security.encryption. A changed file is taken up within a second. " +
				"A relative path starts at this file."},
		{path: "security.signing.policies", at: func(c *Config) any { return &c.Security.Signing.Policies }, item: checkFilter,
			example: `{commands/+: require, "system/#": verify, system/logs/+: off}`,
			doc: "By filter of topics, the most specific first: off; verify (sign, and refuse wrong signatures but not messages without one); require (a " +
				"signature). What no filter matches is off. Below safety/ require holds only by a filter that begins with safety: a stop must arrive."},
		{path: "security.signing.window", at: func(c *Config) any { return &c.Security.Signing.Window }, min: 0.1, max: 86400,
			doc: "How far the time of a signed message may be from the clock here, either way. What waited longer for a connection is refused."},
		{path: "security.access_control.enabled", live: true, at: func(c *Config) any { return &c.Security.AccessControl.Enabled },
			doc: "Everyone may do what the rules allow and nothing else. Rules follow from service_definitions and from the roles of users; " +
				"see lawnberry acl ls. It needs users who log in."},
		{path: "security.access_control.rules", live: true, at: func(c *Config) any { return &c.Security.AccessControl.Rules },
			example: "[{allow: [publish, subscribe], identity: weather, filter: weather/#}, {deny: subscribe, role: viewer, filter: vision/#}]",
			doc: "Rules of your own, before those that follow from other things; the first that fits decides. A rule allows or denies publish, subscribe, " +
				"release (of an emergency stop) or all, to an identity (user name), a role or, without both, everyone, on the topics of a " +
				"filter, in which %u stands for the user name and %c for the client id."},

		{path: "safety.emergency_stop.enabled", at: func(c *Config) any { return &c.Safety.EmergencyStop.Enabled },
			doc: "Serve keeps the state of the emergency stop, as the service emergency_stop. False if another process does: nothing moves without."},

		{path: "monitoring.metrics.enabled", at: func(c *Config) any { return &c.Monitoring.Metrics.Enabled },
			doc: "Serve figures for Prometheus at /metrics of the WebSocket bridge, to who may log in there. See docs/metrics.md."},
		{path: "monitoring.metrics.collection_interval", at: func(c *Config) any { return &c.Monitoring.Metrics.CollectionInterval },
			min: 1, max: maxSeconds, doc: "How often figures are taken, for monitoring.logging.log_performance. Prometheus fetches them as often as it likes."},
		{path: "monitoring.metrics.retention_period", at: func(c *Config) any { return &c.Monitoring.Metrics.RetentionPeriod },
			max: 100 * maxSeconds, doc: "How long figures are kept.", unsupported: noRetention},
		{path: "monitoring.tracing.enabled", at: func(c *Config) any { return &c.Monitoring.Tracing.Enabled },
			doc: "Messages say which trace they belong to, and spans go to an OpenTelemetry collector. See docs/tracing.md."},
		{path: "monitoring.tracing.endpoint", at: func(c *Config) any { return &c.Monitoring.Tracing.Endpoint },
			item: checkCollector, example: "http://collector.example:4318",
			doc: "http or https URL of the collector, OTLP over HTTP; without a path /v1/traces is added."},
		{path: "monitoring.tracing.sample_ratio", at: func(c *Config) any { return &c.Monitoring.Tracing.SampleRatio }, max: 1,
			doc: "Share of the traces that begin here which is recorded, 0 to 1. Of others their beginner decides."},
		{path: "monitoring.logging.enabled", live: true, at: func(c *Config) any { return &c.Monitoring.Logging.Enabled },
			doc: "Write a log; without it only errors are written."},
		{path: "monitoring.logging.log_level", live: true, at: func(c *Config) any { return &c.Monitoring.Logging.LogLevel },
			oneOf: []string{"debug", "info", "information", "notice", "warning", "warn", "error", "critical"},
			doc:   "What is logged. The broker has a level of its own, broker.log_level."},
		{path: "monitoring.logging.levels", live: true, at: func(c *Config) any { return &c.Monitoring.Logging.Levels }, item: checkLogPackage,
			values: []string{"debug", "info", "warn", "error"}, example: "{client: debug, web: warn}",
			doc: "Levels of parts of serve that are not to follow log_level: " + words(LogPackages()) + ". See docs/logging.md."},
		{path: "monitoring.logging.log_messages", at: func(c *Config) any { return &c.Monitoring.Logging.LogMessages },
			doc: "Serve logs every message: topic, length, sender and type, not what is in it (development.debug.log_all_messages)."},
		{path: "monitoring.logging.log_performance", at: func(c *Config) any { return &c.Monitoring.Logging.LogPerformance },
			doc: "Serve logs the broker's rates, queues and losses, each monitoring.metrics.collection_interval."},
		{path: "monitoring.health_checks.enabled", at: func(c *Config) any { return &c.Monitoring.HealthChecks.Enabled },
			doc: "Serve publishes how all services are together on system/health, and reports those that die."},
		{path: "monitoring.health_checks.check_interval", at: func(c *Config) any { return &c.Monitoring.HealthChecks.CheckInterval },
			min: 0.1, max: maxSeconds, doc: "How often system/health is published when nothing changes; changes are published at once."},
		{path: "monitoring.health_checks.timeout", at: func(c *Config) any { return &c.Monitoring.HealthChecks.Timeout },
			max: maxSeconds, doc: "How long an answer may take.", unsupported: noCheckTime},

		{path: "integration.websocket_bridge.enabled", at: func(c *Config) any { return &c.Integration.WebSocketBridge.Enabled },
			doc: "Run it in serve, on broker.bind_address, and over TLS if broker.tls.enabled."},
		{path: "integration.websocket_bridge.port", at: func(c *Config) any { return &c.Integration.WebSocketBridge.Port }, max: maxPort,
			doc: "TCP port; 0 lets the system choose one."},
		{path: "integration.websocket_bridge.max_connections", at: func(c *Config) any { return &c.Integration.WebSocketBridge.MaxConnections },
			min: 1, max: maxCount, doc: "Browsers connected at once."},
		{path: "integration.home_assistant.enabled", at: func(c *Config) any { return &c.Integration.HomeAssistant.Enabled },
			doc: "Show the mower to Home Assistant, by MQTT discovery, and obey it. See docs/home-assistant.md."},
		{path: "integration.home_assistant.discovery_prefix", at: func(c *Config) any { return &c.Integration.HomeAssistant.DiscoveryPrefix }, item: checkPrefix,
			doc: "First levels of the discovery topics, as Home Assistant has them; outside topics.namespace."},
		{path: "integration.home_assistant.birth_topic", at: func(c *Config) any { return &c.Integration.HomeAssistant.BirthTopic }, item: checkTopic,
			doc: "Where Home Assistant says that it has started (its birth message)."},
		{path: "integration.home_assistant.device_name", at: func(c *Config) any { return &c.Integration.HomeAssistant.DeviceName }, item: checkDeviceName,
			doc: "Name of the mower."},
		{path: "integration.home_assistant.device_id", at: func(c *Config) any { return &c.Integration.HomeAssistant.DeviceID }, item: checkDeviceID,
			doc: "Identifier of the mower, in topics and entities: letters, digits, _ and -. With another one it is another device."},
		{path: "integration.home_assistant.mower_service", at: func(c *Config) any { return &c.Integration.HomeAssistant.MowerService }, item: checkServiceID,
			doc: "The service that mows: it has the commands below, and its activity is on navigation/status."},
		{path: "integration.home_assistant.start_command", at: func(c *Config) any { return &c.Integration.HomeAssistant.StartCommand }, item: checkCommand,
			doc: "Its command to start or resume mowing."},
		{path: "integration.home_assistant.pause_command", at: func(c *Config) any { return &c.Integration.HomeAssistant.PauseCommand }, item: checkCommand,
			doc: "Its command to pause."},
		{path: "integration.home_assistant.dock_command", at: func(c *Config) any { return &c.Integration.HomeAssistant.DockCommand }, item: checkCommand,
			doc: "Its command to drive to the dock."},
		{path: "integration.home_assistant.activities", at: func(c *Config) any { return &c.Integration.HomeAssistant.Activities },
			values: activities(), merged: true, example: "{cutting: mowing, stuck: error}",
			doc: "What its activities are to Home Assistant: mowing, paused, docked, returning or error. Those that are not named here stay as they are " +
				"by default; one that is unknown is shown as unknown."},
		{path: "integration.home_assistant.origin.latitude", at: func(c *Config) any { return &c.Integration.HomeAssistant.Origin.Latitude }, min: -90, max: 90, unit: "degrees",
			doc: "Where x and y of navigation/position are 0. Without it Home Assistant knows a position only if that has latitude and longitude itself."},
		{path: "integration.home_assistant.origin.longitude", at: func(c *Config) any { return &c.Integration.HomeAssistant.Origin.Longitude }, min: -180, max: 180, unit: "degrees",
			doc: "The same for the longitude."},
		{path: "integration.fleet.enabled", at: func(c *Config) any { return &c.Integration.Fleet.Enabled },
			doc: "Tell a fleet of mowers what happens here, and take its commands. The mower is whole without. See docs/fleet.md."},
		{path: "integration.fleet.url", at: func(c *Config) any { return &c.Integration.Fleet.URL }, item: checkEngineURL, example: "\"tls://a.example:4222,tls://b.example:4222\"",
			doc: "Where the fleet meets: a NATS server or cluster with JetStream, tls:// or nats://, the nodes separated by commas, or an MQTT 5 broker, mqtts:// or mqtt://."},
		{path: "integration.fleet.mower_id", at: func(c *Config) any { return &c.Integration.Fleet.MowerID }, item: checkMowerID, example: "mower-0042",
			doc: "What this mower is called in the fleet: letters, digits, _ and -. No other has the same."},
		{path: "integration.fleet.credentials", at: func(c *Config) any { return &c.Integration.Fleet.Credentials }, isPath: true,
			doc: "File of the mower's login at the engine, which its enrolment has written, or user name and password, each on a line, for an MQTT broker; mode 0600. It is read at each attempt to connect. A relative path starts at this file."},
		{path: "integration.fleet.ca_file", at: func(c *Config) any { return &c.Integration.Fleet.CAFile }, isPath: true,
			doc: "Certificates, PEM, that must have signed the engine's; empty is the system's."},
		{path: "integration.fleet.up", at: func(c *Config) any { return &c.Integration.Fleet.Up },
			example: "[{filter: safety/alerts/+, class: alert}, {filter: power/battery, class: telemetry, rate: 60}]",
			doc: "What the fleet is told: filters of topics, each with a class (state: the latest value; telemetry: that and a history in batches; event: each " +
				"message; alert: that, the latest value, and dropped last) and, of state and telemetry, a rate in messages per minute and topic. The most " +
				"specific filter counts. Empty is alerts, events, the states of services, health, navigation/status, and position and battery at 60."},
		{path: "integration.fleet.down", at: func(c *Config) any { return &c.Integration.Fleet.Down }, item: checkDown, example: "[navigation/dock, weather/*]",
			doc: "Commands that the fleet may give, as service/command with * for any characters. The emergency stop can always be engaged, and never released."},
		{path: "integration.fleet.keys_file", at: func(c *Config) any { return &c.Integration.Fleet.KeysFile }, isPath: true,
			doc: "Public keys of the operators whose signatures count, made by lawnberry key public. A changed file is taken up within a second. A relative path starts at this file."},
		{path: "integration.fleet.allow_unsigned", at: func(c *Config) any { return &c.Integration.Fleet.AllowUnsigned },
			doc: "Take the commands of integration.fleet.down without a signature, from everyone whom the engine lets in."},
		{path: "integration.fleet.session_expiry", at: func(c *Config) any { return &c.Integration.Fleet.SessionExpiry }, min: 60, max: 10 * maxSeconds,
			doc: "How long an MQTT broker that is the engine keeps jobs for this mower while it is away. NATS keeps them until their deadlines."},
		{path: "integration.fleet.batch_interval", at: func(c *Config) any { return &c.Integration.Fleet.BatchInterval }, min: 0.1, max: 3600,
			doc: "The longest that telemetry waits for its batch to be full. The latest values wait for nothing."},
		{path: "integration.fleet.outbox.max_size", at: func(c *Config) any { return &c.Integration.Fleet.Outbox.MaxSize }, min: 1 << 20, max: 1 << 40, unit: "bytes",
			doc: "What waits for the engine in all, in the data directory; beyond it the oldest telemetry is dropped first, then events, alerts last."},
		{path: "integration.fleet.outbox.telemetry_size", at: func(c *Config) any { return &c.Integration.Fleet.Outbox.TelemetrySize }, max: 1 << 40, unit: "bytes",
			doc: "Readings that wait at most; 0 is max_size."},
		{path: "integration.fleet.outbox.telemetry_age", at: func(c *Config) any { return &c.Integration.Fleet.Outbox.TelemetryAge }, min: 60, max: 10 * maxSeconds,
			doc: "Readings older than this are dropped."},
		{path: "integration.fleet.outbox.event_size", at: func(c *Config) any { return &c.Integration.Fleet.Outbox.EventSize }, max: 1 << 40, unit: "bytes",
			doc: "Events that wait at most; 0 is max_size."},
		{path: "integration.fleet.outbox.event_age", at: func(c *Config) any { return &c.Integration.Fleet.Outbox.EventAge }, min: 60, max: 10 * maxSeconds,
			doc: "Events older than this are dropped."},
		{path: "integration.fleet.outbox.alert_size", at: func(c *Config) any { return &c.Integration.Fleet.Outbox.AlertSize }, max: 1 << 40, unit: "bytes",
			doc: "Alerts that wait at most; 0 is max_size."},
		{path: "integration.fleet.outbox.alert_age", at: func(c *Config) any { return &c.Integration.Fleet.Outbox.AlertAge }, min: 60, max: 10 * maxSeconds,
			doc: "Alerts older than this are dropped."},
		{path: "integration.cloud_logging.enabled", at: func(c *Config) any { return &c.Integration.CloudLogging.Enabled },
			doc: "Serve sends its log, and what services log on system/logs/+, to a server. What cannot be sent waits in the data directory, 16 MiB of it."},
		{path: "integration.cloud_logging.endpoint", at: func(c *Config) any { return &c.Integration.CloudLogging.Endpoint },
			item: checkEndpoint, example: "https://logs.example/lawnberry",
			doc: "http or https URL that batches are posted to, as a JSON array of objects with time, level and msg."},
		{path: "integration.cloud_logging.token", at: func(c *Config) any { return &c.Integration.CloudLogging.Token },
			doc: "Sent as a bearer token. Better than in this file: the environment."},
		{path: "integration.cloud_logging.batch_size", at: func(c *Config) any { return &c.Integration.CloudLogging.BatchSize },
			min: 1, max: 10_000, doc: "Lines per request at most."},
		{path: "integration.cloud_logging.flush_interval", at: func(c *Config) any { return &c.Integration.CloudLogging.FlushInterval },
			min: 0.1, max: maxSeconds, doc: "The longest that a line waits for a request to be full."},

		{path: "service_definitions", live: true, at: func(c *Config) any { return &c.ServiceDefinitions },
			example: "{navigation: {service_type: navigation, dependencies: [hardware_interface]}}",
			doc: "The services of this mower by id: service_type, dependencies (ids of the services that one waits for), and " +
				"topics with subscribe and publish, lists of filters."},

		{path: "development.mock_services.enabled", at: func(c *Config) any { return &c.Development.MockServices.Enabled },
			doc: "Serve simulates services: they are there and healthy, and publish made up readings on what service_definitions has them publish, or " +
				"else on sensors/{id}/data. They say nothing on what concerns safety."},
		{path: "development.mock_services.services", at: func(c *Config) any { return &c.Development.MockServices.Services },
			item: checkMock, example: "[gps, weather]", doc: "Ids of the services to simulate."},
		{path: "development.debug.enabled", live: true, at: func(c *Config) any { return &c.Development.Debug.Enabled },
			doc: "Log at level debug, whatever the log levels say."},
		{path: "development.debug.log_all_messages", at: func(c *Config) any { return &c.Development.Debug.LogAllMessages },
			doc: "Serve logs every message with the first 1,000 bytes of what is in it, which may be secret."},
		{path: "development.debug.simulate_failures", at: func(c *Config) any { return &c.Development.Debug.SimulateFailures },
			doc: "The broker cuts each connection now and then, after half a minute on average, and what was on its way is lost: to see whether services mend. " +
				"Connections within serve and on the socket in the data directory stay."},
		{path: "development.debug.latency_simulation", at: func(c *Config) any { return &c.Development.Debug.LatencySimulation },
			max: 60_000, unit: "milliseconds", doc: "Everything that the broker sends comes so much later; 0 or false is no delay. Connections within serve and " +
				"on the socket in the data directory are as they are. From 500 ms on nothing may move."},
	}
}

// typeName says in words what the key takes.
func (s *spec) typeName() string {
	switch s.at(&Config{}).(type) {
	case *int:
		return "whole number"
	case *float64, *time.Duration:
		return "number"
	case *bool, **bool:
		return "true or false"
	case *[]string, *[]any:
		return "list"
	case *map[string]int, *map[string]bool, *map[string]string, *map[string]ServiceDefinition:
		return "mapping"
	default:
		return "text"
	}
}

func (s *spec) secret() bool {
	_, ok := s.at(&Config{}).(*client.Secret)
	return ok
}

// inEnvironment reports whether one environment variable can hold the value: mappings and rules are too much for it.
func (s *spec) inEnvironment() bool {
	switch s.at(&Config{}).(type) {
	case *[]any, *map[string]int, *map[string]bool, *map[string]string, *map[string]ServiceDefinition:
		return false
	}
	return true
}

// scale is the length of the key's unit, for a duration.
func (s *spec) scale() time.Duration {
	if s.unit == "milliseconds" {
		return time.Millisecond
	}
	return time.Second
}

func (s *spec) unitName() string {
	if _, ok := s.at(&Config{}).(*time.Duration); ok && s.unit == "" {
		return "seconds"
	}
	return s.unit
}

// allowed says in words what the values are bounded by.
func (s *spec) allowed() string {
	switch s.at(&Config{}).(type) {
	case *int, *float64, *time.Duration, *map[string]int:
		if s.min == 0 && s.max == 0 {
			return ""
		}
		return number(s.min) + " to " + number(s.max)
	}
	return words(s.oneOf)
}

// number formats f without an exponent and without needless zeros.
func number(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return formatInt(int64(f))
	}
	return formatFloat(f)
}
