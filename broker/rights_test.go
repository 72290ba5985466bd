package broker

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// ruled are options of a broker whose clients are who their user names say, and may do what the rules say. set replaces the rules.
func ruled(t testing.TB, services []access.Service, rules ...access.Rule) (o Options, set func(rules ...access.Rule)) {
	t.Helper()
	bus, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var now *access.Bus
	set = func(rules ...access.Rule) {
		t.Helper()
		next, err := access.NewBus(bus, services, rules)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		now = next
	}
	set(rules...)
	o.Identify = func(_ context.Context, l Login) (Identity, error) {
		name, _, _ := strings.Cut(l.Username, ":")
		return Identity{User: name}, nil
	}
	o.Authorize = func(l Login, _ Identity) (Rights, error) {
		mu.Lock()
		defer mu.Unlock()
		name, role, _ := strings.Cut(l.Username, ":")
		if name == "gone" {
			return nil, errors.New("gone")
		}
		return now.Client(now.Subject(name, l.ClientID, role))
	}
	return o, set
}

func user(name string) choice {
	return func(p *packet.Connect) { p.HasUser, p.Username = true, []byte(name) }
}

// gathered returns the payloads of all messages that are on their way to c at QoS 0.
func (c *raw) gathered() (payloads []string) {
	c.t.Helper()
	c.send(&packet.Pingreq{})
	for {
		p, err := c.next()
		if err != nil {
			c.t.Fatal(err)
		}
		switch p := p.(type) {
		case *packet.Publish:
			payloads = append(payloads, fmt.Sprintf("%s=%s", p.Topic, p.Payload))
		case *packet.Pingresp:
			return payloads
		default:
			c.t.Fatalf("got %s", describe(p))
		}
	}
}

// An oracle decides by the rules in its own way: filters as regular expressions.
type oracle []access.Rule

func (o oracle) allows(identity, role, clientID string, verb access.Verb, name string) bool {
	for _, r := range o {
		if r.Identity != "" && r.Identity != identity || r.Role != "" && r.Role != role || r.Verbs&verb == 0 {
			continue
		}
		f := strings.NewReplacer("%u", identity, "%c", clientID).Replace(r.Filter)
		if matches(f, name) {
			return r.Allow
		}
	}
	return false
}

