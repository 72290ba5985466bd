package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestWriteEffective(t *testing.T) {
	l, ps := loadText("broker:\n  port: 1999\n  auth: {password: hunter2}\ntopics:\n  qos: {status: 0}\n  retained: [\"a b\", yes, 5, a/+]\n",
		"LAWNBERRY_CLIENT_RECONNECT_DELAY=250ms")
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	var b bytes.Buffer
	if err := l.WriteEffective(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"  port: 1999                                # mower.yaml:2\n  bind_address: localhost                   # default\n",
		"broker:\n  engine: embedded                          # default\n",
		"    password: (hidden)", // quoted below
		"  reconnect_delay: 0.25                     # environment LAWNBERRY_CLIENT_RECONNECT_DELAY\n",
		"  qos: {status: 0}                          # mower.yaml:5\n",
		"  retained: [\"a b\", \"yes\", \"5\", a/+]        # mower.yaml:6\n",
		"service_definitions: {}                     # default\n",
	} {
		if want = strings.Replace(want, "(hidden)", `"(hidden)"`, 1); !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}

// TestEffectiveLoads shows that what is written is the same configuration.
func TestEffectiveLoads(t *testing.T) {
	for _, text := range []string{"", everyKey} {
		l, ps := loadText(text)
		if ps.Err() != nil {
			t.Fatal(ps)
		}
		again := reload(t, l)
		if !reflect.DeepEqual(plainValues(l.Config), plainValues(again.Config)) {
			t.Errorf("got\n%+v\nwant\n%+v", again.Config, l.Config)
		}
	}
}

// reload writes the values with their passwords and reads them again.
func reload(t *testing.T, l *Loaded) *Loaded {
	t.Helper()
	var b bytes.Buffer
	if err := l.writeEffective(&b, false); err != nil {
		t.Fatal(err)
	}
	again, err := load("again.yaml", b.Bytes(), nil)
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, b.String())
	}
	return again
}

func plainValues(c *Config) map[string]any {
	values := map[string]any{}
	for _, s := range specs() {
		values[s.path] = s.effective(c, false)
	}
	return values
}

func TestEffectiveJSON(t *testing.T) {
	l, ps := loadText("services: {heartbeat_interval: 1.5}\nbroker: {auth: {password: hunter2}}\n")
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	found := map[string]string{}
	for e := range l.Effective() {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		found[e.Key] = string(text)
	}
	for key, want := range map[string]string{
		"broker.port":                 `{"key":"broker.port","value":1883,"origin":"default"}`,
		"services.heartbeat_interval": `{"key":"services.heartbeat_interval","value":1.5,"origin":"mower.yaml:1"}`,
		"broker.auth.password":        `{"key":"broker.auth.password","value":"(hidden)","origin":"mower.yaml:2"}`,
		"client.auth.password":        `{"key":"client.auth.password","value":"","origin":"default"}`,
		"broker.allow_anonymous":      `{"key":"broker.allow_anonymous","value":true,"origin":"default"}`,
	} {
		if found[key] != want {
			t.Errorf("got %s, want %s", found[key], want)
		}
	}
}

// TestSecrets shows a known password to everything that could print it.
func TestSecrets(t *testing.T) {
	const canary = "hunter2"
	files := []string{
		"broker: {auth: {enabled: true, username: u, password: hunter2}}\nclient: {auth: {password: hunter2}}",
		"broker: {auth: {password: [hunter2]}}", "broker: {auth: {password: {hunter2: 1}}}",
		"broker: {auth: {password: !hunter2 x}}", "broker: {auth: {password: *hunter2 }}", "broker: {auth: {password: !!int hunter2}}",
		"broker: {auth: {pasword: hunter2}}", "broker: {auth: hunter2}", "broker: {auth: [hunter2]}",
		"broker: {auth: {password: 'hunter2}", "broker:\n  auth:\n    password: hunter2: x", "broker:\n  auth:\n    password: @hunter2",
		"broker: {auth: {password: hunter2, password: hunter2}}", "broker: {auth: {password: \"hunter2\\q\"}}",
		"broker: {auth: {password: |hunter2\n}}", "broker: {auth: {password: %hunter2 }}", "broker: {auth: {password: &hunter2 }}",
	}
	for _, file := range files {
		var out strings.Builder
		l, ps := loadText(file, "MQTT_PASSWORD=hunter2", "LAWNBERRY_CLIENT_AUTH_PASSWORD=\xffhunter2")
		show(&out, ps, ps.Error())
		if l == nil {
			l, ps = loadText(file) // without the environment's mistake
			show(&out, ps)
		}
		if l != nil {
			show(&out, l, *l, l.Config, *l.Config, l.Config.Broker, l.Config.Client.Auth, l.Config.Broker.Auth.Password)
			if err := l.WriteEffective(&out); err != nil {
				t.Fatal(err)
			}
			for e := range l.Effective() {
				show(&out, e)
			}
			if o, err := l.Config.ClientOptions(); err == nil {
				show(&out, o.Password)
			}
		}
		if i := strings.Index(out.String(), canary); i >= 0 {
			t.Errorf("%q shows the password: %s", file, out.String()[max(0, i-100):i+len(canary)])
		}
	}
}

func show(out *strings.Builder, values ...any) {
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			fmt.Fprintf(out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(out, nil)).Info("value", "v", v)
		slog.New(slog.NewJSONHandler(out, nil)).Info("value", "v", v)
		if text, err := json.Marshal(v); err == nil {
			out.Write(text)
		}
		if text, err := yaml.Marshal(v); err == nil {
			out.Write(text)
		}
	}
}
