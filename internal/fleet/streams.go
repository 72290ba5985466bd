package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Limits are how much an engine keeps. The zero value is usable.
//
// What is kept of one mower is bounded by age; what is kept of all of them by bytes too, which JetStream sets aside on each node that has
// a replica, when the streams are made. A byte limit that is reached takes the oldest messages of all mowers away, so it is there for the case that
// something is wrong, such as a mower that floods, and has room to spare.
type Limits struct {
	// Mowers is how many the byte limits are made for, by default 500.
	Mowers int
	// Alerts, Events and Telemetry are the ages that the history's classes are kept to.
	//
	// By default alerts are kept 400 days: last year's season can be compared with this one's. Events 90 days: what led to a repair is still there
	// when somebody asks. Telemetry 7 days: it is by far the most, and what is wanted for longer belongs into a database for that, which reads the stream.
	Alerts, Events, Telemetry time.Duration
}

// Bytes per mower that limits are made for, of an age as above. A mower at its default rates leaves about 9 MB of telemetry a day when it mows
// for eight hours, as JSON of 250 bytes compressed in batches; a busy one 400 events and 20 alerts of 700 bytes.
const (
	telemetryPerDay = 10 << 20
	eventsPerDay    = 512 << 10
	alertsPerDay    = 32 << 10
	statePerMower   = 256 << 10    // a hundred topics of 2.5 kB
	jobsPerMower    = mostJobBytes // the most that its list can have: when the bucket is full no mower can mark or remove a job
	keysPerMower    = 16 << 10     // presence and enrolment, with what the store adds
	leastBytes      = 16 << 20     // of any stream: less than two blocks of its store makes no sense
)

const (
	duplicates = 2 * time.Minute // in which the engine knows a Nats-Msg-Id again; beyond it the uplink asks, see bridge/fleet
	// PresenceTTL is how long a mower is there after what it said of it last; it says it three times as often.
	PresenceTTL = 30 * time.Second
	// maxJobAge is how long a list stays that nobody changes: the mower has not come to tell the ends of its jobs.
	maxJobAge      = MaxJobTime + JobEndTime
	maxSubject     = 100_000 // messages of one topic of one mower: nobody takes all of a stream with one topic
	enrolHistory   = 10      // enrolments of a mower that are remembered
	minimumServer  = 11      // what is older was not tried
	requiredServer = "2.11"
)

func (l Limits) withDefaults() (Limits, error) {
	if l.Mowers < 0 || l.Alerts < 0 || l.Events < 0 || l.Telemetry < 0 {
		return l, errors.New("a limit of the engine's streams is negative")
	}
	day := 24 * time.Hour
	for _, d := range []struct {
		what string
		at   *time.Duration
		of   time.Duration
	}{{"alerts", &l.Alerts, 400 * day}, {"events", &l.Events, 90 * day}, {"telemetry", &l.Telemetry, 7 * day}} {
		if *d.at == 0 {
			*d.at = d.of
		}
		if *d.at < time.Hour {
			return l, fmt.Errorf("%s cannot be kept for %s: an hour is the least", d.what, *d.at)
		}
	}
	if l.Mowers == 0 {
		l.Mowers = 500
	}
	return l, nil
}

// subjects are those of each stream of the history. No subject is in two.
var subjects = map[string][]string{
	StreamAlerts: {"safety.>", "weather.alerts"},
	StreamEvents: {"system.events.>", "system.logs.>", "fleet.>"},
	StreamTelemetry: {
		"navigation.>", "power.>", "sensors.>", "vision.>", "system.health", "system.health_check", "system.services.>", "weather.current", "weather.forecast",
	},
}

// HistoryStreams are the names of the streams of the history.
func HistoryStreams() []string { return []string{StreamAlerts, StreamEvents, StreamTelemetry} }