// matches is topic.Match by a regular expression.
func matches(filter, name string) bool {
	x := regexp.QuoteMeta(filter)
	x = strings.ReplaceAll(x, `\+`, `[^/]*`)
	if rest, ok := strings.CutSuffix(x, "/#"); ok {
		x = rest + `(/.*)?`
	} else if x == "#" {
		x = `.*`
	}
	if strings.HasPrefix(name, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	return regexp.MustCompile("^" + x + "$").MatchString(name)
}

// Who may do what, by every way into the broker and both versions, against an oracle that reads the same rules in another way: nobody
// gets what is not theirs, and nobody is refused what is.
//
// Seen failing when enqueue does not ask, when onPublish does not, and when a wide subscription is taken for the right to all of it.
func TestAccessMatrix(t *testing.T) {
	t.Parallel()
	services := []access.Service{
		{ID: "blade", Type: "actuator", Publish: []string{"sensors/blade/+"}, Subscribe: []string{"weather/#"}},
		{ID: "navigation", Type: "navigation", Dependencies: []string{"blade"}, Publish: []string{"navigation/+"}, Subscribe: []string{"sensors/+/data", "vision/detections"}},
	}
	own := []access.Rule{
		{Identity: "navigation", Verbs: access.Subscribe, Filter: "lawnberry/vision/detections", Source: "no cameras"},
		{Role: "operator", Verbs: access.Subscribe, Filter: "lawnberry/system/logs/+", Source: "no logs"},
		{Identity: "guest", Allow: true, Verbs: access.Subscribe, Filter: "lawnberry/sensors/+/data", Source: "guests"},
		{Identity: "guest", Allow: true, Verbs: access.All, Filter: "guests/%c/#", Source: "guests"},
		{Role: "operator", Allow: true, Verbs: access.Publish, Filter: "lawnberry/weather/+", Source: "forecasters"},
		{Role: "operator", Verbs: access.Publish, Filter: "lawnberry/system/health_check", Source: "nobody"}, // before what is generated
	}
	roles := map[string]string{"blade": "service", "navigation": "service", "guest": "", "ann": "operator", "vic": "viewer", "root": "admin"}
	names := []string{
		"lawnberry/commands/blade", "lawnberry/commands/navigation", "lawnberry/commands/actuator", "lawnberry/responses/navigation",
		"lawnberry/responses/ann", "lawnberry/sensors/blade/data", "lawnberry/sensors/gps/data", "lawnberry/sensors/blade/status",
		"lawnberry/navigation/position", "lawnberry/navigation", "lawnberry/vision/detections", "lawnberry/weather/current", "lawnberry/weather/alerts",
		"lawnberry/weather", "lawnberry/system/services/blade/status", "lawnberry/system/services/navigation/status", "lawnberry/system/services/blade/commands",
		"lawnberry/system/events/x", "lawnberry/system/logs/error", "lawnberry/system/health", "lawnberry/system/health_check",
		"lawnberry/safety/emergency_stop", "lawnberry/safety/alerts/tilt", "lawnberry/safety/hazards", "lawnberry/other", "guests/guest/a", "guests/guest",
		"guests/other/a", "homeassistant/switch/x/config", "other",
	}
	filters := []string{"#", "+/+/+", "lawnberry/#", "lawnberry/+/#", "lawnberry/sensors/+/data", "$share/g/lawnberry/weather/#", "guests/#"}

	o, _ := ruled(t, services, own...)
	registry, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	generated, err := access.Generate(registry, services)
	if err != nil {
		t.Fatal(err)
	}
	truth := oracle(slices.Concat(own, generated))
	o.Listeners = everywhere(t)
	b := start(t, o)
	observer := connect(t, b, packet.V5, "root", user("root:admin"))
	if code := observer.subscribe("#", 0); code >= 0x80 {
		t.Fatal(code)
	}
	publisher := connect(t, b, packet.V5, "root-2", user("root:admin"))
	cells := 0
	for _, scheme := range []string{"tcp", "ssl", "ws", "wss", "unix"} {
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			for name, role := range roles {
				if name == "root" {
					continue // is connected
				}
				c := dial(t, b, scheme)
				if ack := c.connect(v, name, user(name+":"+role)); ack.Code != packet.Success {
					t.Fatalf("%s: %v", name, ack.Code)
				}
				where := fmt.Sprintf("%s %s %v", name, scheme, v)
				for i, n := range names {
					qos := byte(i % 3)
					allowed := truth.allows(name, role, name, access.Publish, n)
					code := c.publish(n, name, qos)
					if qos > 0 && v == packet.V5 && (code == packet.NotAuthorized) == allowed {
						t.Errorf("%s: publish %s: %v", where, n, code)
					}
					c.nothing() // QoS 0 is with the broker
					got := observer.gathered()
					if want := []string{n + "=" + name}; allowed && !slices.Equal(got, want) || !allowed && len(got) > 0 {
						t.Errorf("%s: publish %s at QoS %d, allowed %t: the others got %q", where, n, qos, allowed, got)
					}
					cells++
				}
				for _, f := range filters {
					_, inner, _ := topic.SplitShared(f)
					var want []string
					for _, n := range names {
						if matches(inner, n) && truth.allows(name, role, name, access.Subscribe, n) {
							want = append(want, n+"=x")
						}
						cells++
					}
					code := c.subscribe(f, 0)
					if code >= 0x80 && len(want) > 0 {
						t.Errorf("%s: subscribe %s: %v", where, f, code)
					}
					for _, n := range names {
						publisher.publish(n, "x", 1)
					}
					got := c.gathered()
					slices.Sort(got) // safety overtakes
					slices.Sort(want)
					if !slices.Equal(got, want) {
						t.Errorf("%s: subscribed to %s (%v):\n got %q\nwant %q", where, f, code, got, want)
					}
					c.unsubscribe(f)
					observer.gathered()
				}
				c.leave(name)
			}
		}
	}
	t.Logf("%d cells", cells)
}

