package doctor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/internal/doctor"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// A fault is something that is not as it should be in a mower that is in order else, and all that is to be found of it.
type fault struct {
	name    string
	config  string          // the file
	files   func(g *garden) // changes files, before anything runs
	options broker.Options  // of the broker
	bare    bool            // nothing runs, or seed starts all that does
	stop    bool            // there is no hub
	seed    func(g *garden) // does what is wrong, with the broker
	want    []string        // "severity check: id", sorted
	says    string          // is in what one of them says
}

// denied are rights without some.
type denied struct{ publish, subscribe, receive string }

func (d denied) MayPublish(topic string) bool {
	return d.publish == "" || !strings.HasPrefix(topic, d.publish)
}
func (d denied) MaySend(string, []byte, bool) error { return nil }
func (d denied) MaySubscribe(filter string) bool {
	return d.subscribe == "" || !strings.HasPrefix(filter, d.subscribe)
}
func (d denied) MayReceive(topic string) bool {
	return d.receive == "" || !strings.HasPrefix(topic, d.receive)
}

// deny takes rights from one client.
func deny(id string, d denied) broker.Options {
	return broker.Options{Authorize: func(l broker.Login, _ broker.Identity) (broker.Rights, error) {
		if l.ClientID == id {
			return d, nil
		}
		return nil, nil //nolint:nilnil // no rights to look at are all rights
	}}
}

