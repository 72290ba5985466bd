package enrol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take on a slow machine.
const patience = 2 * time.Minute

// start makes a fleet of so many nodes and runs its servers.
func start(t *testing.T, nodes int) (*Fleet, *natstest.Servers) {
	t.Helper()
	c := Config{Nodes: Nodes(slices.Repeat([]string{"127.0.0.1"}, nodes)...)}
	for i := range c.Nodes {
		c.Nodes[i].Client, c.Nodes[i].Cluster, c.Nodes[i].Monitor = natstest.Port(t), natstest.Port(t), natstest.Port(t)
	}
	f, err := Init(filepath.Join(t.TempDir(), "fleet"), c)
	if err != nil {
		t.Fatal(err)
	}
	var given []natstest.Given
	for _, n := range c.Nodes {
		given = append(given, natstest.Given{Dir: filepath.Join(f.dir, n.Name), Name: n.Name, Client: n.Client, Monitor: n.Monitor})
	}
	s := natstest.New(t, natstest.Options{Given: given})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := f.Setup(ctx, fleet.Limits{Mowers: 10}); err != nil {
		t.Fatal(err)
	}
	return f, s
}

func enrol(t *testing.T, f *Fleet, mower string) fleet.Engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e := f.Engine()
	e.Credentials = filepath.Join(t.TempDir(), mower+".creds")
	if _, err := f.Enrol(ctx, mower, e.Credentials, false); err != nil {
		t.Fatal(err)
	}
	return e
}

// A peer is a connection, and what the server has objected to on it.
type peer struct {
	*nats.Conn
	js jetstream.JetStream

	mu       sync.Mutex // guards objections
	objected []string
}

func connect(t *testing.T, e fleet.Engine, opts ...nats.Option) *peer {
	t.Helper()
	p := &peer{}
	c, err := e.DialNATS(t.Name(), append([]nats.Option{
		nats.RetryOnFailedConnect(false), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.objected = append(p.objected, err.Error())
		}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p.Conn = c
	if p.js, err = jetstream.New(c); err != nil {
		t.Fatal(err)
	}
	return p
}

func connectMower(t *testing.T, e fleet.Engine, mower string, opts ...nats.Option) *peer {
	t.Helper()
	return connect(t, e, append(opts, nats.CustomInboxPrefix(fleet.InboxPrefix(mower)))...)
}

// objections returns what the server has objected to since it was called last. The last thing that a mower may not do is done here, so that all before
// it was judged.
func (p *peer) objections(t *testing.T) []string {
	t.Helper()
	const last = "the.last"
	if err := p.Publish(last, nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	until(t, "the last objection", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		i := slices.IndexFunc(p.objected, func(text string) bool { return strings.Contains(text, last) })
		if i < 0 {
			return false
		}
		got, p.objected = p.objected[:i:i], nil
		return true
	})
	return got
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + ": never")
		}
	}
}

// request is a request whose answer is read as it is.
func (p *peer) request(t *testing.T, subject string, body []byte) (*nats.Msg, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return p.RequestWithContext(ctx, subject, body)
}