// What was retained goes to those who may have it, and a right that is taken away holds for what is queued already.
func TestRightsChange(t *testing.T) {
	t.Parallel()
	allow := func(identity, filter string) access.Rule {
		return access.Rule{Identity: identity, Allow: true, Verbs: access.Publish | access.Subscribe, Filter: filter}
	}
	o, set := ruled(t, nil, allow("a", "x/#"), allow("a", "y/#"), allow("b", "#"))
	b := start(t, o)
	a := connect(t, b, packet.V5, "a", user("a"), keep)
	other := connect(t, b, packet.V5, "b", user("b"))
	for _, n := range []string{"x/1", "y/1", "z/1"} {
		other.publish(n, "kept", 1, func(p *packet.Publish) { p.Retain = true })
	}
	if code := a.subscribe("#", 0); code >= 0x80 {
		t.Fatal(code)
	}
	if got := slices.Sorted(slices.Values(a.gathered())); !slices.Equal(got, []string{"x/1=kept", "y/1=kept"}) {
		t.Errorf("retained: %q", got)
	}
	a.subscribe("#", 1, func(s *packet.Subscription) { s.RetainHandling = 2 })
	a.leave("a")
	for i := range 3 {
		for _, n := range []string{"x/1", "y/1", "z/1"} {
			other.publish(n, fmt.Sprint(i), 1)
		}
	}
	set(allow("a", "y/#"), allow("b", "#"))
	b.Reauthorize()
	other.publish("x/1", "3", 1)
	a = connect(t, b, packet.V5, "a", user("a"), keep)
	a.gathered1("y/1=0", "y/1=1", "y/1=2")
	if b.Stats().Denied < 3 {
		t.Errorf("%d denied", b.Stats().Denied)
	}
	if code := a.publish("x/1", "", 1); code != packet.NotAuthorized {
		t.Errorf("publish: %v", code)
	}
	if code := a.subscribe("x/1", 1); code != packet.NotAuthorized {
		t.Errorf("subscribe: %v", code)
	}
}

// gathered1 acknowledges what comes at QoS 1, which must be this.
func (c *raw) gathered1(want ...string) {
	c.t.Helper()
	var got []string
	for range want {
		p := expect[*packet.Publish](c)
		got = append(got, fmt.Sprintf("%s=%s", p.Topic, p.Payload))
		c.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("got %q, want %q", got, want)
	}
	c.nothing()
}

// A right that is taken away holds for what is in flight: it is not sent again.
func TestRightsOfWhatIsInFlight(t *testing.T) {
	t.Parallel()
	everything := access.Rule{Allow: true, Verbs: access.All, Filter: "#"}
	o, set := ruled(t, nil, everything)
	b := start(t, o)
	other := connect(t, b, packet.V5, "b", user("b"))
	a := connect(t, b, packet.V5, "a", user("a"), keep)
	a.subscribe("+", 2)
	other.publish("secret", "1", 1)
	other.publish("secret", "2", 2)
	other.publish("open", "3", 1)
	for range 3 {
		expect[*packet.Publish](a)
	}
	a.hangUp("a")
	set(access.Rule{Identity: "a", Verbs: access.Subscribe, Filter: "secret"}, everything)
	b.Reauthorize()
	a = connect(t, b, packet.V5, "a", user("a"), keep)
	a.gathered1("open=3")
}

// Of a shared subscription the members that may have a message get it.
func TestRightsOfSharedSubscriptions(t *testing.T) {
	t.Parallel()
	o, _ := ruled(t, nil,
		access.Rule{Identity: "a", Verbs: access.Subscribe, Filter: "x/secret"}, access.Rule{Allow: true, Verbs: access.All, Filter: "#"})
	b := start(t, o)
	one := connect(t, b, packet.V5, "a", user("a"))
	two := connect(t, b, packet.V5, "b", user("b"))
	for _, c := range []*raw{one, two} {
		if code := c.subscribe("$share/g/x/#", 0); code >= 0x80 {
			t.Fatal(code)
		}
	}
	publisher := connect(t, b, packet.V5, "p", user("p"))
	for range 10 {
		publisher.publish("x/secret", "", 1)
	}
	if n, m := len(one.gathered()), len(two.gathered()); n != 0 || m != 10 {
		t.Errorf("%d and %d messages", n, m)
	}
}