func reading(t *testing.T, sender string) message.Message {
	t.Helper()
	m, err := message.NewSensorData(sender, message.SensorData{SensorType: "test", Data: map[string]int{"value": 1}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func fileFaults() []fault {
	signing := "security: {signing: {enabled: true, key_file: %s}}\n"
	return []fault{
		{name: "a value out of range", config: "broker: {port: 70000}\n", want: []string{"error configuration: config-error"}, says: "broker.port"},
		{name: "a file that is not YAML", config: "broker: [\n", want: []string{"error configuration: config-error"}},
		{name: "a newer or misspelt key", config: "broker:\n  prot: 1883\n", want: []string{"warning configuration: config-unknown-key"},
			says: "broker.port"},
		{name: "a key that does nothing", config: "services: {discovery_timeout: 5}\n", want: []string{"warning configuration: config-warning"}},
		{name: "no such file", files: func(g *garden) { g.file = filepath.Join(g.dir, "nothere.yaml"); g.load("") },
			want: []string{"error configuration: config-unreadable"}},
		{name: "a key file that is not there", config: fmt.Sprintf(signing, "nothere"), want: []string{"error configuration: key-file"}},
		{name: "a key file that others may read", files: func(g *garden) { g.load(fmt.Sprintf(signing, g.write("keys", "", 0o644))) },
			want: []string{"error permissions: secret-open"}, says: "0644"},
		{name: "a users file that others may read", files: func(g *garden) { g.write("users.yaml", "users: []\n", 0o640) },
			want: []string{"error permissions: secret-open"}},
		{name: "a users file that is broken", files: func(g *garden) { g.write("users.yaml", "users: 7\n", 0o600) },
			want: []string{"error users: users-unusable"}},
		{name: "a password that everybody may read", config: "client: {auth: {enabled: true, username: ann, password: secret}}\n", files: func(g *garden) {
			if err := os.Chmod(g.file, 0o644); err != nil {
				g.t.Fatal(err)
			}
		}, want: []string{"warning permissions: config-open"}, says: "client.auth.password"},
		{name: "a data directory that others may change", files: func(g *garden) {
			if err := os.Chmod(g.dir, 0o777); err != nil {
				g.t.Fatal(err)
			}
		}, want: []string{"error permissions: directory-open"}},
		{name: "a key behind a path that leads nowhere", files: func(g *garden) {
			if err := errors.Join(os.Mkdir(filepath.Join(g.dir, "tls"), 0o700), os.Symlink("loop.key", filepath.Join(g.dir, "tls", "loop.key"))); err != nil {
				g.t.Fatal(err)
			}
		}, want: []string{"warning permissions: secret-unknown"}},
		{name: "an expired certificate", files: func(g *garden) { g.certificate(time.Now().Add(-time.Hour)) },
			want: []string{"error certificates: certificate-expired"}},
		{name: "a certificate that expires soon", files: func(g *garden) { g.certificate(time.Now().Add(9 * 24 * time.Hour)) },
			want: []string{"warning certificates: certificate-expiring"}},
		{name: "a broken certificate", files: func(g *garden) { g.write("tls/broker.pem", "-----BEGIN nothing", 0o644) },
			want: []string{"error certificates: certificate-unreadable"}},
		{name: "too little room", files: func(g *garden) { g.o.MinFree = 1 << 50 }, want: []string{"warning disk: disk-low"}},
		{name: "no room, and no right to write", files: func(g *garden) { g.o.DataDir = "/proc" }, want: []string{"error disk: disk-full",
			"error disk: disk-unwritable"}},
		{name: "a slow disk", files: func(g *garden) { g.o.SlowSync = time.Nanosecond }, want: []string{"warning disk: disk-slow"}},
		{name: "no data directory yet", files: func(g *garden) { g.o.DataDir = filepath.Join(g.dir, "none") }, want: []string{"note disk: disk-new"}},
	}
}

func brokerFaults() []fault {
	const unknown = "error emergency stop: stop-unknown"
	return []fault{
		{name: "no broker", bare: true, seed: func(g *garden) { g.url = "tcp://127.0.0.1:1" }, want: []string{"error broker: broker-unreachable"}},
		{name: "the port is somebody else's", bare: true, seed: func(g *garden) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				g.t.Fatal(err)
			}
			g.t.Cleanup(func() { _ = l.Close() })
			go func() { // it is no broker
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_ = c.Close()
				}
			}()
			g.o.Loaded.Config.Broker.Port = l.Addr().(*net.TCPAddr).Port
			g.url, g.o.Own = "tcp://"+l.Addr().String(), true
		}, want: []string{"error broker: broker-unreachable", "error ports: port-taken"}, says: "broker.port"},
		{name: "a login that the broker refuses", bare: true, seed: func(g *garden) {
			g.startBroker(broker.Options{Authenticate: func(context.Context, broker.Login) error { return errors.New("wrong") }})
		}, want: []string{"error broker: broker-refuses"}},
		{name: "a certificate of ours that is not there", bare: true,
			config: "client: {tls: {enabled: true, certfile: none.pem, keyfile: none.key}, broker_host: mower.example}\n",
			want:   []string{"error broker: broker-unknown", "error certificates: certificate-unreadable"}},
		{name: "no right to listen", options: deny("probe", denied{subscribe: "lawnberry/system/"}), want: []string{"error broker: broker-deaf"}},
		{name: "no right to hear how the broker is", options: deny("probe", denied{subscribe: "$SYS/"}), want: []string{"note broker: broker-silent"}},
		{name: "no right to measure", options: deny("probe", denied{publish: "lawnberry/responses/"}),
			want: []string{"note round trip: round-trip-unknown", "warning rights: rights-denied"}},
		{name: "messages that do not come back", options: deny("probe-echo", denied{receive: "lawnberry/responses/"}),
			want: []string{"error round trip: round-trip-lost"}},
		{name: "Mosquitto without nodelay", bare: true, seed: func(g *garden) {
			g.url = "tcp://" + mosquittotest.Start(g.t, "set_tcp_nodelay false")
			g.o.SlowTrip = 0
			g.startHub()
			g.startMission()
		}, want: []string{"note broker: broker-lacks", "warning round trip: round-trip-slow"}, says: "ms at QoS 2"},
		{name: "a broker that retains nothing", bare: true, seed: func(g *garden) {
			g.url = "tcp://" + mosquittotest.Start(g.t, "retain_available false")
		}, want: []string{"error broker: broker-unusable", unknown, "note broker: broker-lacks"}},
		{name: "nobody keeps the emergency stop", stop: true, want: []string{unknown}},
		{name: "the emergency stop is engaged", seed: func(g *garden) { g.engage("test") }, want: []string{"warning emergency stop: stop-engaged"}},
		{name: "a hazard stands against releasing", seed: func(g *garden) {
			l, err := safety.OpenLatch(g.t.Context(), g.mission.Client(), safety.LatchOptions{})
			if err != nil {
				g.t.Fatal(err)
			}
			g.ends("latch", l.Close)
			if err := l.SetHazard(g.t.Context(), "tilt", "it is tilted by 40 degrees"); err != nil {
				g.t.Fatal(err)
			}
			g.engage("tilt")
			eventually(g.t, "the hub knows of the hazard", func() bool { return len(g.hub.Status().Against) > 0 })
		}, want: []string{"warning emergency stop: stop-held"}, says: "tilt"},
		{name: "a motor does not stop", seed: (*garden).jam, want: []string{"error emergency stop: stop-unconfirmed",
			"warning emergency stop: stop-held"}, says: "blade"},
	}
}

