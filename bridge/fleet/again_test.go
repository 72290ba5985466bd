package fleet

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/message"
)

// TestSaidAgain: the bus says a message again whose acknowledgement it did not get before the uplink was killed. The engine had acknowledged its record,
// and others were written since: it is known all the same.
//
// It was seen to fail while what is done with was deleted with whatever was written next.
func TestSaidAgain(t *testing.T) {
	t.Parallel()
	b := mustOpen(t, filepath.Join(t.TempDir(), "outbox"), Bounds{}, newClock())
	for i := range 100 {
		check(t, b.add(event("t", fmt.Sprint(i))))
		if got := everything(b)["t"]; len(got) != 1 {
			t.Fatalf("sent is %v", got)
		}
	}
	check(t, b.add(event("other", "x")))
	b = mustOpen(t, kill(t, b), Bounds{}, newClock())
	check(t, b.add(event("t", "98"), event("t", "99"), event("t", "100")))
	s, ok := b.next(func(topic string, _ fleet.Class) bool { return topic == "t" })
	if !ok || !s.doubt {
		t.Fatalf("%s is to be sent without asking the engine whether it has it", s.id)
	}
	i := slices.Index(b.firstIDs(s.order), "99") // which is the engine's last
	if i < 0 {
		t.Fatal("what the engine has is not recognised")
	}
	b.stored(s.order, "S", i+1)
	if got := everything(b)["t"]; !slices.Equal(got, []string{"100"}) {
		t.Errorf("sent is %v, want 100 alone", got)
	}
	// It goes a little later.
	check(t, b.tick(true))
	check(t, b.tick(true))
	check(t, b.tick(true))
	check(t, b.store.Scan([]byte{keyRecord}, func(key, _ []byte) error { return fmt.Errorf("%x is still there", key) }))
	check(t, b.store.Scan([]byte{keyQueue}, func(key, _ []byte) error { return fmt.Errorf("%x is still there", key) }))
}

// TestSameMessageOnTwoTopics: a message that somebody says on two topics is two.
//
// It was seen to fail while the second was taken for a repetition.
func TestSameMessageOnTwoTopics(t *testing.T) {
	t.Parallel()
	b := mustOpen(t, filepath.Join(t.TempDir(), "outbox"), Bounds{}, newClock())
	for range 2 { // and again
		check(t, b.add(event("t", "1"), event("u", "1")))
	}
	b = mustOpen(t, kill(t, b), Bounds{}, newClock())
	check(t, b.add(event("t", "1"), event("u", "1")))
	got := everything(b)
	if len(got["t"]) != 1 || len(got["u"]) != 1 || got["t"][0] != "1" || got["u"][0] == "1" {
		t.Errorf("sent is %v, want one record of each topic, with different ids", got)
	}
}

// TestTopicsBound: as many topics as may wait keep out others of their class, and nothing else: no alert, and not what the uplink itself says. Topics of which
// nothing waits any more keep out nobody.
//
// It was seen to fail while all classes had one bound.
func TestTopicsBound(t *testing.T) {
	t.Parallel()
	b := mustOpen(t, filepath.Join(t.TempDir(), "outbox"), Bounds{}, newClock())
	alert, reading := event("alert", "a"), event("reading", "r")
	alert.class, reading.class = fleet.Alert, fleet.Telemetry
	var many []*record
	for i := range maxTopics + 1 {
		many = append(many, event(fmt.Sprint("event/", i), fmt.Sprint("e", i)))
	}
	check(t, b.add(many...))
	check(t, b.add(alert, reading, event(fleet.OwnLosses, "l"), event(fleet.OwnJobs, "j")))
	got := b.contents(t)
	for _, topic := range []string{"alert", "reading", fleet.OwnLosses, fleet.OwnJobs, "event/0", fmt.Sprint("event/", maxTopics-1)} {
		if len(got[topic]) != 1 {
			t.Errorf("of %s %v waits", topic, got[topic])
		}
	}
	if l := b.state.Load().losses; l[fleet.Event].Count != 1 || len(l) != 1 || l[fleet.Event].Why != "topics" {
		t.Errorf("lost: %v, want one event", l)
	}
	everything(b)
	check(t, b.add(event("another", "n")))
	if got := b.contents(t); len(got["another"]) != 1 {
		t.Error("topics of which nothing waits keep out another")
	}
}

