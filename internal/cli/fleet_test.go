package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/fleettest"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

// engines are the publishers of scripts, by the URL of their engine.
var engines sync.Map

func publisherOf(ts *testscript.TestScript) *fleettest.Publisher {
	p, ok := engines.Load(ts.Getenv("LAWNBERRY_FLEET_URL"))
	if !ok {
		ts.Fatalf("there is no engine")
	}
	return p.(*fleettest.Publisher) //nolint:forcetypeassert // there is nothing else
}

// cmdEngine returns the command engine: it starts a NATS server, makes it ready for a fleet, and names it in LAWNBERRY_FLEET_URL. With
// "empty" it is not made ready. With "mqtt" it is a Mosquitto, at which the mower m-7 is online with a battery of 63; with "mqtts" too, which has a certificate
// of the authority in ca.pem and lets in anna by the file anna.login. The authority in other.pem has nothing to do with it.
func cmdEngine(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) > 0 && args[0] == "mqtt" {
			retainMower(ts, fleet.Engine{URL: "mqtt://" + mosquittotest.Start(t)})
			return
		}
		if len(args) > 0 && args[0] == "mqtts" {
			lines, ca := mosquittotest.TLS(t)
			_, other := mosquittotest.TLS(t)
			for name, file := range map[string]string{"ca.pem": ca, "other.pem": other} {
				text, err := os.ReadFile(file)
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(name), text, 0o600))
			}
			passwords, login := ts.MkAbs("passwords"), ts.MkAbs("anna.login")
			mosquittotest.Password(t, passwords, "anna", "secret of anna")
			ts.Check(os.WriteFile(login, []byte("anna\nsecret of anna\n"), 0o600))
			retainMower(ts, fleet.Engine{
				URL:         "mqtts://" + mosquittotest.Start(t, append(lines, "allow_anonymous false", "password_file "+passwords)...),
				Credentials: login, CAFile: ca,
			})
			return
		}
		s := natstest.Start(t)
		ts.Setenv("LAWNBERRY_FLEET_URL", s.URL())
		nc, err := nats.Connect(s.URL())
		ts.Check(err)
		ts.Defer(nc.Close)
		js, err := jetstream.New(nc)
		ts.Check(err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if len(args) == 0 {
			ts.Check(fleettest.Setup(ctx, js, 1, time.Hour))
		}
		engines.Store(s.URL(), fleettest.New(js))
	}
}

// retainMower names an engine in LAWNBERRY_FLEET_URL, at which the mower m-7 is online.
func retainMower(ts *testscript.TestScript, e fleet.Engine) {
	ts.Setenv("LAWNBERRY_FLEET_URL", e.URL)
	retain(ts, e, map[string]string{
		fleet.PresenceTopic("m-7"): `{"mower":"m-7","interval":600}`, fleet.StateTopic("m-7", "power/battery"): `{"payload":{"data":{"level":63}}}`,
	})
}

func retain(ts *testscript.TestScript, e fleet.Engine, messages map[string]string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := e.DialMQTT(ctx, fleet.MQTTSession{})
	ts.Check(err)
	defer c.Close(ctx)
	for name, body := range messages {
		_, err := c.Send(ctx, name, []byte(body), client.WithQoS(1), client.WithRetain(true))
		ts.Check(err)
	}
}

// cmdRetain has the MQTT engine retain what a mower says: retain MOWER TOPIC [BODY]. The topic is one of its state, or presence.
func cmdRetain(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: retain MOWER TOPIC [BODY]")
	}
	name, body := fleet.StateTopic(args[0], args[1]), strings.Join(args[2:], " ")
	if args[1] == "presence" {
		name = fleet.PresenceTopic(args[0])
	}
	e := fleet.Engine{URL: ts.Getenv("LAWNBERRY_FLEET_URL")}
	if strings.HasPrefix(e.URL, "mqtts:") {
		e.CAFile, e.Credentials = ts.MkAbs("ca.pem"), ts.MkAbs("anna.login")
	}
	retain(ts, e, map[string]string{name: body})
}

