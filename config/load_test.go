package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// loadText is load of a file called mower.yaml.
func loadText(text string, environ ...string) (*Loaded, Problems) {
	l, err := load("mower.yaml", []byte(text), environ)
	if err != nil {
		return nil, err.(Problems)
	}
	return l, l.Problems
}

// lines returns every problem as it is shown, with its severity before it.
func lines(ps Problems) []string {
	var out []string
	for _, p := range ps {
		out = append(out, string(p.Severity)+": "+p.Error())
	}
	return out
}

func TestProblems(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		// What is no configuration at all.
		{"empty", "", nil},
		{"comments only", "# nothing\n\n# here\n", nil},
		{"null", "~\n", nil},
		{"a document marker", "---\nbroker:\n  port: 1884\n", nil},
		{"list at the top", "- a\n- b\n", []string{"error: mower.yaml:1: the file is a list, want a mapping of keys to values"}},
		{"text at the top", "hello\n", []string{"error: mower.yaml:1: the file is a text, want a mapping of keys to values"}},
		{"two documents", "broker:\n  port: 1884\n---\nclient: {}\n",
			[]string{"error: mower.yaml:3: a second document begins here: a file holds one configuration"}},
		{"tab", "broker:\n\tport: 1884\n", []string{"error: mower.yaml:2: found character that cannot start any token: " +
			"put quotes around a text that begins with a special character, and indent with spaces"}},
		{"syntax", "broker:\n  port: 1884\n  x: [1, 2\nclient: {}\n", []string{"error: mower.yaml:3: did not find expected ',' or ']'"}},
		{"a colon in a text", "broker:\n  auth:\n    password: a: b\n",
			[]string{"error: mower.yaml:3: mapping values are not allowed in this context"}},

		{"indentation", "broker:\n  port: 1\n bind_address: a\n",
			[]string{"error: mower.yaml:3: did not find expected key: look for a wrong indentation here and in the lines below"}},
		{"not UTF-8", "# one\nbroker:\n  bind_address: \xff\n", []string{"error: mower.yaml:3: this is not UTF-8"}},
		{"NUL", "# one\n# \x00\n", []string{"error: mower.yaml:2: a control character, U+0000, is not allowed"}},
		{"open at the end", "broker: [1\n", []string{"error: mower.yaml:2: did not find expected ',' or ']'"}},
		{"open quote", "broker:\n  auth:\n    password: \"a\n", []string{"error: mower.yaml:3: found unexpected end of stream"}},

		// Numbers.
		{"out of range", "broker:\n  port: 70000\n", []string{"error: mower.yaml:2: broker.port: 70000 is out of range, want 0 to 65535"}},
		{"negative", "broker:\n  port: -1\n", []string{"error: mower.yaml:2: broker.port: -1 is out of range, want 0 to 65535"}},
		{"far out of range", "broker:\n  port: 99999999999999999999999\n",
			[]string{"error: mower.yaml:2: broker.port: 99999999999999999999999 is out of range, want 0 to 65535"}},
		{"text for a number", "broker:\n  port: abc\n", []string{`error: mower.yaml:2: broker.port: "abc" does not fit, want a whole number, 0 to 65535`}},
		{"quoted number", "broker:\n  port: \"1883\"\n",
			[]string{`error: mower.yaml:2: broker.port: "1883" is a text, want a whole number, 0 to 65535: take the quotes away`}},
		{"fraction", "broker:\n  port: 18.5\n", []string{`error: mower.yaml:2: broker.port: "18.5" does not fit, want a whole number, 0 to 65535`}},
		{"list for a number", "broker:\n  port: [1883]\n", []string{"error: mower.yaml:2: broker.port: this is a list, want a whole number, 0 to 65535"}},
		{"mapping for a number", "broker:\n  port:\n    tcp: 1883\n", []string{"error: mower.yaml:3: broker.port: this is a mapping, want a whole number, 0 to 65535"}},
		{"truth for a number", "broker:\n  port: true\n", []string{`error: mower.yaml:2: broker.port: "true" does not fit, want a whole number, 0 to 65535`}},
		{"not a number", "client:\n  reconnect_backoff: .nan\n", []string{`error: mower.yaml:2: client.reconnect_backoff: ".nan" does not fit, want a number, 1 to 100`}},
		{"infinite", "services:\n  heartbeat_timeout: .inf\n",
			[]string{`error: mower.yaml:2: services.heartbeat_timeout: ".inf" does not fit, want a number of seconds, 0.02 to 86400`}},
		{"duration out of range", "client:\n  reconnect_delay: 2h\n",
			[]string{"error: mower.yaml:2: client.reconnect_delay: 2h is out of range, want 0.01 to 3600 seconds"}},
		{"fraction of a keep alive", "broker:\n  keepalive: 1.5\n", []string{`error: mower.yaml:2: broker.keepalive: "1.5" has a fraction, want whole seconds`}},

		// Truth values and texts.
		{"number for a truth", "broker:\n  tls:\n    enabled: 1\n", []string{`error: mower.yaml:3: broker.tls.enabled: "1" does not fit, want true or false`}},
		{"quoted truth", "broker:\n  tls:\n    enabled: 'false'\n",
			[]string{`error: mower.yaml:3: broker.tls.enabled: "false" is a text, want true or false: take the quotes away`}},
		{"unknown level", "broker:\n  log_level: verbose\n",
			[]string{`error: mower.yaml:2: broker.log_level: "verbose" is unknown, want error, warning, notice, information or debug`}},
		{"list for a text", "broker:\n  bind_address: [a]\n", []string{"error: mower.yaml:2: broker.bind_address: this is a list, want text"}},
		{"foreign tag", "broker:\n  auth:\n    username: !env NAME\n", []string{
			"error: mower.yaml:3: broker.auth.username: a tag (a word that begins with !) has no meaning here: put quotes around a text that begins with !"}},
		{"address with a port", "broker:\n  bind_address: 127.0.0.1:1883\n",
			[]string{`error: mower.yaml:2: broker.bind_address: "127.0.0.1:1883" has a port, which has a key of its own`}},
		{"no address", "broker:\n  bind_address: 10.0.0.300\n", []string{`error: mower.yaml:2: broker.bind_address: "10.0.0.300" is neither a host name nor an address`}},
		{"empty address", "broker:\n  bind_address: ''\n",
			[]string{"error: mower.yaml:2: broker.bind_address: empty, want a host name or address; every address is 0.0.0.0 or ::"}},
		{"client id", "client:\n  client_id: a+b\n", []string{
			`error: mower.yaml:2: client.client_id: client id "a+b": contains a wildcard (+ or #), which only a filter may [MQTT-4.7.0-1]`}},
		{"no value", "broker:\n  port:\n  bind_address:\n", []string{
			"warning: mower.yaml:2: broker.port: there is no value, the default stays: 1883",
			"warning: mower.yaml:3: broker.bind_address: there is no value, the default stays: localhost"}},

		// Keys.
		{"unknown key", "broker:\n  prot: 1884\n", []string{"warning: mower.yaml:2: broker.prot: this key is unknown, it is ignored: did you mean broker.port?"}},
		{"unknown section", "brokers:\n  port: 1884\n", []string{"warning: mower.yaml:1: brokers: this key is unknown, it is ignored: did you mean broker?"}},
		{"wrong case and dash", "Broker:\n  max-connections: 5\nbroker:\n  max-connections: 5\n", []string{
			"warning: mower.yaml:1: Broker: this key is unknown, it is ignored: did you mean broker?",
			"warning: mower.yaml:4: broker.max-connections: this key is unknown, it is ignored: did you mean broker.max_connections?"}},
		{"a key in the wrong place", "broker:\n  username: a\ndiscovery_prefix: ha\n", []string{
			"warning: mower.yaml:2: broker.username: this key is unknown, it is ignored: did you mean broker.auth.username?",
			"warning: mower.yaml:3: discovery_prefix: this key is unknown, it is ignored: did you mean integration.home_assistant.discovery_prefix?"}},
		{"nothing near", "zzz: 1\n", []string{"warning: mower.yaml:1: zzz: this key is unknown, it is ignored"}},
		{"written flat", "broker.port: 1884\n", []string{
			"warning: mower.yaml:1: broker.port: this key is unknown, it is ignored: write a section of its own for each part of the name"}},
		{"a key that would disturb a terminal", "\"a\\e[31m\": 1\n", []string{`warning: mower.yaml:1: a\x1b[31m: this key is unknown, it is ignored`}},
		{"a place for anchors", "x-tls: &tls {enabled: false}\nclient:\n  tls: *tls\n", nil},
		{"key twice", "broker:\n  port: 1\n  port: 2\n", []string{"error: mower.yaml:3: broker.port: this key stands in line 2 already"}},
		{"section twice", "broker:\n  port: 1\nclient: {}\nbroker:\n  port: 2\n", []string{"error: mower.yaml:4: broker: this key stands in line 1 already"}},
		{"unknown key twice", "a: 1\na: 2\n", []string{
			"warning: mower.yaml:1: a: this key is unknown, it is ignored", "error: mower.yaml:2: a: this key stands in line 1 already"}},
		{"a list as key", "? [a]\n: 1\n", []string{"error: mower.yaml:1: a key must be a text"}},
		{"text for a section", "broker: tcp\n", []string{"error: mower.yaml:1: broker: this is a text, want a mapping of keys to values"}},
		{"everything at once", "broker:\n  port: x\n  tsl: {}\nclient:\n  queue_size: 0\n", []string{
			`error: mower.yaml:2: broker.port: "x" does not fit, want a whole number, 0 to 65535`,
			"warning: mower.yaml:3: broker.tsl: this key is unknown, it is ignored: did you mean broker.tls?",
			"error: mower.yaml:5: client.queue_size: 0 is out of range, want 1 to 1000000"}},

		// Lists and mappings.
		{"text for a list", "topics:\n  retained: power/battery\n", []string{"error: mower.yaml:2: topics.retained: this is a text, want a list, such as [a, b]"}},
		{"list in a list", "topics:\n  retained:\n    - [a]\n", []string{"error: mower.yaml:3: topics.retained: this is a list, want a text in the list"}},
		{"no filter", "topics:\n  retained:\n    - power/battery\n    - a/#/b\n", []string{
			`error: mower.yaml:4: topics.retained: topic filter "a/#/b": has a # that is not its last level [MQTT-4.7.1-1]`}},
		{"qos", "topics:\n  qos:\n    status: 3\n    sensor_data: high\n", []string{
			"error: mower.yaml:3: topics.qos.status: 3 is out of range, want 0 to 2",
			`error: mower.yaml:4: topics.qos.sensor_data: "high" does not fit, want a whole number, 0 to 2`}},
		{"qos of no type", "topics:\n  qos:\n    sensordata: 1\n", []string{
			"warning: mower.yaml:3: topics.qos.sensordata: no topic has this type, it is ignored: want alerts, commands, events, navigation, power, " +
				"responses, sensor_data, status, vision or weather: did you mean sensor_data?"}},
		{"compress", "topics:\n  compress:\n    a/#/b: false\n    c: true\n    d: [no]\n", []string{
			`error: mower.yaml:3: topics.compress: topic filter "a/#/b": has a # that is not its last level [MQTT-4.7.1-1]`,
			"error: mower.yaml:4: topics.compress.c: \"true\" does not fit, want false: true is what a topic is that is not named",
			"error: mower.yaml:5: topics.compress.d: this is a list, want false"}},
		{"compress what is the broker's", "topics: {compress: {$own/x: false}}", []string{
			`error: mower.yaml:1: topics.compress.$own/x: topic "$own/x": begins with $, which belongs to the broker: write "absolute:$own/x" if you mean that`}},
		{"no compress", "topics: {compress: false}", []string{`error: mower.yaml:1: topics.compress: this is true or false, want a mapping, such as {"vision/detections": false}`}},
		{"qos below safety", "topics:\n  qos: {alerts: 0}\n", []string{"warning: mower.yaml:2: topics.qos.alerts: topics below safety/ keep their QoS of 2"}},
		{"rate of safety", "topics:\n  rate_limits:\n    safety/emergency_stop: 5\n", []string{
			"warning: mower.yaml:3: topics.rate_limits.safety/emergency_stop: topics below safety/ have no limit, nothing may hold them back"}},
		{"retained commands", "topics:\n  retained: [commands/+]\n", []string{
			`warning: mower.yaml:2: topics.retained: "commands/+": commands and responses are never retained, or they would be run again`}},
		{"a pattern elsewhere", "topics:\n  rate_limits:\n    $SYS/x: 5\n", []string{
			`error: mower.yaml:3: topics.rate_limits.$SYS/x: definition of "$SYS/x": must not begin with $, which belongs to the broker`}},
		{"namespace", "topics:\n  namespace: a/+\n", []string{
			`error: mower.yaml:2: topics.namespace: namespace "a/+": contains a wildcard (+ or #), which only a filter may [MQTT-4.7.0-1]`}},

		// Services.
		{"services", "service_definitions:\n  navigation:\n    service_type: navigation\n    dependncies: [x]\n    topics:\n      publish: ['a#']\n  a/b: {}\n",
			[]string{
				"warning: mower.yaml:4: service_definitions.navigation.dependncies: this key is unknown, it is ignored: " +
					"did you mean service_definitions.navigation.dependencies?",
				`error: mower.yaml:6: service_definitions.navigation.topics.publish: topic filter "a#": has a # that is not a level of its own [MQTT-4.7.1-1]`,
				`error: mower.yaml:7: service_definitions: service "a/b": contains a slash, but must be one level of a topic`}},
		{"a circle", "service_definitions:\n  a: {dependencies: [b]}\n  b: {dependencies: [c]}\n  c: {dependencies: [b]}\n", []string{
			"error: mower.yaml:3: service_definitions.b: the dependencies go in a circle, none of these can start: b -> c -> b"}},
		{"itself", "service_definitions:\n  a: {dependencies: [a]}\n", []string{
			"error: mower.yaml:2: service_definitions.a: the dependencies go in a circle, none of these can start: a -> a"}},
		{"an unknown dependency", "service_definitions:\n  gps: {}\n  a:\n    dependencies: [gsp]\n", []string{
			`warning: mower.yaml:3: service_definitions.a: depends on "gsp", which is not defined here: did you mean gps?`}},

		// Rules between keys.
		{"login without a name", "broker:\n  auth:\n    enabled: true\n", []string{
			"error: mower.yaml:3: broker.auth.username: broker.auth.enabled needs a user name",
			"error: mower.yaml:3: broker.auth.password: broker.auth.enabled needs a password: set it in the environment as MQTT_PASSWORD"}},
		{"open to the network", "broker:\n  bind_address: 0.0.0.0\n", []string{
			`warning: mower.yaml:2: broker.bind_address: broker.bind_address "0.0.0.0" lets the network in, so the broker starts only when it can ask for a login: ` +
				`with a user, or broker.auth`}},
		{"open to the network by name", "broker:\n  bind_address: mower.local\n  auth: {enabled: false}\n", []string{
			`warning: mower.yaml:2: broker.bind_address: broker.bind_address "mower.local" lets the network in, so the broker starts only when it can ask for a login: ` +
				`with a user, or broker.auth`}},
		{"open on purpose", "broker:\n  bind_address: '::'\n  allow_anonymous: true\n",
			[]string{`warning: mower.yaml:3: broker.allow_anonymous: everyone who reaches "::" can steer the mower without a login`}},
		{"with a login", "broker:\n  bind_address: 0.0.0.0\n  auth: {enabled: true, username: u, password: p}\n", nil},
		{"another spelling", "broker: {bind_address: LocalHost}\n", nil},
		{"loopback", "broker:\n  bind_address: 127.3.2.1\n", nil},
		{"nobody", "broker:\n  allow_anonymous: false\n", []string{"warning: mower.yaml:2: broker.allow_anonymous: broker.allow_anonymous is false, so the broker " +
			"starts only when somebody can log in: a user, or broker.auth"}},
		{"tls without files", "broker:\n  tls: {enabled: true}\n", []string{
			"error: mower.yaml:2: broker.tls.cert_file: broker.tls.enabled needs a certificate",
			"error: mower.yaml:2: broker.tls.key_file: broker.tls.enabled needs the certificate's private key"}},
		{"required of whom", "broker:\n  tls: {enabled: true, cert_file: a, key_file: b, crl_file: c, require_certificate: true}\n", []string{
			"error: mower.yaml:2: broker.tls.crl_file: needs broker.tls.ca_file, which has to have signed it",
			"error: mower.yaml:2: broker.tls.require_certificate: needs broker.tls.ca_file, which says who may sign clients' certificates"}},
		{"required without TLS", "broker:\n  tls: {require_certificate: true}\n",
			[]string{"error: mower.yaml:2: broker.tls.require_certificate: needs broker.tls.enabled"}},
		{"the network is let in with a certificate only", "broker:\n  bind_address: 0.0.0.0\n  tls: {enabled: true, cert_file: a, key_file: b, ca_file: c, require_certificate: true}\n", nil},
		{"half a pair", "client:\n  tls: {certfile: a.pem}\n",
			[]string{"error: mower.yaml:2: client.tls.keyfile: client.tls.certfile and client.tls.keyfile belong together: one is missing"}},
		{"one port for two", "broker:\n  port: 9001\n  websockets: {enabled: yes}\n",
			[]string{"error: mower.yaml:3: broker.websockets.port: is broker.port too: each needs a port of its own"}},
		{"heartbeats", "services:\n  heartbeat_interval: 90\n", []string{"error: mower.yaml:2: services.heartbeat_timeout: must be longer than " +
			"services.heartbeat_interval, or every service would be taken for offline"}},
		{"delays", "client:\n  reconnect_delay: 400\n", []string{"error: mower.yaml:2: client.max_reconnect_delay: is shorter than client.reconnect_delay"}},

		// Home Assistant.
		{"half an origin", "integration:\n  home_assistant:\n    origin: {latitude: 0}\n", []string{
			"error: mower.yaml:3: integration.home_assistant.origin.longitude: is missing: latitude and longitude belong together"}},
		{"a prefix in the namespace", "integration:\n  home_assistant:\n    discovery_prefix: lawnberry/ha\n", []string{
			"error: mower.yaml:3: integration.home_assistant.discovery_prefix: overlaps with topics.namespace: Home Assistant reads plain JSON, which is not what is there"}},
		{"what Home Assistant cannot take", "integration:\n  home_assistant:\n    device_id: a b\n    device_name: ''\n    discovery_prefix: a/#\n" +
			"    activities: {x: flying, y: [mowing]}\n    start_command: ''\n    origin: {latitude: 91, longitude: 8}\n", []string{
			`error: mower.yaml:3: integration.home_assistant.device_id: "a b" does not fit, want 1 to 64 letters, digits, _ and -`,
			`error: mower.yaml:4: integration.home_assistant.device_name: "" does not fit, want a name of at most 100 bytes`,
			`error: mower.yaml:5: integration.home_assistant.discovery_prefix: topic name "a/#": contains a wildcard (+ or #), which only a filter may [MQTT-4.7.0-1]`,
			`error: mower.yaml:6: integration.home_assistant.activities.x: "flying" is unknown, want mowing, paused, docked, returning or error`,
			`error: mower.yaml:6: integration.home_assistant.activities.y: this is a list, want mowing, paused, docked, returning or error`,
			`error: mower.yaml:7: integration.home_assistant.start_command: "" does not fit, want the name of a command of at most 64 bytes`,
			`error: mower.yaml:8: integration.home_assistant.origin.latitude: 91 is out of range, want -90 to 90`}},

		// The fleet.
		{"a fleet that is nowhere", "integration:\n  fleet: {enabled: true}\n", []string{
			"error: mower.yaml:2: integration.fleet.url: integration.fleet.enabled needs the URL of the engine, such as tls://fleet.example:4222",
			"error: mower.yaml:2: integration.fleet.mower_id: integration.fleet.enabled needs the id that the mower has in the fleet, that which it was enrolled with"}},
		{"commands that nobody signs", "integration:\n  fleet:\n    {enabled: true, url: 'tls://a', mower_id: m, down: [navigation/dock]}\n", []string{
			"error: mower.yaml:3: integration.fleet.keys_file: integration.fleet.down lets the fleet give commands, and nothing says whose signatures count: name a file " +
				"with the operators' public keys (lawnberry key public), or set integration.fleet.allow_unsigned, to trust everyone whom the engine lets in"}},
		{"commands from everyone, in the clear", "integration:\n  fleet:\n    enabled: true\n    url: nats://a\n    mower_id: m\n    down: [navigation/dock]\n    allow_unsigned: true\n", []string{
			"warning: mower.yaml:4: integration.fleet.url: what goes to the fleet and comes from there can be read and changed on the way: use tls:// or mqtts://",
			"warning: mower.yaml:7: integration.fleet.allow_unsigned: everyone who may publish at the engine can give this mower the commands of integration.fleet.down"}},
		{"what cannot be of a fleet", "integration:\n  fleet:\n    url: http://a\n    mower_id: a.b\n    down: [emergency_stop/release]\n", []string{
			`error: mower.yaml:3: integration.fleet.url: "http://a" is no URL of an engine: want nats://, tls://, mqtt:// or mqtts:// and a host`,
			`error: mower.yaml:4: integration.fleet.mower_id: "a.b" is no id of a mower: want letters, digits, _ and -, a letter or digit first`,
			`error: mower.yaml:5: integration.fleet.down: "emergency_stop/release" can never be allowed: the fleet may engage the emergency stop, which needs no permission, and nothing else of it`}},
		{"filters that do not go up", "integration:\n  fleet:\n    up:\n      - {filter: '#', class: event}\n      - {filter: $SYS/x, class: state}\n      - {filter: a/b, class: sate}\n" +
			"      - {filter: a/b, class: event, rate: 5}\n      - {filter: a/b, class: state, rat: 5}\n      - a/b\n      - {class: state}\n      - {filter: lawnberry/a, class: state}\n" +
			"      - {filter: a, class: event}\n", []string{
			"error: mower.yaml:4: integration.fleet.up: filter 1: it matches topics of commands/#, which do not go up: name what is to go up, such as power/# or system/events/+",
			"error: mower.yaml:4: integration.fleet.up: filter 2: only topics of the mower's namespace go up: name it without the namespace, such as power/battery",
			`error: mower.yaml:4: integration.fleet.up: filter 3: class "sate" is unknown, want state, telemetry, event or alert`,
			"error: mower.yaml:4: integration.fleet.up: filter 4: the class event has no rate: every message goes up",
			`error: mower.yaml:4: integration.fleet.up: filter 5: unknown key "rat": a filter has filter, class or rate`,
			"error: mower.yaml:4: integration.fleet.up: filter 6: want a mapping, such as {filter: power/battery, class: telemetry, rate: 60}",
			"error: mower.yaml:4: integration.fleet.up: filter 7: filter is missing, such as power/battery",
			`error: mower.yaml:4: integration.fleet.up: filter 9: the filter "a" is there twice`}},

		// What is not there yet.
		{"not supported", "monitoring:\n  metrics:\n    retention_period: 60\n", []string{
			"warning: mower.yaml:3: monitoring.metrics.retention_period: not supported yet: the figures are kept by the Prometheus that fetches " +
				"them, for as long as its --storage.tsdb.retention.time says"}},
		{"figures that nobody serves", "monitoring:\n  metrics:\n    enabled: on\n", []string{
			"warning: mower.yaml:3: monitoring.metrics.enabled: nothing serves the figures: that needs integration.websocket_bridge.enabled"}},
		{"figures", "monitoring:\n  metrics: {enabled: on}\nintegration:\n  websocket_bridge: {enabled: on}\n", nil},
		{"not supported, but what happens anyway", "broker:\n  persistence: false\nprotocols:\n  validation: {enabled: true}\n" +
			"integration:\n  cloud_logging: {enabled: false}\ndevelopment:\n  debug: {latency_simulation: 0, simulate_failures: off}\n", nil},

		// Anchors, aliases, merges.
		{"merge", "x-a: &a {port: 70000}\nbroker:\n  <<: *a\n", []string{"error: mower.yaml:1: broker.port: 70000 is out of range, want 0 to 65535"}},
		{"merge of a text", "broker:\n  <<: text\n", []string{"error: mower.yaml:2: broker: << merges mappings, and this is none"}},
		{"unknown anchor", "broker:\n  auth:\n    password: *hunter2\n", []string{"error: mower.yaml: an alias (*name) of an anchor (&name) " +
			"that is not above it: put quotes around a text that begins with *"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, ps := loadText(tt.text)
			if got := lines(ps); !slices.Equal(got, tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
		})
	}
}