// Streams returns the streams of an engine with so many replicas, the buckets among them: a bucket is a stream whose name begins with KV_.
func Streams(l Limits, replicas int) ([]jetstream.StreamConfig, error) {
	l, err := l.withDefaults()
	if err != nil {
		return nil, err
	}
	if replicas != 1 && replicas != 3 && replicas != 5 {
		return nil, fmt.Errorf("%d replicas make no sense: want 1 for a server alone, 3 for a cluster, or 5 for one that may lose two nodes", replicas)
	}
	size := func(perMower int64) int64 { return max(int64(l.Mowers)*perMower, leastBytes) }
	perDay := func(perDay int64, age time.Duration) int64 {
		return size(int64(float64(perDay) * max(age.Hours()/24, 1)))
	}
	history := func(name, what string, age time.Duration, bytes int64, compression jetstream.StoreCompression) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: what, Subjects: subjectsOf(name),
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
			MaxAge: age, MaxBytes: bytes, MaxMsgs: -1, MaxMsgsPerSubject: maxSubject, MaxConsumers: -1, MaxMsgSize: -1,
			Storage: jetstream.FileStorage, Compression: compression, Replicas: replicas, Duplicates: duplicates, AllowDirect: true,
		}
	}
	bucket := func(name, what string, keep int64, bytes int64) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: "KV_" + name, Description: what, Subjects: []string{"$KV." + name + ".>"},
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
			MaxBytes: bytes, MaxMsgs: -1, MaxMsgsPerSubject: keep, MaxConsumers: -1, MaxMsgSize: -1,
			Storage: jetstream.FileStorage, Replicas: replicas, Duplicates: duplicates, AllowDirect: true, AllowRollup: true, DenyDelete: true,
		}
	}
	// Those whose keys mowers write take no roll-ups: with one a mower could empty the whole bucket. So there are no markers for presences that
	// have expired, which need roll-ups: who watches notices by its own clock.
	state := bucket(BucketState, "the latest values of the mowers", 1, size(statePerMower))
	state.AllowRollup = false
	jobs := bucket(BucketJobs, "jobs that wait for their mowers or run, a list for each mower", 1, size(jobsPerMower))
	jobs.AllowRollup = false
	jobs.MaxAge, jobs.MaxMsgSize = maxJobAge, mostJobBytes
	presence := bucket(BucketPresence, "mowers whose uplinks are there", 1, size(keysPerMower))
	presence.AllowRollup = false
	presence.MaxAge, presence.Duplicates = PresenceTTL, PresenceTTL
	return []jetstream.StreamConfig{
		history(StreamAlerts, "alerts of the mowers", l.Alerts, perDay(alertsPerDay, l.Alerts), jetstream.S2Compression),
		history(StreamEvents, "events of the mowers, and ends of jobs", l.Events, perDay(eventsPerDay, l.Events), jetstream.S2Compression),
		// Batches are compressed by the mowers.
		history(StreamTelemetry, "readings of the mowers", l.Telemetry, perDay(telemetryPerDay, l.Telemetry), jetstream.NoCompression),
		jobs,
		state,
		presence,
		bucket(BucketMowers, "mowers that were enrolled", enrolHistory, size(keysPerMower)),
	}, nil
}

func subjectsOf(stream string) []string {
	var all []string
	for _, s := range subjects[stream] {
		all = append(all, subjectRoot+".*."+s)
	}
	return all
}

// A Settled is what [Setup] did to a stream or bucket.
type Settled struct {
	Name   string   `json:"name"`
	Result string   `json:"result"`           // "created", "changed" or "unchanged"
	Keys   []string `json:"keys,omitempty"`   // of its configuration that were changed
	Bytes  int64    `json:"bytes"`            // that it may hold, on each node that has it
	Age    float64  `json:"age,omitempty"`    // seconds that it keeps a message at most; 0 is for ever
	Copies int      `json:"copies"`           // replicas
	Denied string   `json:"denied,omitempty"` // why it could not be done; Result is "" then
}

