package chaos

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDamage damages the files of a store between stop and start: bits are flipped, ends cut off, blocks zeroed, files removed
// or lengthened, one to three at once. The broker starts every time, takes messages, and gives out nothing that was not published so.
// What is lost is not lost in silence: the log says what was set aside, and that is there. The one exception is the
// end of the newest log after a kill, which nothing can tell from one that was being written.
//
// Seen failing with a store that opens a damaged directory as an empty one and says nothing, and with one that does not look at
// checksums.
func TestDamage(t *testing.T) {
	random := seeded(t)
	rounds := pick(16, 400)
	bases := []*damageBase{newDamageBase(t, false), newDamageBase(t, true)}
	var sum damageSum
	for i := range rounds {
		if bases[i%2].round(t, random, &sum); t.Failed() {
			t.Logf("after %d rounds", i)
			break
		}
	}
	t.Logf("%d rounds, %d places: %d without a loss, %d with one that the log names, %d that lost the end of the newest log; kept %d of %d retained and %d of %d queued messages",
		rounds, sum.places, sum.whole, sum.named, sum.tail, sum.retained, sum.retainedOf, sum.queued, sum.queuedOf)
	if sum.named == 0 || sum.whole == 0 {
		t.Error("this has tested nothing")
	}
}

type damageSum struct {
	places, whole, named, tail             int
	retained, retainedOf, queued, queuedOf int
}

// A damageBase is a store to be damaged, with what is in it.
type damageBase struct {
	dir        string // of the data directory
	killed     bool   // the broker was, so that there is a log
	publisher  *peer
	retained   int
	queued     int
	subscriber string
}

func newDamageBase(t *testing.T, killed bool) *damageBase {
	ctx := within(t, time.Minute)
	s := newServer(t)
	s.start()
	b := &damageBase{dir: s.Dir, killed: killed, retained: 500, queued: 3_000, subscriber: "away"}
	sub := newPeer(peerOptions{ID: b.subscriber, Expiry: stored, Clean: true})
	must(t, sub.connect(ctx, s.Addr), sub.subscribe(ctx, 2, "queued/#"))
	sub.disconnect(0)
	b.publisher = newPeer(peerOptions{ID: "publisher", Expiry: stored, Clean: true})
	must(t, b.publisher.connect(ctx, s.Addr))
	fill := func(retained, queued int) {
		var topics []string
		for i := range retained {
			topics = append(topics, fmt.Sprint("retained/", i))
		}
		b.publisher.flood(ctx, load{QoS: 1, Retain: true, Topics: topics, Count: retained})
		b.publisher.flood(ctx, load{QoS: 1, Topics: []string{"queued/1"}, Count: queued / 2})
		b.publisher.flood(ctx, load{QoS: 2, Topics: []string{"queued/2"}, Count: queued / 2})
		must(t, b.publisher.drain(ctx))
	}
	fill(b.retained, b.queued/2)
	b.publisher.disconnect(0)
	if code, _ := s.stop(); code != 0 { // what there is so far is in tables
		t.Fatalf("exit code %d", code)
	}
	s.start()
	must(t, b.publisher.connect(ctx, s.Addr))
	fill(b.retained/2, b.queued/2) // new values for some
	b.publisher.disconnect(0)
	if killed {
		s.kill()
	} else if code, _ := s.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	return b
}

// round damages a copy and starts a broker on it.
func (b *damageBase) round(t *testing.T, random *rand.Rand, sum *damageSum) {
	t.Helper()
	ctx := within(t, time.Minute)
	s := newServer(t)
	s.Faulty = true
	must(t, os.MkdirAll(filepath.Dir(s.Dir), 0o700), os.CopyFS(s.Dir, os.DirFS(b.regular(t))))
	places, tail := b.damage(t, random, s.Dir)
	sum.places += len(places)

	s.start()
	sub := newPeer(peerOptions{ID: b.subscriber, Expiry: stored})
	must(t, sub.connect(ctx, s.Addr))
	reader := newPeer(peerOptions{ID: "reader"})
	must(t, reader.connect(ctx, s.Addr), reader.subscribe(ctx, 1, "retained/#"))
	settleQuietly(t, sub, reader)
	// It works: a new message goes through, stored and kept.
	again := newPeer(peerOptions{ID: "again", Expiry: stored, Clean: true})
	must(t, again.connect(ctx, s.Addr), again.subscribe(ctx, 1, "new"))
	again.flood(ctx, load{QoS: 1, Topics: []string{"new"}, Count: 10})
	must(t, again.drain(ctx), again.until(ctx, func() bool { return again.counts.Received == 10 }))

	retained, queued := b.count(t, places, reader, sub)
	lost := retained < b.retained || queued < b.queued
	aside := setAside(t, s.log.String())
	sum.retained += retained
	sum.retainedOf += b.retained
	sum.queued += queued
	sum.queuedOf += b.queued
	switch {
	case !lost:
		sum.whole++
	case len(aside) > 0:
		sum.named++
	case tail:
		sum.tail++
	default:
		t.Errorf("lost without a word after %s: %d of %d retained and %d of %d queued messages are there\n%s",
			strings.Join(places, ", "), retained, b.retained, queued, b.queued, s.log)
	}
	for _, p := range []*peer{sub, reader, again} {
		p.check(t)
		p.disconnect(0)
	}
	// Damage is repaired once.
	if code, _ := s.stop(); code != 0 {
		t.Errorf("exit code %d after %s", code, strings.Join(places, ", "))
	}
	s.start()
	if more := setAside(t, s.log.String()); len(more) > 0 {
		t.Errorf("after %s, and a repair, damage again: %s", strings.Join(places, ", "), more)
	}
	s.kill()
}