func TestProblemFields(t *testing.T) {
	_, ps := loadText("broker:\n  port: 70000\n  prot: 1\n", "LAWNBERRY_CLIENT_QUEUE_SIZE=none")
	want := Problems{
		{Severity: SeverityError, File: "mower.yaml", Line: 2, Column: 9, Key: "broker.port", Text: "70000 is out of range, want 0 to 65535"},
		{Severity: SeverityWarning, File: "mower.yaml", Line: 3, Column: 3, Key: "broker.prot", Text: "this key is unknown, it is ignored", Nearest: "broker.port"},
		{Severity: SeverityError, Env: "LAWNBERRY_CLIENT_QUEUE_SIZE", Key: "client.queue_size",
			Text: `"none" does not fit, want a whole number, 1 to 1000000`},
	}
	if !reflect.DeepEqual(ps, want) {
		t.Errorf("got\n%+v\nwant\n%+v", ps, want)
	}
	const text = "mower.yaml:2: broker.port: 70000 is out of range, want 0 to 65535\n" +
		`LAWNBERRY_CLIENT_QUEUE_SIZE: client.queue_size: "none" does not fit, want a whole number, 1 to 1000000`
	if ps.Error() != text {
		t.Errorf("Error() is\n%s\nwant\n%s", ps.Error(), text)
	}
	if err := ps[1:2].Err(); err != nil {
		t.Errorf("Err() of a warning is %v", err)
	}
}