func TestRightsAtConnect(t *testing.T) {
	t.Parallel()
	services := []access.Service{{ID: "blade", Type: "actuator"}, {ID: "blade-top", Type: "actuator"}}
	everything := access.Rule{Allow: true, Verbs: access.All, Filter: "#"}
	o, set := ruled(t, services, access.Rule{Verbs: access.Publish, Filter: "secret"}, everything)
	b := start(t, o)
	refused := func(id string, choices ...choice) {
		t.Helper()
		c := dial(t, b, "tcp")
		if ack := c.connect(packet.V5, id, choices...); ack.Code != packet.NotAuthorized {
			t.Errorf("%s: %v %s", id, ack.Code, ack.Properties.ReasonString)
		}
		c.closes()
	}
	will := withWill(&packet.Will{Topic: []byte("secret"), Payload: []byte("x")})
	refused("a", user("a"), will)
	refused("x")                          // nobody
	refused("blade", user("a"))           // the name of a service
	refused("other", user("blade"))       // a service under another name
	refused("blade-top-1", user("blade")) // one of another service whose name is longer
	refused("a", user("gone"))            // unknown by now
	connect(t, b, packet.V5, "blade-2", user("blade")).leave("blade-2")

	a := connect(t, b, packet.V5, "mine", user("a"), keep)
	a.nothing()
	a.leave("mine")

	// A Will whose topic is forbidden meanwhile is not published.
	watcher := connect(t, b, packet.V5, "w", user("w"))
	watcher.subscribe("#", 0)
	c := connect(t, b, packet.V5, "c", user("c"), withWill(&packet.Will{Topic: []byte("last"), Payload: []byte("x")}))
	set(access.Rule{Verbs: access.Publish, Filter: "last"}, everything)
	b.Reauthorize()
	c.hangUp("c")
	if got := watcher.gathered(); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

// wide returns an ASCII text in UTF-16.
func wide(text string) string {
	var b []byte
	for i := range len(text) {
		b = append(b, text[i], 0)
	}
	return string(b)
}

// A service speaks for itself, and an emergency stop is ended by those who have the right.
func TestSenders(t *testing.T) {
	t.Parallel()
	services := []access.Service{{ID: "blade", Type: "actuator"}, {ID: "blade2", Type: "actuator"}, {ID: "safety", Type: "safety"}}
	o, _ := ruled(t, services)
	b := start(t, o)
	say := func(sender, payload string) string {
		return fmt.Sprintf(`{"metadata":{"timestamp":1763884800.1,"message_id":"m","sender":%q,"message_type":"event","priority":1},"payload":%s}`, sender, payload)
	}
	const stop, events = "lawnberry/safety/emergency_stop", "lawnberry/system/events/x"
	engage, release := `{"event_type":"s","context":{"engaged":true}}`, `{"event_type":"s","context":{"engaged":false}}`
	for _, tt := range []struct {
		user, topic, payload string
		allowed              bool
	}{
		{"blade", events, say("blade", `{"event_type":"x"}`), true},
		{"blade", events, say("safety", `{"event_type":"x"}`), false},
		{"blade", events, say("nobody", `{"event_type":"x"}`), false},
		{"blade", events, `{"metadata":{"sender":"blade","sender":"safety"},"payload":{}}`, false},
		{"blade", events, `{"metadata":{"sender":"safety"},"payload":{"x":NaN}}`, false},
		{"blade", events, "anything", true},
		{"blade", "lawnberry/commands/blade2", say("ann", `{"event_type":"x"}`), true}, // passed on
		{"blade", "lawnberry/commands/safety", say("blade", `{"event_type":"x"}`), false},
		{"ann:operator", "lawnberry/commands/blade", say("some-program", `{"event_type":"x"}`), true},
		{"ann:operator", "lawnberry/commands/blade", say("safety", `{"event_type":"x"}`), false},
		{"blade", stop, say("blade", engage), true},
		{"guest", stop, say("guest", engage), true},
		{"guest", stop, "stop", true},
		{"blade", stop, say("blade", release), false},
		{"blade", stop, say("blade", `{"event_type":"s","context":{"engaged":true,"Engaged":false}}`), false},
		{"blade", stop, say("blade", `{"event_type":"s","context":{"engaged":0}}`), false},
		{"blade", stop, say("blade", `{"event_type":"s","context":{"engaged":false},"context":{}}`), false},
		{"blade", stop, `{"event_type":"s","context":{"engaged":false}}`, false},
		{"blade", stop, `{"payload":{"context":{"engaged":false}}}`, false},
		{"blade", stop, `{"context":{"engaged":true,"drive":{"engaged":false}}}`, true},
		{"blade", stop, "\ufeff" + say("blade", release), false},
		{"blade", events, "\ufeff" + say("safety", `{"event_type":"x"}`), false},
		{"blade", events, wide(say("safety", `{"event_type":"x"}`)), false},
		{"blade", events, "\xff\xfe" + wide(say("safety", `{"event_type":"x"}`)), false},
		{"blade", events, "\x00\x01binary", true},
		{"blade", events, strings.Replace(say("blade", strings.Repeat("[", 100)+strings.Repeat("]", 100)), `"payload"`, `"metadata":{"sender":"blade"},"payload"`, 1), false},
		{"blade", stop, "", false},
		{"blade", stop, `{"x":NaN,"context":{"engaged":false}}`, false},
		{"blade", stop, `{"x":NaN,"context":{"\u0065ngaged":false}}`, false},
		{"blade", stop, `{"x":NaN,"why":"lifted"}`, true},
		{"blade", stop, strings.Replace(say("blade", engage), `"priority"`, `"expires_at":1763884801,"priority"`, 1), false}, // it ends by itself
		{"blade", stop, "\x8cLE\x01\x01k", false},                                                                            // encrypted: it could be a release
		{"root:admin", stop, "", true},
		{"root:admin", stop, say("root", release), true},
	} {
		name, _, _ := strings.Cut(tt.user, ":")
		c := connect(t, b, packet.V5, name, user(tt.user))
		if code := c.publish(tt.topic, tt.payload, 1); (code < 0x80) != tt.allowed {
			t.Errorf("%s on %s: %s: %v", tt.user, tt.topic, tt.payload, code)
		}
		c.leave(name)
	}
}

// Rights that change while a client is being let in hold for it too: without asking again it keeps those of before for as long as it stays.
func TestRightsChangeDuringConnect(t *testing.T) {
	t.Parallel()
	for _, resumed := range []bool{false, true} {
		everything := access.Rule{Allow: true, Verbs: access.All, Filter: "#"}
		o, set := ruled(t, nil, everything)
		ask := o.Authorize
		var b *Broker
		var armed atomic.Bool
		armed.Store(!resumed)
		o.Authorize = func(l Login, who Identity) (Rights, error) {
			r, err := ask(l, who)
			if armed.CompareAndSwap(true, false) {
				set(access.Rule{Verbs: access.All, Filter: "secret"}, everything)
				b.Reauthorize()
			}
			return r, err
		}
		b = start(t, o)
		if resumed {
			connect(t, b, packet.V5, "a", user("a"), keep).leave("a")
			armed.Store(true)
		}
		a := connect(t, b, packet.V5, "a", user("a"), keep)
		if code := a.publish("secret", "x", 1); code != packet.NotAuthorized {
			t.Errorf("resumed %v: got %v", resumed, code)
		}
	}
}

// An emergency stop that takes the place of the retained one and expires would end it without the right to.
func TestEmergencyStopDoesNotFade(t *testing.T) {
	t.Parallel()
	o, _ := ruled(t, nil)
	b := start(t, o)
	const stop = "lawnberry/safety/emergency_stop"
	retained := func(p *packet.Publish) { p.Retain = true }
	expiring := func(p *packet.Publish) { p.Properties.MessageExpiry = packet.Some(uint32(1)) }
	for _, tt := range []struct {
		user    string
		options []func(*packet.Publish)
		allowed bool
	}{
		{"guest", []func(*packet.Publish){retained}, true},
		{"guest", []func(*packet.Publish){retained, expiring}, false},
		{"guest", []func(*packet.Publish){expiring}, true},
		{"root:admin", []func(*packet.Publish){retained, expiring}, true},
	} {
		name, _, _ := strings.Cut(tt.user, ":")
		c := connect(t, b, packet.V5, name, user(tt.user))
		if code := c.publish(stop, "stop", 1, tt.options...); (code < 0x80) != tt.allowed {
			t.Errorf("%s, %d options: %v", tt.user, len(tt.options), code)
		}
		c.leave(name)
	}
	c := dial(t, b, "tcp")
	will := &packet.Will{Topic: []byte(stop), Payload: []byte("stop"), Retain: true}
	will.Properties.MessageExpiry = packet.Some(uint32(1))
	if ack := c.connect(packet.V5, "guest", user("guest"), withWill(will)); ack.Code != packet.NotAuthorized {
		t.Errorf("its Will: %v", ack.Code)
	}
	c.closes()
}