// engage engages the emergency stop.
func (g *garden) engage(reason string) {
	g.t.Helper()
	if err := g.client("finger").Call(g.t.Context(), safety.HubID, "engage", map[string]string{"reason": reason}, nil,
		client.Unannounced()); err != nil {
		g.t.Fatal(err)
	}
	eventually(g.t, "engaged", func() bool { return g.hub.Status().Engaged })
}

// jam starts a service whose motor goes on after the emergency stop.
func (g *garden) jam() {
	var latch *safety.Latch
	var guard *safety.Guard
	s, err := service.Start(g.t.Context(), service.Options{ID: "blade", Type: "test", Safety: true, Client: client.Options{URL: g.url},
		Setup: func(ctx context.Context, s *service.Service) (err error) {
			if latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{}); err != nil {
				return err
			}
			guard, err = safety.NewGuard(ctx, s, latch, safety.GuardOptions{Safety: []string{}})
			return err
		}})
	if err != nil {
		g.t.Fatal(err)
	}
	g.ends("blade", s.Stop)
	g.ends("latch", latch.Close)
	ctx, cancel := context.WithCancel(context.Background())
	var jammed atomic.Bool
	var work sync.WaitGroup
	work.Go(func() {
		_ = guard.Run(ctx, 10*time.Millisecond, func(context.Context) error { return nil }, func(string) error {
			if jammed.Load() {
				return errors.New("the motor is jammed")
			}
			return nil
		})
	})
	g.t.Cleanup(func() {
		jammed.Store(false)
		cancel()
		work.Wait()
		guard.Close()
	})
	eventually(g.t, "it moves", func() bool { return guard.Arm(g.t.Context()) == nil })
	jammed.Store(true)
	g.engage("test")
	eventually(g.t, "the hub misses the confirmation", func() bool {
		return slices.ContainsFunc(g.hub.Status().Participants, func(p safety.Participant) bool { return p.Actuator && !p.Confirmed })
	})
}

