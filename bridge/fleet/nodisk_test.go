package fleet

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/message"
)

// TestStopWithoutDisk: an uplink that finds no disk it can use, and no place for temporary files either, takes no command, and a job waits for the disk. The
// emergency stop is engaged all the same. So it is when the record of commands is damaged.
//
// It was seen to fail while the way down needed a directory to start.
func TestStopWithoutDisk(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
	}{
		{"no disk", func(t *testing.T, dir string) {
			check(t, os.WriteFile(filepath.Join(dir, "m-1"), nil, 0o600))
			t.Setenv("TMPDIR", filepath.Join(dir, "nothing"))
		}},
		{"damaged record of commands", func(t *testing.T, dir string) {
			s, err := store.Open(filepath.Join(dir, "m-1"), store.Options{})
			check(t, err)
			var b store.Batch
			b.Set([]byte(ledgerPrefix+"x"), []byte("rubbish"))
			check(t, s.Commit(&b))
			check(t, s.Close())
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := ownBroker(t)
			w := newMeadow(t, engine)
			test.spoil(t, w.dir)
			var log lockedBuffer
			u, err := Start(testContext(t), Options{
				Logger: slog.New(slog.NewTextHandler(&log, nil)),
				Mower:  "m-1", Client: client.Options{URL: w.url}, Engine: fleet.Engine{URL: engine}, Dir: w.dir, Down: []string{"*/*"}, KeysFile: w.operators,
			})
			check(t, err)
			stop := func() { _ = u.Stop(testContext(t)) } // what it could not write is its error
			t.Cleanup(stop)
			w.online(true)
			stopped, err := w.anna.Stop(testContext(t), "m-1", "a dog")
			if err != nil || !stopped.Engaged {
				t.Errorf("%+v, %v", stopped, err)
			}
			if _, err := w.anna.Call(testContext(t), "m-1", "navigation", "count", named("a")); code(err) != client.CodeRefused {
				t.Errorf("a command without a record: %v", err)
			}
			eventually(t, "the broker keeps jobs for the mower", func() bool {
				_, err := w.anna.AddJob(testContext(t), "m-1", "navigation", "count", named("a"), time.Now().Add(time.Hour), 0)
				return err == nil
			})
			eventually(t, "the job was looked at", func() bool { return strings.Contains(log.String(), "a job from the fleet waits") })
			if n := w.runs("a"); n != 0 {
				t.Errorf("it ran %d times", n)
			}
		})
	}
}

// TestInterruptedOnFullDisk: that it cannot be written down what became of commands that a crash had interrupted keeps nothing from starting, and they do not
// run again.
//
// It was seen to fail while the way down did not start then.
func TestInterruptedOnFullDisk(t *testing.T) {
	t.Parallel()
	y := newBareYard(t, natstest.Start(t))
	l, _, closeIt := newLedger(t, y.dir)
	again := y.make(raw{service: "navigation", keys: y.private})
	in := inbound{service: "navigation", body: again.Data, header: again.Header.Get, received: time.Now()}
	r, err := readRequest(&in, message.Limits{})
	check(t, err)
	check(t, l.begin(&execution{
		key: r.key(), service: "navigation", command: "count", digest: r.digest[:], begun: message.Seconds(time.Now()), expires: r.m.Metadata.ExpiresAt,
	}))
	closeIt()
	disk := &fullDisk{}
	y.start(func(o *downlinkOptions) {
		check(t, o.store.Close())
		var err error
		o.store, err = store.Open(y.dir, store.Options{FS: errorfs.Wrap(vfs.Default, disk)})
		check(t, err)
		disk.full.Store(true)
	})
	t.Cleanup(func() { disk.full.Store(false) })
	if code, text, _ := y.ask(again); code != fleet.CodeUnknown {
		t.Errorf("%s: %s", code, text)
	}
	if code, text, _ := y.ask(y.make(raw{service: "navigation", keys: y.private})); code != client.CodeRefused {
		t.Errorf("a command while the disk takes nothing: %s: %s", code, text)
	}
	if n := y.runs("navigation raw"); n != 0 {
		t.Errorf("it ran %d times", n)
	}
	_, err = y.anna.Stop(testContext(t), yardMower, "")
	check(t, err)
	if !y.hub.Status().Engaged {
		t.Error("it is not engaged")
	}
	disk.full.Store(false)
	eventually(t, "a command runs when the disk is there again", func() bool {
		code, _, _ := y.ask(y.make(raw{service: "navigation", keys: y.private}))
		return code == ""
	})
}