// A mower can do what the uplink needs, with nothing but its credentials.
//
// Seen failing without the share of each right.
func TestMowersOwnRights(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			t.Parallel()
			f, s := start(t, nodes)
			operator := connect(t, f.Engine())
			e := enrol(t, f, "a")
			m := connectMower(t, e, "a")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()

			// History, and what was there last.
			for _, topic := range []string{"safety/alerts/tilt", "weather/alerts", "system/events/x", "fleet/losses", "navigation/position", "power/battery", "sensors/gps/data", "vision/detections", "weather/current", "system/health"} {
				subject := fleet.HistorySubject("a", topic)
				ack, err := m.js.Publish(ctx, subject, []byte("{}"), jetstream.WithMsgID("1"+topic), jetstream.WithExpectLastSequencePerSubject(0))
				if err != nil {
					t.Errorf("%s: %v", topic, err)
					continue
				}
				if again, err := m.js.Publish(ctx, subject, []byte("{}"), jetstream.WithMsgID("1"+topic)); err != nil || !again.Duplicate {
					t.Errorf("%s: the same again: %+v, %v", topic, again, err)
				}
				got, err := m.request(t, "$JS.API.DIRECT.GET."+ack.Stream+"."+subject, nil)
				if err != nil || got.Header.Get("Nats-Msg-Id") != "1"+topic || got.Header.Get(jetstream.SequenceHeader) != fmt.Sprint(ack.Sequence) {
					t.Errorf("%s: the last message: %+v, %v", topic, got, err)
				}
			}

			// Latest values and presence, also what takes it away.
			if _, err := m.js.Publish(ctx, "$KV."+fleet.BucketState+"."+fleet.StateKey("a", "power/battery"), []byte("1")); err != nil {
				t.Error(err)
			}
			presence, err := operator.js.KeyValue(ctx, fleet.BucketPresence)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.js.Publish(ctx, "$KV."+fleet.BucketPresence+".a", []byte("{}")); err != nil {
				t.Error(err)
			}
			if _, err := presence.Get(ctx, "a"); err != nil {
				t.Error(err)
			}
			gone := nats.NewMsg("$KV." + fleet.BucketPresence + ".a")
			gone.Header.Set("KV-Operation", "DEL")
			if _, err := m.js.PublishMsg(ctx, gone); err != nil {
				t.Error(err)
			}
			if _, err := presence.Get(ctx, "a"); !errors.Is(err, jetstream.ErrKeyNotFound) {
				t.Error(err)
			}

			// Commands from every node, with an answer, and at once without anybody there.
			sub, err := m.Subscribe(fleet.CommandFilter("a"), func(r *nats.Msg) { _ = r.Respond(append([]byte("done "), r.Data...)) })
			if err != nil {
				t.Fatal(err)
			}
			if got := m.objections(t); len(got) != 0 {
				t.Error(got)
			}
			for i := range s.Len() {
				e := f.Engine()
				e.URL = strings.Split(e.URL, ",")[i]
				o := connect(t, e)
				var got *nats.Msg
				until(t, "a command is answered", func() bool {
					got, err = o.request(t, fleet.CommandSubject("a", "navigation"), []byte("dock"))
					return !errors.Is(err, nats.ErrNoResponders) // the subscription may not have got about
				})
				if err != nil || string(got.Data) != "done dock" {
					t.Errorf("%+v, %v", got, err)
				}
			}
			if err := sub.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
			if got := m.objections(t); len(got) != 0 {
				t.Error(got)
			}
			until(t, "nobody is there", func() bool {
				_, err := operator.request(t, fleet.CommandSubject("a", "navigation"), nil)
				return errors.Is(err, nats.ErrNoResponders)
			})

			// Jobs: heard of from every node, read, and changed on the condition that nobody else has.
			box, err := fleet.NewJobBox(m.Conn, "a")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := box.Read(ctx); err != nil || got.Sequence != 0 || got.Body != nil {
				t.Errorf("no jobs: %+v, %v", got, err)
			}
			nudges, err := m.SubscribeSync(fleet.JobNudge("a"))
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Flush(); err != nil {
				t.Fatal(err)
			}
			for i := range s.Len() {
				e := f.Engine()
				e.URL = strings.Split(e.URL, ",")[i]
				o := connect(t, e)
				until(t, "a nudge comes", func() bool {
					if err := o.Publish(fleet.JobNudge("a"), nil); err != nil {
						t.Fatal(err)
					}
					_, err := nudges.NextMsg(100 * time.Millisecond) // the subscription may not have got about
					return err == nil
				})
			}
			ack, err := operator.js.Publish(ctx, fleet.JobListSubject("a"), []byte("a job"))
			if err != nil {
				t.Fatal(err)
			}
			until(t, "the mower sees its jobs", func() bool { // any replica answers
				got, err := box.Read(ctx)
				return err == nil && got.Sequence == ack.Sequence && string(got.Body) == "a job"
			})
			changed := &fleet.JobsChangedError{}
			if _, err := box.Write(ctx, []byte("begun"), ack.Sequence+1); !errors.As(err, &changed) || !changed.Known || changed.Last != ack.Sequence {
				t.Errorf("of another list: %v", err)
			}
			sequence, err := box.Write(ctx, []byte("begun"), ack.Sequence)
			if err != nil || sequence <= ack.Sequence {
				t.Errorf("%d, %v", sequence, err)
			}
			if _, err := box.Write(ctx, nil, sequence); err != nil {
				t.Error(err)
			}
			jobs, err := operator.js.KeyValue(ctx, fleet.BucketJobs)
			if err != nil {
				t.Fatal(err)
			}
			until(t, "the jobs are gone", func() bool {
				_, err := jobs.Get(ctx, "a")
				return errors.Is(err, jetstream.ErrKeyNotFound)
			})
			if got := m.objections(t); len(got) != 0 {
				t.Error(got)
			}
		})
	}
}