func serviceFaults() []fault {
	status := func(id, state string, age time.Duration) func(g *garden) {
		return func(g *garden) {
			g.publish(g.client("teller"), "system/services/"+id+"/status", status(id, state, time.Now().Add(-age), 1), client.WithRetain(true))
		}
	}
	// announced is a service that says again and again that it is there. answers says what it does with the command status.
	announced := func(id string, of func(n int) message.Message, answers func(*client.Request) (any, error)) func(g *garden) {
		return func(g *garden) {
			c := g.client(id)
			if answers != nil {
				_, err := c.ServeCommands(g.t.Context(), id, func(string) bool { return true }, func(ctx context.Context, r *client.Request) (any,
					error) {
					return answers(r)
				})
				if err != nil {
					g.t.Fatal(err)
				}
			}
			g.repeat(func(n int) {
				c.PublishAsync("system/services/"+id+"/status", of(n), client.WithRetain(false), client.Unlimited())
			})
		}
	}
	return []fault{
		{name: "a dead service", seed: status("ghost", "healthy", time.Hour), want: []string{"error services: service-dead"}, says: "1h0m"},
		{name: "a dead service whose name is for a shell", seed: status("a b;reboot'", "healthy", time.Hour),
			want: []string{"error services: service-dead"},
			says: `clear system/services/'a b;reboot'\'''/status;`},
		{name: "a service that said goodbye", seed: status("ghost", "offline", time.Hour), want: []string{}},
		{name: "a service that does not answer", seed: status("ghost", "healthy", 0), want: []string{"warning services: service-silent"}},
		{name: "a service with an error", seed: func(g *garden) { g.mission.SetState(service.Failing, "no map") },
			want: []string{"warning services: service-unable"}},
		{name: "a service that carries out no commands", seed: func(g *garden) {
			if _, err := g.client("ear").Subscribe(g.t.Context(), "commands/mute", func(context.Context, *client.Delivery) {}); err != nil {
				g.t.Fatal(err)
			}
			announced("mute", func(int) message.Message { return status0("mute") }, nil)(g)
		}, want: []string{"warning services: service-mute"}},
		{name: "two services with one id", seed: announced("twin", func(n int) message.Message { return statusOf("twin", n%2) }, nil),
			want: []string{"error services: service-twice"}, says: "2 processes"},
		{name: "a clock that is wrong", seed: announced("late", func(int) message.Message { return statusAt("late", time.Now().Add(-time.Hour)) }, nil),
			want: []string{"warning clocks: clock-wrong"}, says: "-3"},
		{name: "a service that nobody has seen", config: "service_definitions: {mission: {service_type: test}, camera: {service_type: vision}}\n",
			want: []string{"warning services: service-missing"}, says: "camera"},
		{name: "a dependency that is missing",
			config: "service_definitions: {mission: {service_type: test, dependencies: [weather]}, weather: {service_type: weather}}\n",
			want:   []string{"error dependencies: dependency-missing"}, says: "mission needs it"},
		{name: "a service that is not defined", config: "service_definitions: {mission: {service_type: test}}\n", seed: announced("stranger",
			func(int) message.Message { return status0("stranger") }, nil), want: []string{"note services: service-undefined"}},
		{name: "a service whose messages wait", seed: announced("hoarder", func(int) message.Message { return status0("hoarder") },
			func(*client.Request) (any, error) {
				return map[string]any{"mqtt_stats": map[string]any{"queued": 5000}}, nil
			}),
			want: []string{"warning queues: outbox-long"}, says: "5000"},
	}
}

func status0(id string) message.Message                { return statusOf(id, 1) }
func statusOf(id string, pid int) message.Message      { return status(id, "healthy", time.Now(), 100+pid) }
func statusAt(id string, at time.Time) message.Message { return status(id, "healthy", at, 1) }

