package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/topic"
)

func dial(t *testing.T, e Engine) jetstream.JetStream {
	t.Helper()
	c, err := e.DialNATS(t.Name(), nats.RetryOnFailedConnect(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	js, err := jetstream.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func setup(t *testing.T, js jetstream.JetStream, l Limits, replicas int) map[string]Settled {
	t.Helper()
	changes, err := Setup(t.Context(), js, l, replicas)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]Settled)
	for _, c := range changes {
		all[c.Name] = c
	}
	if len(all) != 7 {
		t.Errorf("%d streams and buckets", len(all))
	}
	return all
}

func TestSetup(t *testing.T) {
	t.Parallel()
	js := dial(t, Engine{URL: natstest.Start(t).URL()})
	ctx := t.Context()
	for name, c := range setup(t, js, Limits{}, 1) {
		if c.Result != "created" || c.Bytes == 0 || c.Copies != 1 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for name, c := range setup(t, js, Limits{}, 1) {
		if c.Result != "unchanged" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for name, c := range setup(t, js, Limits{Alerts: 1000 * time.Hour}, 1) {
		want := Settled{Name: name, Result: "unchanged"}
		if name == StreamAlerts {
			want.Result, want.Keys = "changed", []string{"max_age", "max_bytes"}
		}
		if c.Result != want.Result || !slices.Equal(c.Keys, want.Keys) {
			t.Errorf("%s: %+v", name, c)
		}
	}

	// What somebody has changed by hand goes back, what he has added stays.
	s, err := js.Stream(ctx, StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.AllowDirect, cfg.Metadata = false, map[string]string{"owner": "me"}
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if c := setup(t, js, Limits{Alerts: 1000 * time.Hour}, 1)[StreamEvents]; c.Result != "changed" || !slices.Equal(c.Keys, []string{"allow_direct"}) {
		t.Errorf("%+v", c)
	}
	if s, err = js.Stream(ctx, StreamEvents); err != nil || s.CachedInfo().Config.Metadata["owner"] != "me" || !s.CachedInfo().Config.AllowDirect {
		t.Errorf("%+v, %v", s.CachedInfo().Config, err)
	}

	// Buckets are what the client's library takes for such.
	for _, name := range []string{BucketState, BucketPresence, BucketJobs, BucketMowers} {
		kv, err := js.KeyValue(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Put(ctx, "m1.power.battery", []byte("{}")); err != nil {
			t.Error(err)
		}
		status, err := kv.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string]time.Duration{BucketPresence: PresenceTTL, BucketJobs: MaxJobTime + JobEndTime}[name]; status.TTL() != want {
			t.Errorf("%s keeps for %v", name, status.TTL())
		}
	}
}

// Every topic that a mower may send has one stream, also when it has levels that nobody has thought of.
func TestTopicsHaveStreams(t *testing.T) {
	t.Parallel()
	js := dial(t, Engine{URL: natstest.Start(t).URL()})
	setup(t, js, Limits{}, 1)
	r, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{OwnLosses, OwnJobs, "safety/a b/c", "sensors/größe/data"}
	for d := range r.All() {
		name := strings.ReplaceAll(strings.TrimPrefix(d.Pattern, topic.Absolute("")+"/"), "+", "x.1")
		if strings.HasPrefix(name, "commands/") || strings.HasPrefix(name, "responses/") {
			continue
		}
		names = append(names, name)
	}
	for _, name := range names {
		ack, err := js.Publish(t.Context(), HistorySubject("m1", name), []byte("{}"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := StreamTelemetry
		switch first, _, _ := strings.Cut(name, "/"); {
		case first == "safety" || name == "weather/alerts":
			want = StreamAlerts
		case first == "fleet" || strings.HasPrefix(name, "system/events/") || strings.HasPrefix(name, "system/logs/"):
			want = StreamEvents
		}
		if ack.Stream != want {
			t.Errorf("%s is in %s, want %s", name, ack.Stream, want)
		}
	}
	ack, err := js.Publish(t.Context(), JobListSubject("m1"), []byte("{}"))
	if err != nil || ack.Stream != "KV_"+BucketJobs {
		t.Errorf("%+v, %v", ack, err)
	}
	for _, subject := range []string{CommandSubject("m1", "navigation"), JobNudge("m1")} {
		if _, err := js.Publish(t.Context(), subject, nil); !errors.Is(err, jetstream.ErrNoStreamResponse) {
			t.Errorf("%s is kept: %v", subject, err)
		}
	}
}

// The lists of as many mowers as the bucket was made for have room at their largest, and can be changed then; no list is dropped for another.
func TestJobBucket(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	js := dial(t, Engine{URL: c.URLs()})
	const mowers = 40 // more than the least size of a stream has room for
	setup(t, js, Limits{Mowers: mowers}, 3)
	ctx := t.Context()
	largest := make([]byte, MaxJobBytes+maxStopJobBytes+4<<10) // with marks
	var last uint64
	for round := range 2 {
		for i := range mowers {
			ack, err := js.Publish(ctx, JobListSubject(fmt.Sprint("m", i)), largest)
			if err != nil {
				t.Fatalf("list %d, time %d: %v", i, round, err)
			}
			last = ack.Sequence
		}
	}
	if _, err := js.Publish(ctx, JobListSubject(fmt.Sprint("m", mowers-1)), largest[:10], jetstream.WithExpectLastSequencePerSubject(last)); err != nil {
		t.Errorf("a smaller one: %v", err)
	}
	if _, err := js.Publish(ctx, JobListSubject("m0"), make([]byte, mostJobBytes+1)); err == nil {
		t.Error("a list that is too large is taken")
	}
	s, err := js.Stream(ctx, "KV_"+BucketJobs)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != mowers {
		t.Errorf("%d lists", n)
	}
}

// Replicas of a cluster, and the errors that a person meets first.
func TestSetupOfClusters(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	js := dial(t, Engine{URL: c.URLs()})
	for name, c := range setup(t, js, Limits{}, 1) {
		if c.Result != "created" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for name, c := range setup(t, js, Limits{}, 3) {
		if c.Result != "changed" || !slices.Equal(c.Keys, []string{"num_replicas"}) {
			t.Errorf("%s: %+v", name, c)
		}
	}
	until(t, "there are two more replicas", func() bool {
		s, err := js.Stream(t.Context(), StreamAlerts)
		return err == nil && s.CachedInfo().Cluster != nil && len(s.CachedInfo().Cluster.Replicas) == 2
	})
	for name, c := range setup(t, js, Limits{}, 3) {
		if c.Result != "unchanged" {
			t.Errorf("%s: %+v", name, c)
		}
	}

	alone := dial(t, Engine{URL: natstest.Start(t, `jetstream { store_dir: "jetstream", max_file_store: 1GB }`).URL()})
	for _, tt := range []struct {
		l        Limits
		replicas int
		want     string
	}{
		{Limits{Mowers: 1}, 3, "use --replicas 1"},
		{Limits{}, 1, "fewer --mowers"},
		{Limits{}, 2, "2 replicas make no sense"},
		{Limits{Mowers: -1}, 1, "is negative"},
		{Limits{Events: time.Minute}, 1, "events cannot be kept for 1m0s: an hour is the least"},
	} {
		if _, err := Setup(t.Context(), alone, tt.l, tt.replicas); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.l, err, tt.want)
		}
	}
}