func TestValues(t *testing.T) {
	l, ps := loadText(`
x-common: &common
  keepalive: 30
  reconnect_delay: 1500ms
broker:
  port: 0x75B
  keepalive: 2m
  max_connections: 1_000
  log_level: DEBUG
  auth: {username: 0123, password: yes}
  websockets: {enabled: Yes, port: 9001.0}
client:
  <<: [*common, {keepalive: 99, queue_size: 7}]
  reconnect_delay: 2.5
development:
  debug: {latency_simulation: false}
  mock_services: {services: [gps, 5, on]}
topics:
  rate_limits: {sensors/+/data: 600}
`)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Broker.Port, want.Broker.KeepAlive, want.Broker.MaxConnections = 1883, 2*time.Minute, 1000
	want.Broker.LogLevel = "debug"
	want.Broker.Auth.Username, want.Broker.Auth.Password = "0123", "yes"
	want.Broker.WebSockets.Enabled = true
	want.Client.KeepAlive, want.Client.QueueSize, want.Client.ReconnectDelay = 30*time.Second, 7, 2500*time.Millisecond
	want.Development.MockServices.Services = []string{"gps", "5", "on"}
	want.Topics.RateLimits = map[string]int{"sensors/+/data": 600}
	want.origins = l.origins
	if !reflect.DeepEqual(l.Config, want) {
		t.Errorf("got\n%+v\nwant\n%+v", l.Config, want)
	}
	for key, origin := range map[string]string{
		"broker.port": "mower.yaml:6", "client.keepalive": "mower.yaml:3", "client.reconnect_delay": "mower.yaml:14",
		"client.queue_size": "mower.yaml:13", "client.message_timeout": "default",
	} {
		if got := l.Origin(key).String(); got != origin {
			t.Errorf("%s is from %s, want %s", key, got, origin)
		}
	}
}

