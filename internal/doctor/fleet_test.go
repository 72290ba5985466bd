package doctor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	bridge "github.com/lawnberry/lawnberry/bridge/fleet"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// fleetKeys has the uplink enabled, with more keys of integration.fleet.
func (g *garden) fleetKeys(url, more string) {
	g.t.Helper()
	g.load(fmt.Sprintf("integration: {fleet: {enabled: true, url: %q, mower_id: m-1%s}}\n", url, more))
}

// uplink runs a service fleet that says of itself what condition is.
func (g *garden) uplink(condition bridge.Condition, state service.State) {
	g.t.Helper()
	s, err := service.Start(g.t.Context(), service.Options{ID: bridge.ID, Type: "test", Version: "1.2.3", Client: client.Options{URL: g.url}})
	if err != nil {
		g.t.Fatal(err)
	}
	g.ends("fleet", s.Stop)
	service.Handle(s, bridge.CommandCondition, func(context.Context, struct{}) (bridge.Condition, error) { return condition, nil }, service.Repeatable())
	s.SetState(state, "the reason of the uplink")
}

// healthyUplink runs a service fleet that has nothing to complain of.
func healthyUplink(g *garden) { g.uplink(bridge.Condition{Connected: true}, service.Healthy) }

// credentialsOf writes credentials of NATS as those of a mower.
func (g *garden) credentialsOf(mower string) string {
	g.t.Helper()
	account, err := nkeys.CreateAccount()
	if err != nil {
		g.t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		g.t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		g.t.Fatal(err)
	}
	claims := jwt.NewUserClaims(public)
	claims.Sub.Allow.Add(fleet.CommandFilter(mower))
	token, err := claims.Encode(account)
	if err != nil {
		g.t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		g.t.Fatal(err)
	}
	text, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.write(mower+".creds", string(text), 0o600)
}