// count checks what has come against what was published, and returns how many of it.
func (b *damageBase) count(t *testing.T, places []string, reader, sub *peer) (retained, queued int) {
	t.Helper()
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf("after %s: %s", strings.Join(places, ", "), fmt.Sprintf(format, args...))
	}
	if n := reader.numbers().Foreign + sub.numbers().Foreign; n > 0 {
		wrong("%d messages that nobody published", n)
	}
	for i := range b.retained {
		name := fmt.Sprint("retained/", i)
		in := reader.incoming[streamID{name, b.publisher.number}]
		newest := len(b.publisher.outgoing[name].state) - 1
		switch {
		case in == nil:
		case in.highest == newest:
			retained++
		case in.highest > newest || in.distinct > 1:
			wrong("%s has %d values, the newest is number %d of %d", name, in.distinct, in.highest, newest)
		}
	}
	for qos := 1; qos <= 2; qos++ {
		name := fmt.Sprint("queued/", qos)
		in := sub.incoming[streamID{name, b.publisher.number}]
		if in == nil {
			continue
		}
		queued += in.distinct
		if in.duplicates+len(in.misordered) > 0 || in.highest >= b.queued/2 {
			wrong("%s: %d duplicates, %d out of order, highest number %d of %d", name, in.duplicates, len(in.misordered), in.highest, b.queued/2)
		}
	}
	return retained, queued
}

// settleQuietly waits until peers have got all that waits for them.
func settleQuietly(t testing.TB, peers ...*peer) {
	t.Helper()
	ctx := within(t, time.Minute)
	for _, p := range peers {
		for before := -1; before != p.numbers().Received; { // a PINGRESP comes after what was queued
			before = p.numbers().Received
			must(t, p.ping(ctx), p.ping(ctx))
		}
	}
}

// regular returns the base without what cannot be copied.
func (b *damageBase) regular(t *testing.T) string {
	t.Helper()
	err := os.Remove(filepath.Join(b.dir, "lawnberry.sock")) // a killed broker leaves it behind
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return b.dir
}

// damage does it in one to three places of the store in dir, and returns them. tail is that the end of the newest log may be
// among them.
func (b *damageBase) damage(t *testing.T, random *rand.Rand, dir string) (places []string, tail bool) {
	t.Helper()
	var files []string
	must(t, filepath.WalkDir(filepath.Join(dir, "store"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && e.Name() != "lock" {
			files = append(files, path)
		}
		return err
	}))
	slices.Sort(files)
	for range 1 + random.IntN(3) {
		path := files[random.IntN(len(files))]
		content, err := os.ReadFile(path)
		if os.IsNotExist(err) { // removed already
			continue
		}
		must(t, err)
		what, at := "", 0
		if len(content) > 0 {
			at = random.IntN(len(content))
		}
		switch kind := random.IntN(6); {
		case kind == 0:
			what = "removed"
			must(t, os.Remove(path))
		case kind == 1 || len(content) == 0:
			more := make([]byte, 1+random.IntN(5000))
			for i := range more {
				more[i] = byte(random.Uint32())
			}
			what = fmt.Sprintf("lengthened by %d", len(more))
			content = append(content, more...)
		case kind == 2:
			what = fmt.Sprintf("cut at %d of %d", at, len(content))
			content = content[:at]
		case kind == 3:
			n := min(1+random.IntN(4096), len(content)-at)
			what = fmt.Sprintf("%d bytes zero at %d of %d", n, at, len(content))
			clear(content[at : at+n])
		default:
			what = fmt.Sprintf("bit flipped at %d of %d", at, len(content))
			content[at] ^= 1 << random.IntN(8)
		}
		if what != "removed" {
			must(t, os.WriteFile(path, content, 0o600))
		}
		places = append(places, filepath.Base(path)+" "+what)
		tail = tail || b.killed && strings.HasSuffix(path, ".log")
	}
	return places, tail
}

// setAside returns the files that the log says are set aside, and looks whether they are there.
func setAside(t testing.TB, log string) []string {
	t.Helper()
	var files []string
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "set aside") {
			continue
		}
		var entry struct{ Damaged string }
		must(t, json.Unmarshal([]byte(line), &entry))
		for _, name := range strings.Fields(entry.Damaged) {
			if _, err := os.Stat(name); err != nil {
				// A file that was missing cannot be there, but its directory is.
				if _, err := os.Stat(filepath.Dir(name)); err != nil {
					t.Errorf("the log names %s, and it is not there", name)
				}
			}
			files = append(files, name)
		}
	}
	return files
}