// TestNobodysRecords: records whose topic a damaged disk has forgotten are counted.
//
// It was seen to fail while they were thrown away in silence.
func TestNobodysRecords(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "outbox")
	b := mustOpen(t, dir, Bounds{}, newClock())
	batch := event("power/battery", "b")
	batch.class, batch.batch, batch.count = fleet.Telemetry, true, 7
	check(t, b.add(event("t", "1"), event("t", "2"), batch))
	check(t, b.close())
	s, err := store.Open(dir, store.Options{})
	check(t, err)
	var forget store.Batch
	forget.DeleteRange([]byte{keyQueue}, []byte{keyQueue + 1})
	check(t, s.Commit(&forget))
	check(t, s.Close())
	for range 2 {
		b = mustOpen(t, dir, Bounds{}, newClock())
		if l := b.state.Load().losses; l[fleet.Event].Count != 2 || l[fleet.Telemetry].Count != 7 || l[fleet.Event].Why != "disk" {
			t.Errorf("lost: %v, want 2 events and 7 readings", l)
		}
		check(t, b.close())
	}
}

// A pretended engine has the last record of one topic, and keeps what it is told.
type pretended struct {
	engine

	mu     sync.Mutex // guards the fields below
	lastID string
	got    []string
	asked  func()
	keeps  func(topic string, body []byte) error
}

func (p *pretended) connected() (time.Time, bool) { return time.Now(), true }

func (p *pretended) store(_ context.Context, r *record, _ *uint64) (stored, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got, p.lastID = append(p.got, r.id), r.id
	return stored{stream: "S"}, nil
}

