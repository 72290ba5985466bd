package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestAccessRules(t *testing.T) {
	t.Parallel()
	l, ps := loadText(`security:
  access_control:
    enabled: true
    rules:
      - {identity: web, allow: [publish, subscribe], filter: "sensors/%u/#"}
      - {role: viewer, deny: all, filter: "absolute:homeassistant/#"}
      - {allow: release, filter: safety/emergency_stop, identity: gardener}
`)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	rules, err := l.Config.AccessRules()
	if err != nil {
		t.Fatal(err)
	}
	want := []AccessRule{
		{Identity: "web", Allow: true, Verbs: []string{"publish", "subscribe"}, Filter: "lawnberry/sensors/%u/#"},
		{Role: "viewer", Verbs: []string{"all"}, Filter: "homeassistant/#"},
		{Identity: "gardener", Allow: true, Verbs: []string{"release"}, Filter: "lawnberry/safety/emergency_stop"},
	}
	if !reflect.DeepEqual(rules, want) {
		t.Errorf("got %+v", rules)
	}
	for _, tt := range []struct{ rule, want string }{
		{`allow everything`, "want a mapping"},
		{`{allow: publish}`, "filter is missing"},
		{`{filter: a}`, "want one of allow and deny"},
		{`{allow: publish, deny: publish, filter: a}`, "want one of allow and deny"},
		{`{allow: read, filter: a}`, `unknown verb "read"`},
		{`{allow: [], filter: a}`, "no verb"},
		{`{allow: 7, filter: a}`, `unknown verb "7"`},
		{`{allow: publish, filter: "a/#/b"}`, "last level"},
		{`{allow: publish, filter: "$share/g/a"}`, "$share"},
		{`{allow: publish, filter: [a]}`, "filter has to be a text"},
		{`{allow: publish, filter: a, identity: 7}`, "identity has to be a text"},
		{`{allow: publish, filter: a, rolle: x}`, `unknown key "rolle"`},
	} {
		_, ps := loadText("security: {access_control: {rules: [{allow: all, filter: x}, " + tt.rule + "]}}")
		if err := ps.Err(); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "rule 2") {
			t.Errorf("%s: %v, want %s", tt.rule, err, tt.want)
		}
	}
}