// Setup makes the streams and buckets of an engine, or makes those that are there what they should be. It may be called again. Limits that were changed by
// others go back; what the server adds by itself and metadata stay. It tells what it did also when it fails.
func Setup(ctx context.Context, js jetstream.JetStream, l Limits, replicas int) ([]Settled, error) {
	want, err := Streams(l, replicas)
	if err != nil {
		return nil, err
	}
	if err := enough(js); err != nil {
		return nil, err
	}
	var done []Settled
	for _, cfg := range want {
		change, err := settlePatiently(ctx, js, cfg)
		if err != nil {
			change.Denied = err.Error()
			err = fmt.Errorf("stream %s: %w", cfg.Name, err)
		}
		if done = append(done, change); err != nil {
			return done, err
		}
	}
	return done, nil
}

// enough returns an error when the server is too old.
func enough(js jetstream.JetStream) error {
	version := js.Conn().ConnectedServerVersion()
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil || major > 2 || major == 2 && minor >= minimumServer {
		return nil //nolint:nilerr // what has no version is not judged
	}
	return fmt.Errorf("the engine is NATS %s: %s or newer is needed", version, requiredServer)
}

// settlePatiently is settle, again and again for half a minute while the nodes find out who leads.
func settlePatiently(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) (Settled, error) {
	var before Settled
	for began := time.Now(); ; {
		one, end := context.WithTimeout(ctx, settleTime)
		change, err := settle(one, js, cfg)
		end()
		if err == nil && change.Result == "unchanged" && before.Result != "" { // it was done, and the answer was lost
			change.Result, change.Keys = before.Result, before.Keys
		}
		if err == nil || !passing(err) || time.Since(began) > steadyTime || !pause(ctx, refusedPause) {
			if err != nil {
				change.Result = ""
			}
			return change, err
		}
		if change.Result != "" {
			before = change
		}
	}
}

// passing reports whether an error of a cluster may be over soon.
func passing(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.As(err, &api) && api.ErrorCode == codeNoLeader
}

// settleTime is what a stream may take to be looked at and made.
const settleTime = 10 * time.Second

// codeNoLeader is JetStream's error while its nodes have not agreed who leads.
const codeNoLeader = 10008

// settle makes a stream what it should be. With an error Result is what was tried, "" if nothing was.
func settle(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) (Settled, error) {
	change := Settled{Name: strings.TrimPrefix(cfg.Name, "KV_"), Bytes: cfg.MaxBytes, Age: cfg.MaxAge.Seconds(), Copies: cfg.Replicas}
	s, err := js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		change.Result = "created"
		_, err = js.CreateStream(ctx, cfg)
		return change, explain(err)
	}
	if err != nil {
		return change, err
	}
	is := s.CachedInfo().Config
	if change.Keys, err = differences(is, cfg); err != nil {
		return change, err
	}
	if len(change.Keys) == 0 {
		change.Result = "unchanged"
		return change, nil
	}
	cfg.Metadata = is.Metadata
	change.Result = "changed"
	_, err = js.UpdateStream(ctx, cfg)
	return change, explain(err)
}

// explain adds to an error of the server's what a person can do about it.
func explain(err error) error {
	if api := new(jetstream.APIError); errors.As(err, &api) {
		switch api.ErrorCode {
		case 10047, 10023, 10028, 10005: // storage, memory and resources that are not enough; no suitable peers
			return fmt.Errorf("%w: give the nodes more storage (jetstream.max_file_store), the account more (its JetStream limits), or ask for fewer --mowers or a shorter --keep", err)
		case 10074: // replicas > 1 without a cluster
			return fmt.Errorf("%w: use --replicas 1, or make the server one node of a cluster of three", err)
		}
	}
	return err
}

// differences returns the keys in which a stream is not as it should be. Keys that the server adds are not among them.
func differences(is, want jetstream.StreamConfig) ([]string, error) {
	a, err := fields(is)
	if err != nil {
		return nil, err
	}
	b, err := fields(want)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if string(a[k]) != string(b[k]) {
			keys = append(keys, k)
		}
	}
	for _, k := range []string{"sealed", "no_ack", "republish", "subject_transform", "mirror", "sources"} { // which none of them has
		if _, there := a[k]; there && b[k] == nil {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

func fields(cfg jetstream.StreamConfig) (map[string]json.RawMessage, error) {
	cfg.Metadata = nil
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	err = json.Unmarshal(text, &all)
	return all, err
}