func trafficFaults() []fault {
	rules := "security: {access_control: {enabled: true, rules: [%s]}}\n" +
		"service_definitions: {mission: {service_type: test, topics: {publish: [power/solar]}}}\n"
	// fill has so many readings wait for a client that is away.
	fill := func(n int) func(g *garden) {
		return func(g *garden) {
			g.away()
			c := g.client("sensor")
			for range n {
				err := c.Publish(g.t.Context(), "sensors/test/data", reading(g.t, "sensor"), client.Unlimited())
				if refused := (*client.RefusedError)(nil); err != nil && !errors.As(err, &refused) { // the bound is
					g.t.Fatal(err)
				}
			}
		}
	}
	return []fault{
		{name: "a topic that nobody defined", seed: func(g *garden) {
			g.publish(g.client("sensor"), "senors/gps/data", reading(g.t, "sensor"), client.WithRetain(true))
		},
			want: []string{"warning topics: topic-undefined"}, says: "senors/gps/data by sensor"},
		{name: "a topic that its sender has no right to", config: fmt.Sprintf(rules, ""), seed: func(g *garden) {
			g.publish(g.client("mission-2"), "power/battery", reading(g.t, "mission"), client.WithRetain(true))
			g.publish(g.client("mission-3"), "power/solar", reading(g.t, "mission"), client.WithRetain(true)) // that it has
		}, want: []string{"warning topics: topic-not-allowed"}, says: "power/battery by mission: no rule allows it"},
		{name: "a topic that nobody has a right to", config: fmt.Sprintf(rules, ""), seed: func(g *garden) {
			g.publish(g.client("somebody"), "power/battery", reading(g.t, "somebody"), client.WithRetain(true))
		}, want: []string{"warning topics: topic-not-allowed"}, says: "no rule gives anybody but an admin"},
		{name: "a rule against a definition", config: fmt.Sprintf(rules, "{deny: publish, identity: mission, filter: power/solar}"),
			want: []string{"warning topics: definition-not-allowed"}, says: "rule 1"},
		{name: "a rate that is exceeded", seed: func(g *garden) {
			limited := false
			for range 1000 { // 100 a minute
				limited = errors.Is(g.mission.Publish(g.t.Context(), "sensors/test/data", reading(g.t, "mission")), client.ErrRateLimited) || limited
			}
			if !limited {
				g.t.Error("there is no rate")
			}
		}, want: []string{"warning rates: rate-exceeded"}},
		{name: "losses", options: broker.Options{MaxQueued: 10}, seed: fill(12), want: []string{"warning losses: broker-dropped",
			"warning losses: session-dropped"}, says: "session away has lost 2 messages"},
		{name: "a long queue", config: "broker: {max_queued_messages: 100}\n", options: broker.Options{MaxQueued: 100}, seed: fill(60),
			want: []string{"warning queues: queue-long"}, says: "60 messages"},
		{name: "a queue that grows", config: "broker: {max_queued_messages: 1000000}\n", options: broker.Options{MaxQueued: 1_000_000},
			seed: func(g *garden) {
				g.away()
				c, m := g.client("sensor"), reading(g.t, "sensor")
				g.o.Listen = time.Second
				g.repeat(func(int) {
					for range 20 {
						c.PublishAsync("sensors/test/data", m, client.Unlimited())
					}
				})
			}, want: []string{"warning queues: queue-growing"}},
		{name: "a handler that does not keep up", seed: func(g *garden) {
			free := make(chan struct{})
			_, err := g.mission.Subscribe(g.t.Context(), "sensors/+/data", func(ctx context.Context, _ *client.Delivery) {
				select {
				case <-free:
				case <-ctx.Done():
				}
			}, client.WithQueue(client.Queue{Max: 1, Full: client.DropOldest}))
			if err != nil {
				g.t.Fatal(err)
			}
			g.t.Cleanup(func() { close(free) })
			c := g.client("sensor")
			for range 20 {
				g.publish(c, "sensors/test/data", reading(g.t, "sensor"))
			}
			eventually(g.t, "messages are dropped", func() bool { return g.mission.Client().Stats().Dropped > 0 })
		}, want: []string{"warning losses: service-dropped"}},
		{name: "messages that break a rule", seed: func(g *garden) {
			if _, err := g.mission.Subscribe(g.t.Context(), "sensors/+/data", func(context.Context, *client.Delivery) {}); err != nil {
				g.t.Fatal(err)
			}
			broken := `{"metadata": {"timestamp": 1, "message_id": "", "sender": "x", "message_type": "sensor_data", "priority": 1}, "payload": {}}`
			g.publish(g.client("sensor"), "sensors/test/data", message.NewRaw([]byte(broken)))
			eventually(g.t, "it is rejected", func() bool { return len(g.mission.Client().Stats().Rejected) > 0 })
		}, want: []string{"warning messages: messages-rejected"}},
		{name: "rights that somebody lacks", options: deny("intruder", denied{publish: "lawnberry/power/"}), seed: func(g *garden) {
			var refused *client.RefusedError
			if err := g.client("intruder").Publish(g.t.Context(), "power/solar", reading(g.t, "intruder")); !errors.As(err, &refused) {
				g.t.Errorf("got %v", err)
			}
		}, want: []string{"warning rights: rights-denied"}},
	}
}

// untabled are the kinds that scripts of the command seed, as that takes a process of its own.
func untabled() []string { return []string{"store-failing"} }