// cmdPage waits until the page has something at a path: page PATTERN FILE PATH. The file is what fleet ui has printed.
func cmdPage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: page PATTERN FILE PATH")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	var printed struct {
		URL string `json:"url"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &printed))
	jar, err := cookiejar.New(nil)
	ts.Check(err)
	c := http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	base, _, _ := strings.Cut(printed.URL, "/?")
	get := func(url string) (status int, body []byte) {
		r, err := c.Get(url)
		ts.Check(err)
		defer r.Body.Close()
		body, err = io.ReadAll(r.Body)
		ts.Check(err)
		return r.StatusCode, body
	}
	if status, body := get(printed.URL); status != http.StatusOK {
		ts.Fatalf("the key: %d: %s", status, body)
	}
	poll(ts, fmt.Sprintf("the page has no %q at %s", args[0], args[2]), func() bool { // it may not know yet
		status, body := get(base + args[2])
		return status == http.StatusOK && pattern.Match(body)
	})
}

// cmdMower publishes what the uplink of a mower would: mower ID [name=value...]. Names are online, offline and enrolled (without a value), version,
// backlog, lost, battery, state, stop, alert (type:severity:text), clear (type), x, y, and raw (topic:bytes, quoted as in Go).
func cmdMower(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: mower ID [name=value...]")
	}
	p, id := publisherOf(ts), args[0]
	presence := fleet.Presence{Mower: id, Version: "1.2.3", Since: time.Now(), Session: "s", Interval: 600}
	there := false
	place := map[string]any{}
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(a, "=")
		number := func() float64 {
			f, err := strconv.ParseFloat(value, 64)
			ts.Check(err)
			return f
		}
		parts := strings.SplitN(value, ":", 3)
		switch name {
		case "online":
			there = true
		case "offline":
			p.Leave(id)
		case "enrolled":
			p.Raw("$KV."+fleet.BucketMowers+"."+id, []byte("{}"), nil)
		case "version":
			presence.Version = value
		case "backlog":
			old := time.Now().Add(-time.Hour)
			presence.Backlog = fleet.Backlog{Records: int64(number()), Oldest: &old}
		case "lost":
			presence.Lost = fleet.Losses{fleet.Telemetry: {Count: uint64(number()), Why: "bytes"}}
		case "commands":
			presence.Commands = strings.Split(value, ",")
		case "battery":
			p.State(id, "power/battery", fleettest.Sensor(map[string]any{"level": number(), "voltage": 24.5}, map[string]string{"level": "%", "voltage": "V"}))
		case "state":
			p.State(id, "navigation/status", fleettest.Status(value))
		case "stop":
			p.State(id, "safety/emergency_stop", fleettest.Stop(value == "engaged", "a dog"))
		case "alert":
			said, err := strconv.Unquote(`"` + parts[2] + `"`)
			ts.Check(err)
			p.State(id, "safety/alerts/"+parts[0], fleettest.Alert(parts[0], parts[1], said))
		case "clear":
			p.State(id, "safety/alerts/"+value, nil)
		case "x", "y":
			place[name] = number()
			p.State(id, "navigation/position", fleettest.Sensor(place, nil))
		case "raw":
			both, err := strconv.Unquote(`"` + strings.ReplaceAll(value, `"`, `\"`) + `"`)
			ts.Check(err)
			topic, body, _ := strings.Cut(both, ":")
			p.State(id, topic, []byte(body))
		default:
			ts.Fatalf("a mower has no %q", name)
		}
	}
	if there {
		p.Presence(presence)
	}
	flush(ts, p)
}

// cmdPast publishes history: past MOWER TOPIC AGO NAME=NUMBER..., of which each is a message, all of them a batch, a second after each other.
func cmdPast(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: past MOWER TOPIC AGO NAME=NUMBER...")
	}
	p := publisherOf(ts)
	ago, err := time.ParseDuration(args[2])
	ts.Check(err)
	at := time.Now().Add(-ago)
	var lines []fleettest.Line
	for i, a := range args[3:] {
		name, value, _ := strings.Cut(a, "=")
		n, err := strconv.ParseFloat(value, 64)
		ts.Check(err)
		lines = append(lines, fleettest.Line{Time: at.Add(time.Duration(i) * time.Second), Body: fleettest.Sensor(map[string]any{name: n}, nil)})
	}
	p.Batch(args[0], args[1], fmt.Sprint(args), lines...)
	flush(ts, p)
}

func flush(ts *testscript.TestScript, p *fleettest.Publisher) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ts.Check(p.Flush(ctx))
}

// cmdFleetJob runs a verb of a job whose id is in a file: fleetjob VERB MOWER FILE [flags...].
func cmdFleetJob(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: fleetjob VERB MOWER FILE [flags...]")
	}
	id := strings.TrimSpace(ts.ReadFile(args[2]))
	err := ts.Exec("lawnberry", append([]string{"fleet", "job", args[0], args[1], id}, args[3:]...)...)
	if (err != nil) != neg {
		ts.Fatalf("fleet job %s %s %s: %v", args[0], args[1], id, err)
	}
}