// No mower reads or writes what is another's, nor gives commands or jobs, nor changes the engine. Nobody does without credentials.
//
// What goes by way of answers was possible, when it was tried by hand, to users of one account with the same permissions.
func TestMatrix(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			t.Parallel()
			f, s := start(t, nodes)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			operator := connect(t, f.Engine())
			engines := map[string]fleet.Engine{"a": enrol(t, f, "a"), "b": enrol(t, f, "b")}
			before := fill(t, operator)
			each := func(try func(e fleet.Engine, me, other string)) {
				for me, other := range map[string]string{"a": "b", "b": "a"} {
					for i := range s.Len() {
						e := engines[me]
						e.URL = strings.Split(e.URL, ",")[i]
						try(e, me, other)
					}
				}
			}
			each(func(e fleet.Engine, me, other string) { subscribes(t, e, operator, me, other) })
			heard, err := operator.SubscribeSync(">")
			if err != nil {
				t.Fatal(err)
			}
			if err := operator.Flush(); err != nil {
				t.Fatal(err)
			}
			each(func(e fleet.Engine, me, other string) { publishes(t, e, me, other) })
			each(func(e fleet.Engine, me, other string) { asks(t, e, me, other) })
			each(func(e fleet.Engine, me, other string) { answers(t, e, me, other) })
			stranger := f.Engine()
			for _, tt := range []struct{ name, creds string }{
				{"nobody", ""},
				{"somebody with a password", "me\nhimself\n"},
				{"a user of another operator", foreign(t, "a")},
			} {
				stranger.Credentials = ""
				if tt.creds != "" {
					stranger.Credentials = filepath.Join(t.TempDir(), "creds")
					if err := os.WriteFile(stranger.Credentials, []byte(tt.creds), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if c, err := stranger.DialNATS("stranger", nats.RetryOnFailedConnect(false)); err == nil {
					t.Errorf("%s is let in", tt.name)
					c.Close()
				} else if !errors.Is(err, nats.ErrAuthorization) {
					t.Errorf("%s: %v", tt.name, err)
				}
			}

			// What the operator sees of all that: each mower's records of its own, and nothing else.
			if err := operator.Flush(); err != nil {
				t.Fatal(err)
			}
			// What should not be there may be on its way: it comes before what each mower says now at the same nodes.
			fences := map[string]bool{}
			each(func(e fleet.Engine, me, _ string) {
				m := connectMower(t, e, me)
				defer m.Close()
				text := "fence " + e.URL
				fences[me+text] = true
				if err := errors.Join(m.Publish(fleet.HistorySubject(me, "system/events/fence"), []byte(text)), m.Flush()); err != nil {
					t.Fatal(err)
				}
			})
			for len(fences) > 0 {
				m, err := heard.NextMsg(patience)
				if err != nil {
					t.Fatalf("%v did not come: %v", fences, err)
				}
				if me, _, err := fleet.ParseHistorySubject(m.Subject); err == nil {
					delete(fences, me+string(m.Data))
				}
				if strings.HasPrefix(m.Subject, "_R_.") {
					continue // on the way to who has asked
				}
				if strings.Contains(string(m.Data), "evil") || strings.HasPrefix(m.Subject, "$JS.API.STREAM") || strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.DELETE") ||
					strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.CREATE") || strings.HasPrefix(m.Subject, "$JS.ACK.") || strings.Contains(m.Subject, ".commands.") || strings.HasSuffix(m.Subject, ".jobs") ||
					strings.Contains(m.Subject, ".jobs.") || !own(m) {
					t.Errorf("FLEET has got %s %q (reply %q)", m.Subject, m.Data, m.Reply)
				}
			}
			for subject, want := range before {
				stream, err := operator.js.StreamNameBySubject(ctx, subject)
				if err != nil {
					t.Fatal(err)
				}
				st, err := operator.js.Stream(ctx, stream)
				if err != nil {
					t.Fatal(err)
				}
				got, err := st.GetLastMsgForSubject(ctx, subject)
				if err != nil || string(got.Data) != want {
					t.Errorf("%s has changed: %v, %v", subject, got, err)
				}
			}
		})
	}
}