// Each fault is seeded for real in a mower that is in order else, and exactly what it is is found.
func TestFaults(t *testing.T) {
	all := slices.Concat(fileFaults(), fleetFaults(), brokerFaults(), serviceFaults(), trafficFaults())
	seen := map[string]bool{}
	for _, f := range all {
		for _, w := range f.want {
			_, id, _ := strings.Cut(w, ": ")
			seen[id] = true
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			f.find(t)
		})
	}
	for k := range doctor.Kinds() {
		if !seen[k.ID] && !slices.Contains(untabled(), k.ID) {
			t.Errorf("no fault here is a %s", k.ID)
		}
	}
	t.Logf("%d faults", len(all))
}

func (f fault) find(t *testing.T) {
	g := &garden{t: t, dir: filepath.Join(t.TempDir(), "data")}
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	g.load(f.config)
	if f.files != nil {
		f.files(g)
	}
	if !f.bare {
		g.startBroker(f.options)
		if !f.stop {
			g.startHub()
		}
		g.startMission()
	}
	if f.seed != nil {
		f.seed(g)
	}
	if g.url != "" {
		g.o.Client.URL = g.url
	}
	// What is said under $SYS, and by services, comes when it comes; but what is found in the end is all and only this.
	var found []string
	var r doctor.Report
	for end := time.Now().Add(time.Minute); ; {
		if found, r = g.examine(); slices.Equal(found, f.want) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("found %q, want %q:\n%+v", found, f.want, r.Findings)
		}
	}
	if broken := slices.ContainsFunc(f.want, func(w string) bool { return strings.HasPrefix(w, "error ") }); r.OK == broken {
		t.Errorf("OK is %v with %q", r.OK, found)
	}
	if f.says != "" && !slices.ContainsFunc(r.Findings, func(x doctor.Finding) bool { return strings.Contains(x.What+x.Fix, f.says) }) {
		t.Errorf("none says %q: %+v", f.says, r.Findings)
	}
}

// A mower that runs has nothing: lawnberry serve with all that it may run beside, and the services of the demo.
func TestHealthy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	c := config.Default()
	c.Broker.Port = 0
	a, err := app.Start(t.Context(), app.Options{Config: c, DataDir: dir, Demo: &demo.Options{Alone: true}})
	if err != nil {
		t.Fatal(err)
	}
	g := &garden{t: t, dir: dir}
	g.ends("app", a.Stop)
	visitors := []string{"stop-engaged", "stop-held"} // people come near the simulated mower, and it stops as it should
	healthy := 0
	for end := time.Now().Add(3 * time.Minute); healthy < 2; {
		g.load("")
		g.o.Client.URL, g.o.Listen = a.URL(), 2*time.Second
		found, r := g.examine()
		if len(found) == 0 {
			healthy++
		} else if time.Now().After(end) || slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool { return !slices.Contains(visitors, f.ID) }) {
			t.Fatalf("found %+v", r.Findings)
		}
		if r.Figures.Services != 8 || r.Figures.RoundTripMS <= 0 || r.Figures.ExactlyMS <= 0 || r.Figures.SyncMS <= 0 || r.Figures.MQTT != "5.0" {
			t.Errorf("figures %+v", r.Figures)
		}
		if len(r.Bus.Services) < 8 || len(r.Bus.Topics) < 20 || r.Bus.Stop == nil || r.Bus.Sys["version"] == "" {
			t.Errorf("heard %d services and %d topics, the stop %v", len(r.Bus.Services), len(r.Bus.Topics), r.Bus.Stop)
		}
	}
}

// What --json prints has these names, which programs rely on.
func TestJSON(t *testing.T) {
	r := doctor.Report{Findings: []doctor.Finding{{}}, Figures: doctor.Figures{MQTT: "5.0", Waiting: 1}, Bus: &doctor.Bus{}}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"ok":false,"findings":[{"id":"","severity":"","check":"","what":"","why":"","fix":"","command":""}],` +
		`"figures":{"broker":"","mqtt":"5.0","round_trip_qos0_ms":0,"round_trip_qos2_ms":0,"fsync_ms":0,"free_mb":0,"services":0,` +
		`"clock_difference_ms":null,"messages_dropped":0,"messages_waiting":1}}`
	if string(text) != want {
		t.Errorf("got %s", text)
	}
}
