package config

import (
	"bytes"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// everyKey holds every key of the wire format's list, written out by hand from there, each with a value that is not its
// default.
const everyKey = `
broker:
  engine: mosquitto
  mosquitto: {binary: /opt/mosquitto}
  external: {urls: ["tcp://a.example:1883"]}
  port: 1884
  bind_address: 127.0.0.1
  keepalive: 61
  max_connections: 101
  persistence: false
  persistence_location: /var/lib/mosquitto
  persistence_sync: {interval: 1s}
  max_queued_messages: 1000
  max_queued_bytes: 2000000
  max_packet_size: 100000
  socket_group: lawnberry
  log_level: warning
  allow_anonymous: false
  auth: {enabled: true, username: mower, password: hunter2}
  tls: {enabled: true, cert_file: /etc/a.pem, key_file: /etc/a.key, ca_file: /etc/ca.pem, crl_file: /etc/crl.pem, require_certificate: true}
  websockets: {enabled: true, port: 9011, hosts: [mower.home.arpa], origins: ["https://mower.example"]}
client:
  client_id: me
  broker_host: 192.168.1.5
  broker_port: 1885
  clean_session: true
  keepalive: 61
  reconnect_delay: 6
  max_reconnect_delay: 301
  reconnect_backoff: 2.5
  probe_interval: 2
  message_timeout: 31
  queue_size: 1001
  data_dir: /var/lib/mower
  compression_enabled: false
  auth: {enabled: true, username: mower, password: hunter2}
  tls: {enabled: true, ca_certs: /etc/ca.pem, certfile: /etc/c.pem, keyfile: /etc/c.key}
  rate_limits: {sensor_data: 100, commands: 50, status: 20, general: 200}
services:
  heartbeat_interval: 31
  heartbeat_timeout: 91
  dependency_timeout: 61
  discovery_timeout: 301
topics:
  namespace: garden
  qos: {sensor_data: 0, commands: 2, status: 1, alerts: 2, events: 1}
  retained: [power/consumption]
  rate_limits: {sensors/+/data: 600, "navigation/#": 300}
  compress: {vision/detections: false}
protocols:
  validation: {enabled: false, max_payload_size: 10001, max_message_age: 301}
  compression: {enabled: false, threshold: 1001}
  retry: {max_retries: 4, retry_delay: 6, retry_backoff: 2.5}
security:
  encryption: {enabled: true, algorithm: AES-256-GCM, key_file: keys, topics: [navigation/#]}
  signing: {enabled: true, algorithm: ED25519, key_file: keys, policies: {"commands/+": verify, system/logs/+: off}, window: 31}
  access_control: {enabled: true, rules: [{identity: web, allow: [publish, subscribe], filter: "sensors/#"}, {deny: all, role: viewer, filter: commands/+}]}
safety:
  emergency_stop: {enabled: false}
monitoring:
  metrics: {enabled: true, collection_interval: 61, retention_period: 86401}
  tracing: {enabled: true, endpoint: "https://example.com/traces", sample_ratio: 0.5}
  logging: {enabled: false, log_level: DEBUG, log_messages: true, log_performance: true, levels: {client: debug}}
  health_checks: {enabled: false, check_interval: 31, timeout: 11}
integration:
  websocket_bridge: {enabled: true, port: 9003, max_connections: 11}
  home_assistant:
    {enabled: true, discovery_prefix: ha, birth_topic: ha/status, device_name: Mower, device_id: mower, mower_service: mission, start_command: go,
    pause_command: halt, dock_command: home, activities: {cutting: mowing}, origin: {latitude: 47.5, longitude: -8.5}}
  fleet: {enabled: true, url: "tls://a.example:4222,tls://b.example:4222", mower_id: m-7, credentials: m.creds, ca_file: ca.pem,
    up: [{filter: power/battery, class: telemetry, rate: 30}], down: [navigation/dock], keys_file: keys, allow_unsigned: true, session_expiry: 3600, batch_interval: 11,
    outbox: {max_size: 2000000, telemetry_size: 1, telemetry_age: 61, event_size: 2, event_age: 62, alert_size: 3, alert_age: 63}}
  cloud_logging: {enabled: true, endpoint: "https://example.com/logs", token: hunter2, batch_size: 101, flush_interval: 61}
service_definitions:
  hardware: {service_type: hardware, dependencies: [], topics: {subscribe: [commands/hardware], publish: [sensors/+/data]}}
  navigation: {service_type: navigation, dependencies: [hardware]}
development:
  mock_services: {enabled: true, services: [gps]}
  debug: {enabled: true, log_all_messages: true, simulate_failures: true, latency_simulation: 100}
`

func TestEveryKey(t *testing.T) {
	l, ps := loadText(everyKey)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	inFile, keys := map[string]bool{}, 0
	for k := range Keys() {
		keys++
		if l.Origin(k.Path).File == "" {
			t.Errorf("%s is not read from the file", k.Path)
		}
		inFile[k.Path] = true
		warned := slices.ContainsFunc(ps, func(p Problem) bool { return p.Key == k.Path && strings.Contains(p.Text, "not supported yet") })
		if want := k.Unsupported != ""; warned != want {
			t.Errorf("%s: warned of being unsupported: %v, want %v", k.Path, warned, want)
		}
		if k.Description == "" || k.Type == "" {
			t.Errorf("%s is not explained: %+v", k.Path, k)
		}
	}
	for _, p := range ps {
		if strings.Contains(p.Text, "unknown") {
			t.Error(p)
		}
	}
	before := map[string]any{}
	for _, s := range specs() {
		before[s.path] = s.effective(Default(), false)
		if reflect.DeepEqual(before[s.path], s.effective(l.Config, false)) {
			t.Errorf("%s still has its default %v", s.path, before[s.path])
		}
	}
	if keys != 141 {
		t.Errorf("%d keys, want 140: tell everyKey of the new one", keys)
	}
}

func TestDefaults(t *testing.T) {
	// The defaults that the wire format names.
	want := map[string]string{
		"broker.port": "1883", "broker.bind_address": "localhost", "broker.keepalive": "60", "broker.max_connections": "100",
		"broker.persistence": "true", "broker.websockets.port": "9001", "client.reconnect_delay": "5",
		"client.max_reconnect_delay": "300", "client.reconnect_backoff": "2.0", "client.message_timeout": "30",
		"client.queue_size": "1000", "services.heartbeat_interval": "30", "services.heartbeat_timeout": "90",
		"services.dependency_timeout": "60", "services.discovery_timeout": "300", "protocols.validation.max_payload_size": "10000",
		"protocols.validation.max_message_age": "300", "protocols.compression.threshold": "1000", "protocols.retry.max_retries": "3",
		"protocols.retry.retry_delay": "5", "protocols.retry.retry_backoff": "2.0", "integration.websocket_bridge.port": "9002",
		"integration.websocket_bridge.max_connections": "10", "topics.namespace": "lawnberry",
	}
	for k := range Keys() {
		if d, ok := want[k.Path]; ok && k.Default != d {
			t.Errorf("%s is %s, want %s", k.Path, k.Default, d)
		}
		delete(want, k.Path)
	}
	if len(want) > 0 {
		t.Errorf("no such keys: %v", want)
	}
	if ps := Default().Check(); len(ps) > 0 {
		t.Errorf("the defaults have problems: %v", ps)
	}
}

// another returns the text of a value for the key that is not its default.
func another(s *spec) string {
	switch p := s.at(Default()).(type) {
	case *bool:
		if *p {
			return "false"
		}
		return "true"
	case **bool:
		return "false"
	case *int:
		return formatInt(int64(*p) + 1)
	case *float64:
		if s.max == 1 {
			return "0.5"
		}
		return "3.5"
	case *time.Duration:
		return formatInt(int64(*p/s.scale()) + 1)
	case *[]string:
		switch s.path {
		case "broker.websockets.hosts":
			return "a, b.c"
		case "broker.websockets.origins":
			return "https://a, http://b:8080"
		case "development.mock_services.services":
			return "a, b"
		case "broker.external.urls":
			return "tcp://a, ssl://b:8883"
		case "integration.fleet.down":
			return "a/b, c/*"
		}
		return "a, b/c"
	case *string:
		switch {
		case s.path == "broker.engine":
			return EngineMosquitto
		case s.oneOf != nil:
			return "error"
		case s.path == "broker.persistence_sync":
			return "250ms"
		case s.path == "broker.bind_address":
			return "127.0.0.9"
		case s.path == "integration.cloud_logging.endpoint", s.path == "monitoring.tracing.endpoint":
			return "https://a/b"
		case s.path == "integration.fleet.url":
			return "tls://a"
		case s.isPath:
			return "/some/where"
		}
		return "other"
	case *client.Secret:
		return "hunter2"
	}
	return ""
}

func TestEnvironment(t *testing.T) {
	for _, s := range specs() {
		t.Run(s.path, func(t *testing.T) {
			key := s.key()
			if key.Env == "" {
				_, ps := loadText("", envName(s.path)+"=x")
				if len(ps) != 1 || ps[0].Severity != SeverityWarning || !strings.Contains(ps[0].Text, "set it in the file") {
					t.Errorf("got %v", ps)
				}
				return
			}
			// What the switches need to be a valid configuration.
			file := ""
			switch s.path {
			case "broker.allow_anonymous", "broker.auth.enabled":
				file = "broker: {auth: {enabled: true, username: u, password: p}}"
				if s.path == "broker.auth.enabled" {
					file = "broker: {auth: {username: u, password: p}}"
				}
			case "broker.tls.require_certificate":
				file = "broker: {tls: {enabled: true, cert_file: a, key_file: b, ca_file: c}}"
			case "broker.tls.enabled":
				file = "broker: {tls: {cert_file: a, key_file: b}}"
			case "client.auth.enabled":
				file = "client: {auth: {username: u}}"
			case "security.signing.enabled":
				file = "security: {signing: {key_file: k}}"
			case "security.encryption.enabled":
				file = "security: {encryption: {key_file: k, topics: [a]}}"
			case "integration.fleet.enabled":
				file = "integration: {fleet: {url: \"tls://a\", mower_id: m}}"
			case "integration.cloud_logging.enabled":
				file = "integration: {cloud_logging: {endpoint: \"https://a/b\"}}"
			case "client.tls.certfile":
				file = "client: {tls: {keyfile: k}}"
			case "client.tls.keyfile":
				file = "client: {tls: {certfile: k}}"
			case "integration.home_assistant.origin.latitude":
				file = "integration: {home_assistant: {origin: {longitude: 8}}}"
			case "integration.home_assistant.origin.longitude":
				file = "integration: {home_assistant: {origin: {latitude: 47}}}"
			}
			l, ps := loadText(file, key.Env+"="+another(s))
			if err := ps.Err(); err != nil {
				t.Fatal(err)
			}
			if got := l.Origin(s.path).String(); got != "environment "+key.Env {
				t.Errorf("it is from %s", got)
			}
			if got := s.effective(l.Config, false); reflect.DeepEqual(got, s.effective(Default(), false)) {
				t.Errorf("it is still %v", got)
			}
			if (key.Unsupported != "") != slices.ContainsFunc(ps, func(p Problem) bool {
				return p.Env == key.Env && p.Key == s.path && strings.HasPrefix(p.Text, "not supported yet: ")
			}) {
				t.Errorf("unsupported: %q, problems %v", key.Unsupported, ps)
			}
		})
	}
}

func TestEnvironmentNames(t *testing.T) {
	// Spelled in the wire format's examples and in the README.
	for path, name := range map[string]string{
		"broker.port":                       "LAWNBERRY_BROKER_PORT",
		"broker.websockets.enabled":         "LAWNBERRY_BROKER_WEBSOCKETS_ENABLED",
		"integration.websocket_bridge.port": "LAWNBERRY_INTEGRATION_WEBSOCKET_BRIDGE_PORT",
	} {
		if got := envName(path); got != name {
			t.Errorf("%s is %s, want %s", path, got, name)
		}
	}
	names := map[string]string{}
	for k := range Keys() {
		if other, ok := names[k.Env]; ok && k.Env != "" {
			t.Errorf("%s and %s share %s", k.Path, other, k.Env)
		}
		names[k.Env] = k.Path
	}
}

func TestEnvironmentProblems(t *testing.T) {
	tests := []struct {
		name, file string
		environ    []string
		want       []string
	}{
		{"others' variables", "", []string{"PATH=/bin", "BROKER_PORT=1", "LAWNBERRY_CONFIG=", "LAWNBERRY_DATA_DIR=/x", "LAWNBERRY_TEST_PYTHON=p"}, nil},
		{"unknown", "", []string{"LAWNBERRY_BROKER_PROT=1"}, []string{
			"warning: LAWNBERRY_BROKER_PROT: no key has this variable, it is ignored: did you mean LAWNBERRY_BROKER_PORT?"}},
		{"far from all", "", []string{"LAWNBERRY_ZZZ=1"}, []string{"warning: LAWNBERRY_ZZZ: no key has this variable, it is ignored"}},
		{"wrong", "", []string{"LAWNBERRY_BROKER_PORT=70000"}, []string{
			"error: LAWNBERRY_BROKER_PORT: broker.port: 70000 is out of range, want 0 to 65535"}},
		{"wrong in a list", "", []string{"LAWNBERRY_TOPICS_RETAINED=a,b#"}, []string{
			`error: LAWNBERRY_TOPICS_RETAINED: topics.retained: topic filter "b#": has a # that is not a level of its own [MQTT-4.7.1-1]`}},
		{"not UTF-8", "", []string{"LAWNBERRY_TOPICS_NAMESPACE=\xff"}, []string{
			`error: LAWNBERRY_TOPICS_NAMESPACE: topics.namespace: this is not UTF-8`}},
		{"empty is not set", "broker: {port: 5}", []string{"LAWNBERRY_BROKER_PORT="}, nil},
		{"a right variable over a wrong file is still a wrong file", "broker: {port: x}", []string{"LAWNBERRY_BROKER_PORT=1"}, []string{
			`error: mower.yaml:1: broker.port: "x" does not fit, want a whole number, 0 to 65535`}},
		{"a rule between keys", "", []string{"LAWNBERRY_BROKER_BIND_ADDRESS=0.0.0.0", "LAWNBERRY_BROKER_ALLOW_ANONYMOUS=yes"}, []string{
			`warning: LAWNBERRY_BROKER_ALLOW_ANONYMOUS: broker.allow_anonymous: everyone who reaches "0.0.0.0" can steer the mower without a login`}},
		{"a rule about a default", "", []string{"LAWNBERRY_BROKER_TLS_ENABLED=1", "LAWNBERRY_BROKER_AUTH_ENABLED=true", "MQTT_PASSWORD=p"}, []string{
			"error: LAWNBERRY_BROKER_AUTH_ENABLED: broker.auth.username: broker.auth.enabled needs a user name",
			`error: LAWNBERRY_BROKER_TLS_ENABLED: broker.tls.enabled: "1" does not fit, want true or false`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, ps := loadText(tt.file, tt.environ...)
			if got := lines(ps); !slices.Equal(got, tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
		})
	}
}

func TestPassword(t *testing.T) {
	l, ps := loadText("broker: {auth: {password: file}}\nclient: {auth: {password: file}}",
		"MQTT_PASSWORD= hunter2 ", "LAWNBERRY_BROKER_AUTH_PASSWORD=variable")
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	for path, got := range map[string]client.Secret{"broker.auth.password": l.Config.Broker.Auth.Password, "client.auth.password": l.Config.Client.Auth.Password} {
		if string(got) != " hunter2 " || l.Origin(path).Env != "MQTT_PASSWORD" {
			t.Errorf("%s is %q from %s", path, string(got), l.Origin(path))
		}
	}
}

func TestTemplate(t *testing.T) {
	var b bytes.Buffer
	if err := WriteTemplate(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	l, ps := loadText(text)
	if len(ps) > 0 {
		t.Fatalf("problems: %v", ps)
	}
	if !reflect.DeepEqual(l.Config, Default()) {
		t.Errorf("the template as it is gives\n%+v", l.Config)
	}
	// With every # taken away each key is set, to its default.
	l, ps = loadText(regexp.MustCompile(`(?m)^( *)#([a-z])`).ReplaceAllString(text, "$1$2"))
	for _, p := range ps {
		if !strings.HasPrefix(p.Text, "not supported yet: ") {
			t.Error(p)
		}
	}
	if l == nil {
		t.FailNow()
	}
	for _, s := range specs() {
		if l.Origin(s.path).Line == 0 {
			t.Errorf("%s is not in the template", s.path)
		}
		if got, want := s.effective(l.Config, false), s.effective(Default(), false); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", s.path, got, want)
		}
	}
	for n, line := range strings.Split(text, "\n") {
		if len(line) > 120 {
			t.Errorf("line %d is long: %s", n+1, line)
		}
	}
}

func TestExamplesLoad(t *testing.T) {
	for k := range Keys() {
		if k.Example == "" {
			continue
		}
		section, name := splitPath(k.Path)
		text := name + ": " + k.Example + "\n"
		if section != "" {
			text = section + ":\n  " + text
		}
		if _, ps := loadText(text); len(ps.Error()) > 0 {
			t.Errorf("%s: %v", k.Path, ps)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := slices.Values([]string{"port", "bind_address", "keepalive", "max_connections"})
	for name, want := range map[string]string{
		"prot": "port", "Port": "port", "ports": "port", "bind-address": "bind_address", "bindaddress": "bind_address",
		"keep_alive": "keepalive", "max_conections": "max_connections", "p": "", "": "", "completely": "", "connections": "",
		strings.Repeat("port", 100): "",
	} {
		if got := nearest(name, candidates); got != want {
			t.Errorf("%q is nearest to %q, want %q", name, got, want)
		}
	}
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"", "abc", 3}, {"abc", "abd", 1}, {"abc", "acb", 1}, {"kitten", "sitting", 3}, {"ä", "a", 1}} {
		if got := edits(tt.a, tt.b); got != tt.want {
			t.Errorf("%q to %q: %d edits, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