func (p *pretended) last(context.Context, string, string) (string, uint64, error) {
	if p.asked != nil {
		p.asked()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastID, 1, nil
}

func (p *pretended) keep(_ context.Context, topic string, body []byte) error {
	return p.keeps(topic, body)
}

// TestDroppedWhileAsked: a record of which it is not known whether the engine has it is dropped while the engine is asked, and the engine has it. It is not
// stored again.
//
// It was seen to fail while what was dropped was not recognised.
func TestDroppedWhileAsked(t *testing.T) {
	t.Parallel()
	c := newFakeClock()
	b := mustOpen(t, filepath.Join(t.TempDir(), "outbox"), Bounds{Age: map[fleet.Class]time.Duration{fleet.Event: time.Hour}}, c.clock())
	check(t, b.add(event("t", "1")))
	anything := func(string, fleet.Class) bool { return true }
	s, _ := b.next(anything)
	b.stored(s.order, "S", 1) // so that the stream is known
	check(t, b.add(event("t", "2"), event("t", "3")))
	s, _ = b.next(anything)
	b.unsent(s.order, true)
	e := &pretended{lastID: "2"}
	e.asked = func() {
		c.pass(2 * time.Hour)
		check(t, b.tick(true))
		check(t, b.add(event("t", "4")))
	}
	h := newHistory(b, e, slog.New(slog.DiscardHandler))
	s, ok := b.next(anything)
	if !ok || s.id != "2" || !s.doubt || s.stream != "S" {
		t.Fatalf("%s is to be sent, doubt %v", s.id, s.doubt)
	}
	h.flying, h.bytes = 1, len(s.body)
	r := h.send(t.Context(), s)
	h.land(&r)
	e.asked = nil
	if got := everything(b)["t"]; !slices.Equal(got, []string{"4"}) {
		t.Errorf("then %v is sent, want 4", got)
	}
	if len(e.got) > 0 {
		t.Errorf("%v is stored, and the engine has it", e.got)
	}
	if l := b.state.Load().losses[fleet.Event]; l.Count != 1 {
		t.Errorf("%d are lost, want the third", l.Count)
	}
}

// TestLargeMessageInBatch: a message that is too large for the engine takes no others with it, and what is in no batch yet takes only so much memory.
//
// It was seen to fail while a batch took in whatever came.
func TestLargeMessageInBatch(t *testing.T) {
	t.Parallel()
	b := newBatches(time.Hour)
	for range 5 {
		if b.add("t", []byte(`{}`), time.Now()) != nil {
			t.Fatal("it is full")
		}
	}
	full := b.add("t", make([]byte, 1<<20), time.Now())
	if full == nil || full.count != 5 {
		t.Fatal("the five before a large message are no batch of their own")
	}
	full = b.add("t", []byte(`{}`), time.Now())
	if full == nil || full.count != 1 {
		t.Fatal("a large message is not alone in its batch")
	}
	n := 1 + b.waiting()
	for i := range 160 {
		if full := b.add(fmt.Sprint("t/", i), bytes.Repeat([]byte("x"), 60_000), time.Now()); full != nil {
			n -= full.count
		}
		n++
	}
	if b.bytes > openBytes || b.waiting() != n-1 {
		t.Errorf("%d bytes are in %d messages that wait, want %d at most in %d", b.bytes, b.waiting(), openBytes, n-1)
	}
	if b.due(true); b.bytes != 0 || b.waiting() != 0 {
		t.Errorf("%d bytes are left", b.bytes)
	}
}

// TestManyTopics: topics that have gone quiet keep the latest values and the history of others out no longer.
//
// It was seen to fail while none was ever forgotten.
func TestManyTopics(t *testing.T) {
	t.Parallel()
	p := &tap{rates: map[string]*allowance{}}
	for i := range maxSlots {
		p.allowed(fmt.Sprint("t/", i), 600)
	}
	eventually(t, "a new topic has a history", func() bool { return p.allowed("new", 600) })

	var mu sync.Mutex
	got := map[string]bool{}
	e := &pretended{keeps: func(topic string, body []byte) error {
		mu.Lock()
		defer mu.Unlock()
		got[topic+string(body)] = true
		return nil
	}}
	l := newLatest(e, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { l.run(ctx, nil) })
	defer work.Wait()
	defer cancel()
	for i := range 2 * maxSlots {
		name := fmt.Sprint("t/", i)
		eventually(t, "there is room for "+name, func() bool {
			l.set(name, []byte("x"), time.Duration(i%2)*time.Millisecond)
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.slots[name] != nil
		})
	}
	eventually(t, "a new topic has a latest value", func() bool {
		l.set("new", []byte("y"), time.Second) // there may be room only when the last of the others have gone quiet
		mu.Lock()
		defer mu.Unlock()
		return got["newy"]
	})
}

// TestLatestAfterTooLarge: a value that the engine does not take since it is too large keeps back none that came while it was on its way.
//
// It was seen to fail while that was forgotten with it.
func TestLatestAfterTooLarge(t *testing.T) {
	t.Parallel()
	var l *latest
	small := make(chan struct{})
	var once sync.Once
	e := &pretended{keeps: func(topic string, body []byte) error {
		if len(body) > 10 {
			l.set(topic, []byte("small"), 0)
			return &rejection{kind: tooLarge, text: "too large"}
		}
		once.Do(func() { close(small) })
		return nil
	}}
	l = newLatest(e, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { l.run(ctx, nil) })
	defer work.Wait()
	defer cancel()
	l.set("t", make([]byte, 100), 0)
	select {
	case <-small:
	case <-testContext(t).Done():
		t.Error("the value that came meanwhile is not sent")
	}
}

// TestMQTTEmptyRecord: that a message had nothing in it, as of an alert that is over, is a record like others: the broker has it as the last of its topic, so
// that it is known afterwards whether it does.
//
// It was seen to fail while an empty record had the broker forget the one before it.
func TestMQTTEmptyRecord(t *testing.T) {
	engine := ownBroker(t)
	k := newConsumer(t, engine)
	m := newMower(t)
	m.up(engine, nil)
	m.say("safety/alerts/x")
	check(t, m.c.Publish(testContext(t), "safety/alerts/x", message.NewRaw(nil), client.WithRetain(true)))
	m.say("system/events/last")
	c, err := fleet.Engine{URL: engine}.DialMQTT(testContext(t), fleet.MQTTSession{})
	check(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	eventually(t, "it is the last record", func() bool {
		d, ok, err := c.Retained(testContext(t), fleet.HistoryTopic("m-1", "safety/alerts/x"))
		return err == nil && ok && fleet.UserProperty(d, fleet.HeaderBatch) == "1" && fleet.UserProperty(d, fleet.HeaderID) != ""
	})
	eventually(t, "both came", func() bool { return len(k.of("safety/alerts/x")) == 2 })
	if id := k.of("safety/alerts/x")[1]; id != "" {
		t.Errorf("the second is %s, want nothing", id)
	}
}