func fleetFaults() []fault {
	file := []string{"error fleet: fleet-file"}
	// keys has the engine be a NATS server, or none where the files are wrong already.
	keys := func(more func(g *garden) string) func(g *garden) {
		return func(g *garden) { g.fleetKeys("nats://127.0.0.1:1", more(g)) }
	}
	engine := func(url, more func(g *garden) string) func(g *garden) {
		return func(g *garden) { g.fleetKeys(url(g), more(g)) }
	}
	none := func(*garden) string { return "" }
	nats := func(g *garden) string { return natstest.Start(g.t).URL() }
	said := func(c bridge.Condition) func(g *garden) {
		return func(g *garden) { g.uplink(c, service.Degraded) }
	}
	old, lately := time.Now().Add(-90*time.Minute), time.Now().Add(-time.Minute)
	return []fault{
		{name: "a fleet that is right", files: engine(nats, func(g *garden) string { return ", credentials: " + g.credentialsOf("m-1") }),
			seed: healthyUplink, want: []string{}},
		{name: "no fleet and files of one that are not there",
			config: "integration: {fleet: {credentials: none, ca_file: none, keys_file: none}}\n", want: []string{}},
		{name: "the fleet is defined nowhere", files: func(g *garden) {
			g.load(fmt.Sprintf("service_definitions: {mission: {service_type: test}}\nintegration: {fleet: {enabled: true, url: %q, mower_id: m-1}}\n", nats(g)))
		}, seed: healthyUplink, want: []string{}},
		{name: "a mower id that is none", config: "integration: {fleet: {enabled: true, url: \"nats://127.0.0.1:1\", mower_id: a.b}}\n", seed: healthyUplink,
			want: []string{"error configuration: config-error", "error configuration: config-error", "warning fleet: fleet-unreachable"},
			says: "integration.fleet.mower_id"},

		{name: "credentials that are not there", files: keys(func(*garden) string { return ", credentials: none.creds" }),
			seed: healthyUplink, want: file, says: "none.creds"},
		{name: "credentials that others may read", files: keys(func(g *garden) string { return ", credentials: " + g.write("m.creds", "m-1\nsecret\n", 0o644) }),
			seed: healthyUplink, want: []string{"error permissions: secret-open"}, says: "0644"},
		{name: "credentials with nothing in them", files: keys(func(g *garden) string { return ", credentials: " + g.write("m.creds", "", 0o600) }),
			seed: healthyUplink,
			want: file, says: "are empty"},
		{name: "credentials that are a directory", files: keys(func(g *garden) string { return ", credentials: " + g.dir }),
			seed: healthyUplink, want: file, says: "are no file"},
		{name: "an authority that is not there", files: keys(func(*garden) string { return ", ca_file: none.pem" }),
			seed: healthyUplink, want: file, says: "none.pem"},
		{name: "an authority that is none", files: keys(func(g *garden) string { return ", ca_file: " + g.write("ca.pem", "?", 0o600) }), seed: healthyUplink,
			want: file, says: "there is no certificate in"},
		{name: "keys of operators that are not there", files: engine(nats, func(*garden) string { return ", keys_file: none.keys" }), seed: healthyUplink,
			want: file, says: "none.keys"},
		{name: "keys of operators that others may change",
			files: engine(nats, func(g *garden) string { return ", keys_file: " + g.write("operators.keys", "", 0o666) }),
			seed:  healthyUplink, want: []string{"error permissions: secret-open"}},
		{name: "credentials of another mower", files: engine(nats, func(g *garden) string { return ", credentials: " + g.credentialsOf("m-2") }),
			seed: healthyUplink,
			want: []string{"error fleet: fleet-identity"}, says: "has the credentials of m-2"},

		{name: "an engine whose name is unknown", files: engine(func(*garden) string { return "tls://fleet.invalid" }, none), seed: healthyUplink,
			want: []string{"warning fleet: fleet-unreachable"}, says: "the name is not known here"},
		{name: "an engine that nobody is", files: engine(func(*garden) string { return "nats://127.0.0.1:1" }, none), seed: healthyUplink,
			want: []string{"warning fleet: fleet-unreachable"}, says: "no connection over TCP"},
		{name: "an engine of which a server is there", files: engine(func(g *garden) string { return "nats://127.0.0.1:1," + nats(g) }, none),
			seed: healthyUplink, want: []string{}},
		{name: "an engine without TLS", files: engine(func(g *garden) string { return "tls://" + nats(g)[len("nats://"):] }, none), seed: healthyUplink,
			want: []string{"warning fleet: fleet-unreachable"}, says: "no NATS over TLS"},
		{name: "an engine with a certificate of another authority", files: func(g *garden) {
			lines, _ := mosquittotest.TLS(g.t)
			_, other := mosquittotest.TLS(g.t)
			g.fleetKeys("mqtts://"+mosquittotest.Start(g.t, lines...), ", ca_file: "+other)
		}, seed: healthyUplink, want: []string{"warning fleet: fleet-unreachable"}, says: "no MQTT over TLS"},
		{name: "an engine over TLS that is right", files: func(g *garden) {
			lines, ca := mosquittotest.TLS(g.t)
			g.fleetKeys("mqtts://"+mosquittotest.Start(g.t, lines...), ", ca_file: "+ca)
		}, seed: healthyUplink, want: []string{}},
		{name: "a NATS server that refuses the login", files: engine(func(g *garden) string {
			return natstest.Start(g.t, `authorization { user: m-1, password: "other than that" }`).URL()
		}, func(g *garden) string { return ", credentials: " + g.write("m.creds", "m-1\nsecret\n", 0o600) }), seed: healthyUplink,
			want: []string{"error fleet: fleet-refused"}, says: "it does not let us in"},
		{name: "an MQTT broker that refuses the login", files: func(g *garden) {
			passwords := filepath.Join(g.t.TempDir(), "passwords")
			mosquittotest.Password(g.t, passwords, "m-1", "other than that")
			login := g.write("m.login", "m-1\nsecret\n", 0o600)
			g.fleetKeys("mqtt://"+mosquittotest.Start(g.t, "allow_anonymous false", "password_file "+passwords), ", credentials: "+login)
		}, seed: healthyUplink, want: []string{"error fleet: fleet-refused"}, says: "it does not let us in"},

		{name: "an uplink that does not run", files: engine(nats, none), want: []string{"error fleet: fleet-missing"}},
		{name: "an uplink that says nothing in particular", files: engine(nats, none), seed: said(bridge.Condition{}),
			want: []string{"warning services: service-unable"}, says: "degraded: the reason of the uplink"},
		{name: "an engine that takes some topics not", files: engine(nats, none), seed: said(bridge.Condition{Connected: true, Refused: 3}),
			want: []string{"error fleet: fleet-not-taken"}, says: "3 topics"},
		{name: "an outbox that cannot be written", files: engine(nats, none), seed: said(bridge.Condition{Disk: "no space left"}),
			want: []string{"error fleet: fleet-disk"}, says: "no space left"},
		{name: "a backlog that is old", files: engine(nats, none), seed: said(bridge.Condition{Backlog: fleet.Backlog{Records: 7, Oldest: &old}}),
			want: []string{"warning fleet: fleet-backlog"}, says: "7 messages wait for the fleet, the oldest for 1h3"},
		{name: "a backlog that is none to speak of", files: engine(nats, none), seed: func(g *garden) {
			g.uplink(bridge.Condition{Connected: true, Backlog: fleet.Backlog{Records: 7, Oldest: &lately}}, service.Healthy)
		}, want: []string{}},
		{name: "losses", files: engine(nats, none), seed: func(g *garden) {
			g.uplink(bridge.Condition{Connected: true, Lost: fleet.Losses{fleet.Telemetry: {Count: 5, Last: lately, Why: "bytes"}}}, service.Healthy)
		}, want: []string{"warning fleet: fleet-lost"}, says: "5 messages of class telemetry"},
		{name: "an engine without streams", files: engine(nats, none),
			seed: (*garden).realUplink, want: []string{"error fleet: fleet-not-taken"}, says: "1 topics"},
	}
}

// realUplink runs the uplink of the configuration, and has it find out that the engine has no streams.
func (g *garden) realUplink() {
	u, err := bridge.Start(g.t.Context(), bridge.Options{
		Mower: "m-1", Version: "1.2.3", Client: client.Options{URL: g.url}, Engine: g.o.Loaded.Config.FleetEngine(), Dir: g.t.TempDir(), Up: fleet.DefaultFilters(),
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.ends("uplink", u.Stop)
	m, err := message.NewEvent("person", message.Event{EventType: "said", EventData: json.RawMessage(`{}`)})
	if err != nil {
		g.t.Fatal(err)
	}
	g.publish(g.client("speaker"), "system/events/said", m)
	eventually(g.t, "the engine does not take it", func() bool { return u.Stats().Refused > 0 })
}