// TestBombs shows that a small file cannot cost much.
func TestBombs(t *testing.T) {
	laughs := "x-a: &a [x,x,x,x,x,x,x,x,x]\n"
	merges := "x-a: &a {k0: 1, k1: 1, k2: 1, k3: 1, k4: 1}\n"
	for c := 'b'; c < 'k'; c++ {
		before := string(c - 1)
		laughs += "x-" + string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+before+",", 9) + "]\n"
		merges += "x-" + string(c) + ": &" + string(c) + " {<<: [" + strings.Repeat("*"+before+",", 9) + "], k" + string(c) + ": 1}\n"
	}
	const tooBig = "this file is too large, or its aliases repeat or nest too much"
	tests := []struct{ name, text, want string }{
		{"lists", laughs + "security: {access_control: {rules: *j}}\n", tooBig},
		{"merges", merges + "broker: *j\n", tooBig},
		{"merges in a mapping", merges + "topics: {qos: *j}\n", tooBig},
		{"a list in itself", "security:\n  access_control:\n    rules: &a [*a]\n", tooBig},
		{"a merge of itself", "broker: &a\n  <<: *a\n", tooBig},
		{"a section in itself", "broker: &a\n  auth: *a\n", ""},
		{"deep", "security:\n  access_control:\n    rules: " + strings.Repeat("[", 500) + strings.Repeat("]", 500) + "\n", tooBig},
		{"deeper", strings.Repeat("[", 100_000), "exceeded max depth"},
		{"many keys", strings.Repeat("a", 3) + ": 1\n" + manyKeys(150_000), "there are more problems than are shown"},
		{"many patterns", "topics:\n  rate_limits:\n" + strings.ReplaceAll(manyKeys(1001), "k", "    k"), "has 1001 patterns, want at most 1000"},
		{"many services", "service_definitions:\n" + strings.ReplaceAll(strings.ReplaceAll(manyKeys(1001), "k", "    k"), "1\n", "{}\n"), "more than 1000 services are defined"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, ps := loadText(tt.text)
			if got := ps.Error(); !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if len(ps) > maxProblems+1 {
				t.Errorf("%d problems", len(ps))
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("k" + formatInt(int64(i)) + ": 1\n")
	}
	return b.String()
}

func TestLoadFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mower.yaml")
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("mower.yaml", "broker:\n  port: 1999\n")

	t.Run("none", func(t *testing.T) {
		l, err := Load("", nil)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(l.Config, Default()) || l.File != "" || len(l.Problems) > 0 {
			t.Errorf("got %+v of %q with %v", l.Config, l.File, l.Problems)
		}
	})
	t.Run("by the environment", func(t *testing.T) {
		l, err := Load("", []string{"LAWNBERRY_CONFIG=" + file})
		if err != nil {
			t.Fatal(err)
		}
		if l.Config.Broker.Port != 1999 || l.Origin("broker.port") != (Origin{File: file, Line: 2, column: 9}) || len(l.Problems) > 0 {
			t.Errorf("got %+v with %v", l.Config.Broker, l.Problems)
		}
	})
	t.Run("the argument wins", func(t *testing.T) {
		l, err := Load(file, []string{"LAWNBERRY_CONFIG=/nowhere"})
		if err != nil || l.Config.Broker.Port != 1999 {
			t.Errorf("got %+v, %v", l, err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		_, err := Load(filepath.Join(dir, "other.yaml"), nil)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "lawnberry config init") || !strings.Contains(err.Error(), "other.yaml") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("directory", func(t *testing.T) {
		if _, err := Load(dir, nil); err == nil || !strings.Contains(err.Error(), "is a directory") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("too long", func(t *testing.T) {
		path := write("long.yaml", strings.Repeat("# comment\n", MaxFileSize/10+1))
		if _, err := Load(path, nil); err == nil || !strings.Contains(err.Error(), "is longer than 1048576 bytes") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("paths", func(t *testing.T) {
		path := write("tls.yaml", "broker:\n  tls: {cert_file: certs/a.pem, key_file: /etc/a.key}\n")
		l, err := Load(path, []string{"LAWNBERRY_CLIENT_TLS_CA_CERTS=ca.pem"})
		if err != nil {
			t.Fatal(err)
		}
		here, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		got := [3]string{l.Config.Broker.TLS.CertFile, l.Config.Broker.TLS.KeyFile, l.Config.Client.TLS.CACerts}
		want := [3]string{filepath.Join(dir, "certs", "a.pem"), "/etc/a.key", filepath.Join(here, "ca.pem")}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
