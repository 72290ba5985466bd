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
	noMetrics   = "metrics are not exported yet"
	noCheckTime = "how long a service may be silent is its own lease, which it announces (services.heartbeat_timeout)"
	noWebBridge = "the bridge for browsers is not there yet"
	noHomeAsst  = "the bridge to Home Assistant is not there yet"
	noCloud     = "logs are not sent over the network yet"
	noMocks     = "no services are simulated by serve yet: lawnberry demo runs a whole mower"
	noDebug     = "only debug.enabled works yet"
)

// logLevels are the names that the log level keys take; see level.
func logLevels() []string { return []string{"error", "warning", "notice", "information", "debug"} }

// specs returns the table of keys, in the order of the file.
func specs() []*spec {
	return []*spec{
		{path: "broker.port", at: func(c *Config) any { return &c.Broker.Port }, max: maxPort,
			doc: "TCP port; 0 lets the system choose one."},
		{path: "broker.bind_address", at: func(c *Config) any { return &c.Broker.BindAddress }, item: checkBind,
			doc: "Host name or address to listen on. localhost listens on 127.0.0.1 and on ::1; 0.0.0.0 (IPv4) and \"::\" listen " +
				"on every address. Anything but this host needs a user (lawnberry user add), broker.auth, or allow_anonymous set to true."},
		{path: "broker.keepalive", at: func(c *Config) any { return &c.Broker.KeepAlive }, max: 65535, whole: true,
			doc: "The longest keep alive that a client may ask for; one that asks for more, or for none, gets this. " +
				"0 leaves it to the clients."},
		{path: "broker.max_connections", at: func(c *Config) any { return &c.Broker.MaxConnections }, min: 1, max: maxCount,
			doc: "Clients connected at once; one more is refused."},
		{path: "broker.persistence", at: func(c *Config) any { return &c.Broker.Persistence },
			doc: "Keep sessions, queued and retained messages over a restart and a crash."},
		{path: "broker.persistence_location", at: func(c *Config) any { return &c.Broker.PersistenceLocation }, isPath: true,
			doc: "Directory for what is kept, in a directory lawnberry-store of its own; empty is store in the data directory."},
		{path: "broker.persistence_sync", at: func(c *Config) any { return &c.Broker.PersistenceSync }, item: checkSync, example: "{interval: 1s}",
			doc: "When what is kept is on the disk. always: before it is acknowledged, so nothing acknowledged is lost. {interval: 1s}: " +
				"at most so long afterwards; a power cut loses what was acknowledged within it. off: when the system does it; a power " +
				"cut may lose the last half minute. A crash of the program alone loses nothing in any mode."},
		{path: "broker.max_queued_messages", at: func(c *Config) any { return &c.Broker.MaxQueuedMessages }, min: 1, max: 10 * maxCount,
			doc: "QoS 1 and 2 messages that wait for one session, connected or not. One more is refused, and counted as dropped."},
		{path: "broker.max_queued_bytes", at: func(c *Config) any { return &c.Broker.MaxQueuedBytes }, min: 1 << 20, max: 1 << 40, unit: "bytes",
			doc: "The same in bytes."},
		{path: "broker.max_packet_size", at: func(c *Config) any { return &c.Broker.MaxPacketSize }, min: 4096, max: maxMessage, unit: "bytes",
			doc: "The largest packet that a client may send; a larger one ends its connection. It is raised to what " +
				"protocols.validation.max_payload_size needs."},
		{path: "broker.log_level", at: func(c *Config) any { return &c.Broker.LogLevel }, oneOf: logLevels(),
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
		{path: "security.access_control.enabled", at: func(c *Config) any { return &c.Security.AccessControl.Enabled },
			doc: "Everyone may do what the rules allow and nothing else. Rules follow from service_definitions and from the roles of users; " +
				"see lawnberry acl ls. It needs users who log in."},
		{path: "security.access_control.rules", at: func(c *Config) any { return &c.Security.AccessControl.Rules },
			example: "[{allow: [publish, subscribe], identity: weather, filter: weather/#}, {deny: subscribe, role: viewer, filter: vision/#}]",
			doc: "Rules of your own, before those that follow from other things; the first that fits decides. A rule allows or denies publish, subscribe, " +
				"release (of an emergency stop) or all, to an identity (user name), a role or, without both, everyone, on the topics of a " +
				"filter, in which %u stands for the user name and %c for the client id."},

		{path: "monitoring.metrics.enabled", at: func(c *Config) any { return &c.Monitoring.Metrics.Enabled },
			doc: "Export metrics.", unsupported: noMetrics, works: off(func(c *Config) *bool { return &c.Monitoring.Metrics.Enabled })},
		{path: "monitoring.metrics.collection_interval", at: func(c *Config) any { return &c.Monitoring.Metrics.CollectionInterval },
			max: maxSeconds, doc: "How often figures are taken.", unsupported: noMetrics},
		{path: "monitoring.metrics.retention_period", at: func(c *Config) any { return &c.Monitoring.Metrics.RetentionPeriod },
			max: 100 * maxSeconds, doc: "How long figures are kept.", unsupported: noMetrics},
		{path: "monitoring.logging.enabled", at: func(c *Config) any { return &c.Monitoring.Logging.Enabled },
			doc: "Write a log; without it only errors are written."},
		{path: "monitoring.logging.log_level", at: func(c *Config) any { return &c.Monitoring.Logging.LogLevel },
			oneOf: []string{"debug", "info", "information", "notice", "warning", "warn", "error", "critical"},
			doc:   "What is logged. The broker has a level of its own, broker.log_level."},
		{path: "monitoring.logging.log_messages", at: func(c *Config) any { return &c.Monitoring.Logging.LogMessages },
			doc: "Log every message.", unsupported: "messages are not logged: lawnberry sub '#' shows them",
			works: off(func(c *Config) *bool { return &c.Monitoring.Logging.LogMessages })},
		{path: "monitoring.logging.log_performance", at: func(c *Config) any { return &c.Monitoring.Logging.LogPerformance },
			doc: "Log latencies and rates.", unsupported: "figures are not logged: lawnberry service info shows a service's",
			works: off(func(c *Config) *bool { return &c.Monitoring.Logging.LogPerformance })},
		{path: "monitoring.health_checks.enabled", at: func(c *Config) any { return &c.Monitoring.HealthChecks.Enabled },
			doc: "Serve publishes how all services are together on system/health, and reports those that die."},
		{path: "monitoring.health_checks.check_interval", at: func(c *Config) any { return &c.Monitoring.HealthChecks.CheckInterval },
			min: 0.1, max: maxSeconds, doc: "How often system/health is published when nothing changes; changes are published at once."},
		{path: "monitoring.health_checks.timeout", at: func(c *Config) any { return &c.Monitoring.HealthChecks.Timeout },
			max: maxSeconds, doc: "How long an answer may take.", unsupported: noCheckTime},

		{path: "integration.websocket_bridge.enabled", at: func(c *Config) any { return &c.Integration.WebSocketBridge.Enabled },
			doc: "Run it in serve.", unsupported: noWebBridge,
			works: off(func(c *Config) *bool { return &c.Integration.WebSocketBridge.Enabled })},
		{path: "integration.websocket_bridge.port", at: func(c *Config) any { return &c.Integration.WebSocketBridge.Port }, max: maxPort,
			doc: "TCP port; 0 lets the system choose one.", unsupported: noWebBridge},
		{path: "integration.websocket_bridge.max_connections", at: func(c *Config) any { return &c.Integration.WebSocketBridge.MaxConnections },
			min: 1, max: maxCount, doc: "Browsers connected at once.", unsupported: noWebBridge},
		{path: "integration.home_assistant.enabled", at: func(c *Config) any { return &c.Integration.HomeAssistant.Enabled },
			doc: "Run it in serve.", unsupported: noHomeAsst,
			works: off(func(c *Config) *bool { return &c.Integration.HomeAssistant.Enabled })},
		{path: "integration.home_assistant.discovery_prefix", at: func(c *Config) any { return &c.Integration.HomeAssistant.DiscoveryPrefix },
			doc: "First levels of the discovery topics, as Home Assistant has them.", unsupported: noHomeAsst},
		{path: "integration.home_assistant.device_name", at: func(c *Config) any { return &c.Integration.HomeAssistant.DeviceName },
			doc: "Name of the mower.", unsupported: noHomeAsst},
		{path: "integration.home_assistant.device_id", at: func(c *Config) any { return &c.Integration.HomeAssistant.DeviceID },
			doc: "Identifier of the mower.", unsupported: noHomeAsst},
		{path: "integration.cloud_logging.enabled", at: func(c *Config) any { return &c.Integration.CloudLogging.Enabled },
			doc: "Send logs.", unsupported: noCloud, works: off(func(c *Config) *bool { return &c.Integration.CloudLogging.Enabled })},
		{path: "integration.cloud_logging.endpoint", at: func(c *Config) any { return &c.Integration.CloudLogging.Endpoint },
			doc: "URL to post to.", unsupported: noCloud},
		{path: "integration.cloud_logging.batch_size", at: func(c *Config) any { return &c.Integration.CloudLogging.BatchSize },
			min: 1, max: maxCount, doc: "Lines per request.", unsupported: noCloud},
		{path: "integration.cloud_logging.flush_interval", at: func(c *Config) any { return &c.Integration.CloudLogging.FlushInterval },
			max: maxSeconds, doc: "Longest wait before a request.", unsupported: noCloud},

		{path: "service_definitions", at: func(c *Config) any { return &c.ServiceDefinitions },
			example: "{navigation: {service_type: navigation, dependencies: [hardware_interface]}}",
			doc: "The services of this mower by id: service_type, dependencies (ids of the services that one waits for), and " +
				"topics with subscribe and publish, lists of filters."},

		{path: "development.mock_services.enabled", at: func(c *Config) any { return &c.Development.MockServices.Enabled },
			doc: "Simulate services.", unsupported: noMocks, works: off(func(c *Config) *bool { return &c.Development.MockServices.Enabled })},
		{path: "development.mock_services.services", at: func(c *Config) any { return &c.Development.MockServices.Services },
			doc: "Ids of the services to simulate.", unsupported: noMocks},
		{path: "development.debug.enabled", at: func(c *Config) any { return &c.Development.Debug.Enabled },
			doc: "Log at level debug, whatever the log levels say."},
		{path: "development.debug.log_all_messages", at: func(c *Config) any { return &c.Development.Debug.LogAllMessages },
			doc: "Log every message.", unsupported: noDebug,
			works: off(func(c *Config) *bool { return &c.Development.Debug.LogAllMessages })},
		{path: "development.debug.simulate_failures", at: func(c *Config) any { return &c.Development.Debug.SimulateFailures },
			doc: "Lose messages and connections now and then.", unsupported: noDebug,
			works: off(func(c *Config) *bool { return &c.Development.Debug.SimulateFailures })},
		{path: "development.debug.latency_simulation", at: func(c *Config) any { return &c.Development.Debug.LatencySimulation },
			max: 60_000, unit: "milliseconds", doc: "Delay every message; 0 or false is no delay.", unsupported: noDebug,
			works: func(c *Config) bool { return c.Development.Debug.LatencySimulation == 0 }},
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