// own reports whether a record says the truth about whom it is from.
func own(m *nats.Msg) bool {
	var r struct{ From string }
	if json.Unmarshal(m.Data, &r) != nil || r.From == "" {
		return true
	}
	return strings.HasPrefix(m.Subject, "lawnberry."+r.From+".")
}

// fill puts something of both mowers everywhere, and returns it by subject.
func fill(t *testing.T, operator *peer) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, mower := range []string{"a", "b"} {
		for _, subject := range []string{
			fleet.HistorySubject(mower, "safety/alerts/kept"), fleet.HistorySubject(mower, "system/events/kept"), fleet.HistorySubject(mower, "power/battery"),
			"$KV." + fleet.BucketState + "." + mower + ".power.battery", fleet.JobListSubject(mower),
		} {
			all[subject] = "secret of " + mower
			if _, err := operator.js.Publish(t.Context(), subject, []byte(all[subject])); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// foreign returns credentials of a mower as another operator would make them.
func foreign(t *testing.T, mower string) string {
	t.Helper()
	f, err := Init(filepath.Join(t.TempDir(), "other"), Config{Nodes: Nodes("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	creds, _, err := mowerUser(mower, f.account)
	if err != nil {
		t.Fatal(err)
	}
	return string(creds)
}

// publishes tries what a mower must not publish.
func publishes(t *testing.T, e fleet.Engine, me, other string) {
	t.Helper()
	m := connectMower(t, e, me)
	defer m.Close()
	for _, subject := range []string{
		fleet.HistorySubject(other, "power/battery"), fleet.HistorySubject(other, "safety/alerts/kept"), fleet.HistorySubject("c", "power/battery"),
		"$KV." + fleet.BucketState + "." + other + ".power.battery", "$KV." + fleet.BucketState + "." + me, "$KV." + fleet.BucketPresence + "." + other,
		"$KV." + fleet.BucketMowers + "." + me, "$KV." + fleet.BucketMowers + "." + other,
		fleet.CommandSubject(other, "navigation"), fleet.CommandSubject(other, fleet.StopService), fleet.CommandSubject(me, "navigation"),
		fleet.JobNudge(other), fleet.JobNudge(me), fleet.JobNudge(me) + ".x", fleet.JobListSubject(other), fleet.JobListSubject(me) + ".x",
		"$KV." + fleet.BucketJobs,
		"$JS.ACK.KV_" + fleet.BucketJobs + "." + me + ".1.2.2.1.0", "_INBOX.x", "_INBOX_" + other + ".x", "_R_.x", "$SYS.REQ.CLAIMS.UPDATE",
		"$SYS.REQ.SERVER.PING",
		"lawnberry", "lawnberry." + me, "x",
	} {
		if err := m.Publish(subject, []byte(`evil`)); err != nil {
			t.Fatal(err)
		}
		if got := m.objections(t); len(got) != 1 || !strings.Contains(got[0], "Permissions Violation for Publish") {
			t.Errorf("%s publishes %s: %v", me, subject, got)
		}
	}
}

// subscribes tries what a mower must not hear.
func subscribes(t *testing.T, e fleet.Engine, operator *peer, me, other string) {
	t.Helper()
	m := connectMower(t, e, me)
	defer m.Close()
	for _, subject := range []string{
		fleet.CommandFilter(other), fleet.CommandSubject(other, "navigation"), "lawnberry.*.commands.>", "lawnberry.>", "lawnberry." + other + ".>", "lawnberry.*.*.navigation", ">", "*", "*.>", "*.*.commands.*",
		"_INBOX_" + other + ".>", "_INBOX.>", "_INBOX_*.>", "$KV.>", "$KV." + fleet.BucketState + "." + other + ".>", "$JS.>", "$JS.EVENT.ADVISORY.>", "$SYS.>", "_R_.>",
		fleet.JobNudge(other), fleet.JobNudge("*"), fleet.JobNudge(other) + ".>", fleet.JobListSubject(other), fleet.JobListSubject(me),
		fleet.JobListSubject("*"), "lawnberry." + me + ".>",
	} {
		sub, err := m.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.objections(t); len(got) != 1 || !strings.Contains(got[0], "Permissions Violation for Subscription") {
			t.Errorf("%s subscribes to %s: %v", me, subject, got)
		}
		_ = sub.Unsubscribe()
	}
	// Also with a queue group, which has a permission of its own.
	if _, err := m.QueueSubscribeSync(fleet.CommandFilter(other), "q"); err != nil {
		t.Fatal(err)
	}
	if got := m.objections(t); len(got) != 1 {
		t.Errorf("%s subscribes in a group: %v", me, got)
	}
	if _, err := operator.request(t, fleet.CommandSubject(other, "navigation"), nil); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("somebody hears commands for %s: %v", other, err)
	}
	if _, err := operator.request(t, fleet.JobNudge(other), nil); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("somebody hears of the jobs of %s: %v", other, err)
	}
}

// asks tries what a mower must not ask JetStream.
func asks(t *testing.T, e fleet.Engine, me, other string) {
	t.Helper()
	m := connectMower(t, e, me)
	defer m.Close()
	jobs := "KV_" + fleet.BucketJobs
	create := func(name, filter string, more string) []byte {
		return []byte(fmt.Sprintf(`{"stream_name":%q,"action":"","config":{"name":%q,"durable_name":%q,"ack_policy":"explicit","filter_subject":%q%s}}`, jobs, name, name, filter, more))
	}
	type question struct {
		subject string
		body    []byte
	}
	questions := []question{
		{"$JS.API.INFO", nil}, {"$JS.API.STREAM.NAMES", nil}, {"$JS.API.STREAM.LIST", nil}, {"$JS.API.STREAM.CREATE.X", []byte(`{"name":"X","subjects":["x"]}`)},
		{"$JS.API.DIRECT.GET." + fleet.StreamAlerts + "." + fleet.HistorySubject(other, "safety/alerts/kept"), nil},
		{"$JS.API.DIRECT.GET." + fleet.StreamAlerts, []byte(`{"last_by_subj":"` + fleet.HistorySubject(other, "safety/alerts/kept") + `"}`)},
		{"$JS.API.DIRECT.GET." + fleet.StreamAlerts, []byte(`{"seq":1}`)},
		{"$JS.API.DIRECT.GET.KV_" + fleet.BucketState + ".$KV." + fleet.BucketState + "." + other + ".power.battery", nil},
		{"$JS.API.DIRECT.GET.KV_" + fleet.BucketMowers + ".$KV." + fleet.BucketMowers + "." + other, nil},
		{fleet.JobListQuestion(other), nil}, {fleet.JobListQuestion("*"), nil}, {fleet.JobListQuestion(">"), nil},
		{"$JS.API.DIRECT.GET." + jobs, []byte(`{"last_by_subj":"` + fleet.JobListSubject(me) + `"}`)},
		{"$JS.API.DIRECT.GET." + jobs, []byte(`{"multi_last":["` + fleet.JobListSubject("*") + `"]}`)},
		{"$JS.API.STREAM.MSG.GET." + jobs, []byte(`{"last_by_subj":"` + fleet.JobListSubject(me) + `"}`)},
		{"$JS.API.CONSUMER.MSG.NEXT." + jobs + "." + me, []byte(`{"batch":1,"no_wait":true}`)},
		{"$JS.API.STREAM.MSG.GET." + fleet.StreamAlerts, []byte(`{"seq":1}`)},
		{"$JS.API.CONSUMER.INFO." + jobs + "." + other, nil}, {"$JS.API.CONSUMER.INFO." + jobs + "." + me, nil}, {"$JS.API.CONSUMER.NAMES." + jobs, nil}, {"$JS.API.CONSUMER.LIST." + jobs, nil},
		{"$JS.API.CONSUMER.MSG.NEXT." + jobs + "." + other, []byte(`{"batch":1,"no_wait":true}`)},
		{"$JS.API.CONSUMER.DELETE." + jobs + "." + other, nil}, {"$JS.API.CONSUMER.DELETE." + jobs + "." + me, nil},
		{"$JS.API.CONSUMER.PAUSE." + jobs + "." + other, []byte(`{"pause_until":"2099-01-01T00:00:00Z"}`)},
		{"$JS.API.CONSUMER.CREATE." + jobs + "." + me + "." + fleet.JobListSubject(me), create(me, fleet.JobListSubject(me), "")},
		{"$JS.API.CONSUMER.CREATE." + jobs + "." + me + "." + fleet.JobListSubject(me), create(me, fleet.JobListSubject(me), `,"deliver_subject":"`+fleet.CommandSubject(other, "navigation")+`"`)},
		{"$JS.API.CONSUMER.CREATE." + jobs + "." + me + "." + fleet.JobListSubject(other), create(me, fleet.JobListSubject(other), "")},
		{"$JS.API.CONSUMER.CREATE." + jobs + "." + other + "." + fleet.JobListSubject(other), create(other, fleet.JobListSubject(other), "")},
		{"$JS.API.CONSUMER.CREATE." + jobs + ".evil", create("evil", fleet.JobListSubject(other), "")},
		{"$JS.API.CONSUMER.CREATE." + jobs, create("", fleet.JobListSubject(other), "")},
		{"$JS.API.CONSUMER.DURABLE.CREATE." + jobs + "." + me, create(me, fleet.JobListSubject(other), "")},
		{"$JS.API.CONSUMER.CREATE." + fleet.StreamAlerts + ".evil", []byte(`{"stream_name":"` + fleet.StreamAlerts + `","config":{"name":"evil","ack_policy":"none"}}`)},
	}
	for _, stream := range []string{fleet.StreamAlerts, fleet.StreamEvents, fleet.StreamTelemetry, jobs, "KV_" + fleet.BucketState, "KV_" + fleet.BucketPresence, "KV_" + fleet.BucketMowers} {
		for _, verb := range []string{"INFO", "PURGE", "DELETE", "UPDATE", "MSG.DELETE", "SNAPSHOT", "LEADER.STEPDOWN"} {
			questions = append(questions, question{"$JS.API.STREAM." + verb + "." + stream, nil})
		}
	}
	for _, q := range questions {
		inbox := m.NewInbox()
		sub, err := m.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.PublishRequest(q.subject, inbox, q.body); err != nil {
			t.Fatal(err)
		}
		if got := m.objections(t); len(got) != 1 || !strings.Contains(got[0], "Permissions Violation for Publish") {
			t.Errorf("%s asks %s %s: %v", me, q.subject, q.body, got)
		}
		_ = sub.Unsubscribe()
	}
	// What it may ask, with bodies and headers that mean others.
	for _, q := range []question{
		{"$JS.API.DIRECT.GET." + fleet.StreamAlerts + "." + fleet.HistorySubject(me, "safety/alerts/kept"), []byte(`{"last_by_subj":"` + fleet.HistorySubject(other, "safety/alerts/kept") + `"}`)},
		{"$JS.API.DIRECT.GET." + fleet.StreamAlerts + "." + fleet.HistorySubject(me, "safety/>"), []byte(`{"multi_last":["lawnberry.>"]}`)},
		{fleet.JobListQuestion(me), []byte(`{"last_by_subj":"` + fleet.JobListSubject(other) + `"}`)},
		{fleet.JobListQuestion(me), []byte(`{"multi_last":["` + fleet.JobListSubject("*") + `"],"batch":100}`)},
		{fleet.JobListQuestion(me), []byte(`{"seq":1,"batch":100,"next_by_subj":"` + fleet.JobListSubject("*") + `"}`)},
	} {
		sub, err := m.SubscribeSync(m.NewInbox())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.PublishRequest(q.subject, sub.Subject, q.body); err != nil {
			t.Fatal(err)
		}
		got, err := sub.NextMsg(patience)
		for ; err == nil; got, err = sub.NextMsg(500 * time.Millisecond) {
			if strings.Contains(string(got.Data), "secret of "+other) {
				t.Errorf("%s asks %s %s and gets %q", me, q.subject, q.body, got.Data)
			}
		}
		_ = sub.Unsubscribe()
	}
	for header, value := range map[string]string{"Nats-Rollup": "all", "Nats-Expected-Stream": "X"} {
		for _, subject := range []string{fleet.HistorySubject(me, "safety/alerts/rollup"), "$KV." + fleet.BucketState + "." + me + ".rollup", "$KV." + fleet.BucketPresence + "." + me, fleet.JobListSubject(me)} {
			r := nats.NewMsg(subject)
			r.Header.Set(header, value)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if _, err := m.js.PublishMsg(ctx, r); err == nil {
				t.Errorf("%s publishes %s with %s: %s", me, subject, header, value)
			}
			cancel()
		}
	}
	m.objections(t)
}

// answers tries to have the server deliver answers where a mower may not publish: it chooses the reply, and of a stored record also what is in it.
func answers(t *testing.T, e fleet.Engine, me, other string) {
	t.Helper()
	m := connectMower(t, e, me)
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i, body := range []string{`{"from":"` + me + `"}`, ""} {
		record := nats.NewMsg(fleet.HistorySubject(me, fmt.Sprintf("safety/alerts/answer%d", i)))
		record.Data = []byte(body)
		record.Header.Set("Nats-Request-Info", `{"acc":"`+account+`"}`)
		if _, err := m.js.PublishMsg(ctx, record); err != nil {
			t.Fatal(err)
		}
		for _, reply := range []string{
			fleet.CommandSubject(other, fleet.StopService), fleet.CommandSubject(me, fleet.StopService), fleet.JobNudge(other), fleet.JobNudge(me),
			fleet.JobListSubject(other),
			fleet.HistorySubject(other, "power/battery"), fleet.HistorySubject(other, "safety/alerts/kept"),
			"$KV." + fleet.BucketState + "." + other + ".power.battery", "$KV." + fleet.BucketPresence + "." + other, "$KV." + fleet.BucketMowers + "." + other,
			"$JS.API.STREAM.PURGE." + fleet.StreamAlerts, "$JS.API.STREAM.DELETE." + fleet.StreamEvents, "$JS.API.STREAM.PURGE.KV_" + fleet.BucketState,
			"$JS.API.STREAM.PURGE.KV_" + fleet.BucketJobs, "$JS.API.STREAM.LEADER.STEPDOWN." + fleet.StreamAlerts,
			"_INBOX_" + other + ".x", "x",
		} {
			for _, subject := range []string{
				"$JS.API.DIRECT.GET." + fleet.StreamAlerts + "." + record.Subject, // the record
				fleet.HistorySubject(me, "safety/alerts/ack"),                     // an acknowledgement
				fleet.JobListQuestion(me),                                         // the jobs
			} {
				if err := m.PublishRequest(subject, reply, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	m.objections(t)
}
