package config

import (
	"reflect"
	"strings"
	"testing"
)

// FuzzLoad: no file and no variable panics; what loads can be written and loads again as the same; a problem has one line.
func FuzzLoad(f *testing.F) {
	f.Add("", "", "")
	f.Add(everyKey, "LAWNBERRY_BROKER_PORT", "1")
	f.Add("broker: &a\n  <<: *a\n", "LAWNBERRY_TOPICS_RETAINED", "a,,b/#")
	f.Add("topics: {qos: {alert: 0, x: 1}, retained: ['#'], rate_limits: {'+/#': 5, lawnberry/a: 1}}", "MQTT_PASSWORD", "\x00")
	f.Add("client: {reconnect_delay: 0.0123456789, message_timeout: 1ms}\n", "LAWNBERRY_CLIENT_KEEPALIVE", "1e2")
	f.Add("service_definitions: {a: {dependencies: [b, c]}, b: {dependencies: [a]}}", "LAWNBERRY_", "")
	f.Add("security: {access_control: {rules: [1, 0x10, -.inf, 1e300, ~, {a: [b]}, 2001-01-01, \"\\u2028\"]}}", "X", "y")
	f.Fuzz(func(t *testing.T, text, name, value string) {
		l, err := load("mower.yaml", []byte(text), []string{name + "=" + value})
		if err != nil {
			if err.(Problems).Err() == nil || err.Error() == "" {
				t.Fatalf("an error without one: %+v", err)
			}
			for _, p := range err.(Problems) {
				if strings.ContainsAny(p.Error(), "\n\x1b\x00") {
					t.Errorf("%q", p.Error())
				}
			}
			return
		}
		again := reload(t, l)
		if got, want := plainValues(again.Config), plainValues(l.Config); !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%+v\nwant\n%+v", got, want)
		}
	})
}
