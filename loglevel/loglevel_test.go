package loglevel_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/loglevel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	var general slog.LevelVar
	levels := loglevel.New(&general, "camera", "planner")
	bare := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	log := slog.New(levels.Handler(slog.NewTextHandler(os.Stdout, bare)))
	if err := levels.Set("camera", slog.LevelDebug, 10*time.Minute); err != nil {
		fmt.Println(err)
	}
	log.With(loglevel.Key, "camera").Debug("frame", "number", 7)
	log.With(loglevel.Key, "planner").Debug("not this one")
	fmt.Println(levels.Set("cmaera", slog.LevelDebug, 0))
	// Output:
	// level=DEBUG msg=frame number=7 package=camera
	// unknown package "cmaera", want general or one of camera, planner
}

// shown is what levels.All says: "package level source", and " for" with the time that is left.
func shown(levels *loglevel.Levels) (all []string) {
	for _, l := range levels.All() {
		text := fmt.Sprintf("%s %s %s", l.Package, loglevel.Name(l.Level), l.Source)
		if !l.Until.IsZero() {
			text += " for " + time.Until(l.Until).String()
		}
		all = append(all, text)
	}
	return all
}

func expect(t *testing.T, levels *loglevel.Levels, want ...string) {
	t.Helper()
	if got := shown(levels); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLevels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var general slog.LevelVar
		l := loglevel.New(&general, "web", "client", "web")
		expect(t, l, "general info configured", "client info general", "web info general")
		l.Configure(slog.LevelWarn, map[string]slog.Level{"web": slog.LevelError, "unknown": slog.LevelDebug})
		expect(t, l, "general warn configured", "client warn general", "web error configured")

		must(t, l.Set("client", slog.LevelDebug, 0))
		must(t, l.Set("web", slog.LevelDebug, time.Minute))
		must(t, l.Set(loglevel.General, slog.LevelError, 2*time.Minute))
		expect(t, l, "general error set for 2m0s", "client debug set", "web debug set for 1m0s")
		must(t, l.Reset("client"))
		expect(t, l, "general error set for 2m0s", "client error general", "web debug set for 1m0s")

		// A later one has its own time, and what was before both comes back.
		time.Sleep(30 * time.Second)
		must(t, l.Set("web", slog.LevelInfo, time.Minute))
		must(t, l.Set(loglevel.General, slog.LevelDebug, 3*time.Minute))
		time.Sleep(45 * time.Second)
		expect(t, l, "general debug set for 2m15s", "client debug general", "web info set for 15s")
		time.Sleep(16 * time.Second)
		synctest.Wait()
		expect(t, l, "general debug set for 1m59s", "client debug general", "web error configured")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		expect(t, l, "general warn configured", "client warn general", "web error configured")

		// A configuration ends everything, also what would have ended by itself.
		must(t, l.Set("web", slog.LevelDebug, time.Hour))
		must(t, l.Set(loglevel.General, slog.LevelDebug, 0))
		l.Configure(slog.LevelInfo, nil)
		expect(t, l, "general info configured", "client info general", "web info general")
		must(t, l.Set("web", slog.LevelWarn, 0))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		expect(t, l, "general info configured", "client info general", "web warn set")
		must(t, l.Set("web", slog.LevelWarn, time.Hour))
		must(t, l.Set(loglevel.General, slog.LevelWarn, 0))
		must(t, l.Reset(""))
		expect(t, l, "general info configured", "client info general", "web info general")
		if general.Level() != slog.LevelInfo {
			t.Error("the program's own variable is", general.Level())
		}
	})
}

func TestRefused(t *testing.T) {
	l := loglevel.New(new(slog.LevelVar), "web")
	for _, err := range []error{
		l.Set("", slog.LevelInfo, 0), l.Set("wbe", slog.LevelInfo, 0), l.Set("web", slog.LevelInfo, -1), l.Set("web", slog.LevelInfo, loglevel.MaxTime+1), l.Reset("wbe"),
		loglevel.New(new(slog.LevelVar)).Set("web", slog.LevelInfo, 0),
	} {
		if e := (*loglevel.Error)(nil); !errors.As(err, &e) || e.Error() == "" {
			t.Errorf("%v", err)
		}
	}
	expect(t, l, "general info configured", "web info general")
	for name, want := range map[string]slog.Level{"DEBUG": slog.LevelDebug, "notice": slog.LevelInfo, "warning": slog.LevelWarn, "critical": slog.LevelError} {
		if got, err := loglevel.Parse(name); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := loglevel.Parse("loud"); err == nil || !strings.Contains(err.Error(), "debug, info, warn or error") {
		t.Error(err)
	}
}

func TestHandler(t *testing.T) {
	l := loglevel.New(new(slog.LevelVar), "web", "client")
	must(t, l.Set("web", slog.LevelDebug, 0))
	must(t, l.Set("client", slog.LevelError, 0))
	var out bytes.Buffer
	root := slog.New(l.Handler(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}))) // which counts for nothing
	web := root.With("package", "web", "a", 1)
	root.Info("one")
	root.Debug("not")
	web.Debug("two", "b", 2)
	web.With("package", "client").Warn("not")
	web.With("package", "client").Error("three")
	root.With("package", "elsewhere").Info("four")
	root.With("package", "elsewhere").Debug("not")
	web.WithGroup("g").With("package", "client").Debug("five", "c", 3)
	web.WithGroup("").Debug("six")
	root.With("package", 7).Info("seven") // is no name
	var got []string
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		must(t, json.Unmarshal([]byte(line), &m))
		delete(m, "time")
		delete(m, "level")
		b, err := json.Marshal(m)
		must(t, err)
		got = append(got, string(b))
	}
	want := []string{
		`{"msg":"one"}`, `{"a":1,"b":2,"msg":"two","package":"web"}`, `{"a":1,"msg":"three","package":"client"}`, `{"msg":"four","package":"elsewhere"}`,
		`{"a":1,"g":{"c":3,"package":"client"},"msg":"five","package":"web"}`, `{"a":1,"msg":"six","package":"web"}`, `{"msg":"seven","package":7}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Whoever logs meanwhile disturbs nobody, and the receiver of Changed is told.
func TestConcurrently(t *testing.T) {
	l := loglevel.New(new(slog.LevelVar), "web")
	log := slog.New(l.Handler(slog.DiscardHandler)).With("package", "web")
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for n := range 200 {
				log.Debug("x")
				_ = l.All()
				if err := l.Set([]string{"web", loglevel.General}[(i+n)%2], slog.LevelDebug, time.Duration(n%3)*time.Millisecond); err != nil {
					t.Error(err)
				}
				if n%20 == 0 {
					l.Configure(slog.LevelInfo, nil)
				}
			}
		})
	}
	work.Wait()
	must(t, l.Reset(""))
	expect(t, l, "general info configured", "web info general")
	select {
	case <-l.Changed():
	default:
		t.Error("nobody was told")
	}
}
