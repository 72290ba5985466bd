package config

import (
	"slices"
	"strings"
	"testing"
)

func TestEngine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, key, want string }{
		{"unknown", "broker: {engine: nats}", "broker.engine", "unknown, want embedded, mosquitto or external"},
		{"external and nowhere", "broker: {engine: external}", "broker.external.urls", "nothing says where the broker is"},
		{"external and no URL", "broker: {engine: external, external: {urls: [localhost]}}", "broker.external.urls", "does not begin with"},
		{"a socket", "broker: {engine: external, external: {urls: [\"unix:///x\"]}}", "broker.external.urls", "does not begin with"},
		{"a login in it", "broker: {engine: external, external: {urls: [\"tcp://ann:hunter2@a\"]}}", "broker.external.urls", "set client.auth instead"},
		{"a path", "broker: {engine: external, external: {urls: [\"tcp://a/mqtt\"]}}", "broker.external.urls", "is no address of a broker"},
		{"a relative program", "broker: {engine: mosquitto, mosquitto: {binary: sbin/mosquitto}}", "broker.mosquitto.binary", "neither an absolute path"},
	} {
		_, ps := loadText(tt.text)
		found := slices.ContainsFunc(ps, func(p Problem) bool {
			return p.Severity == SeverityError && p.Key == tt.key && strings.Contains(p.Text, tt.want) && !strings.Contains(p.Error(), "hunter2")
		})
		if !found {
			t.Errorf("%s: %v", tt.name, ps)
		}
	}
	for _, tt := range []struct{ text, key string }{
		{"broker: {external: {urls: [\"tcp://a\"]}}", "broker.external.urls"},
		{"broker: {mosquitto: {binary: mosquitto}}", "broker.mosquitto.binary"},
		{"broker: {engine: external, external: {urls: [\"tcp://a\"]}}\nclient: {broker_host: b}", "client.broker_host"},
	} {
		if _, ps := loadText(tt.text); len(ps) != 1 || ps[0].Severity != SeverityWarning || ps[0].Key != tt.key {
			t.Errorf("%s: %v", tt.text, ps)
		}
	}
}

// A key that the engine does not go by is named where it is set, and no other.
func TestKeysThatTheEngineDoesNotUse(t *testing.T) {
	t.Parallel()
	const keys = `{keepalive: 30, persistence_sync: off, max_connections: 7, port: 1884, bind_address: 127.0.0.1, engine: `
	for _, tt := range []struct{ engine, want string }{
		{"embedded", ""},
		{"mosquitto", "broker.keepalive broker.persistence_sync monitoring.logging.log_performance"},
		{"external, external: {urls: [\"tcp://a\"]}", "broker.keepalive broker.max_connections broker.persistence_sync broker.port monitoring.logging.log_performance"},
	} {
		_, ps := loadText("broker: " + keys + tt.engine + "}\nmonitoring: {logging: {log_performance: true}}")
		var got []string
		for _, p := range ps {
			if p.Severity != SeverityWarning || !strings.Contains(p.Text, "is not used, since broker.engine is") || p.Line == 0 {
				t.Errorf("%s: %v", tt.engine, p)
			}
			got = append(got, p.Key)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q", tt.engine, got)
		}
	}
}

// What of a log server is secret is not shown, and refused where it would be.
func TestEndpointWithLogin(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"https://ann:hunter2@logs.example/x", "https://ann:hunter2@logs example/x"} {
		_, ps := loadText("integration: {cloud_logging: {enabled: true, endpoint: \"" + endpoint + "\"}}")
		if err := ps.Err(); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "integration.cloud_logging.endpoint") {
			t.Errorf("got %v", err)
		}
	}
}

// A broker elsewhere is where its URLs say, else where client.broker_host says, and is nobody's own.
func TestExternalURLs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, url string
		fallback  []string
	}{
		{"broker: {engine: external, external: {urls: [\"ssl://a:8883\", \"wss://b/mqtt\", \"tcp://c\"]}, auth: {enabled: true, username: u, password: p}}",
			"ssl://a:8883", []string{"wss://b/mqtt", "tcp://c"}},
		{"broker: {engine: external}\nclient: {broker_host: 192.168.1.7}", "tcp://192.168.1.7:1883", nil},
		{"broker: {engine: external}\nclient: {broker_port: 1884}", "tcp://localhost:1884", nil},
	} {
		l, ps := loadText(tt.text)
		if err := ps.Err(); err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		o, err := l.Config.ClientOptions()
		if err != nil || o.URL != tt.url || !slices.Equal(o.Fallback, tt.fallback) || o.Username != "" || l.Config.OwnBroker() || l.Config.ClientURL("/data") != tt.url {
			t.Errorf("%s: %q, %q as %q, %v", tt.text, o.URL, o.Fallback, o.Username, err)
		}
	}
}
