// Package loglevel has the levels of a program's log: a general one, and one for each of its parts, all of which can be changed while it runs.
//
//	var general slog.LevelVar
//	levels := loglevel.New(&general, "camera", "planner")
//	log := slog.New(levels.Handler(slog.NewJSONHandler(os.Stderr, nil)))
//	camera := log.With(loglevel.Key, "camera")
//	err := levels.Set("camera", slog.LevelDebug, 10*time.Minute) // and then as before
//
// A service offers them to "lawnberry log level" with service.Options.LogLevels.
package loglevel

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Key is the attribute of a logger that says which part of the program it is of.
const Key = "package"

// General is the name of the level of what has none of its own.
const General = "general"

// MaxTime is the longest time that a level can be set for.
const MaxTime = 7 * 24 * time.Hour

// Levels are the levels of a program's log. Its methods may be called concurrently.
type Levels struct {
	general *slog.LevelVar
	names   []string
	changed chan struct{}

	now atomic.Pointer[map[string]slog.Level] // of packages that have a level of their own

	mu         sync.Mutex            // guards the fields below, and the writing of those above
	before     slog.Level            // the general level, when it was set for the first time
	configured map[string]slog.Level // of packages
	set        map[string]*setting
}

// A setting is a level that was set while the program runs.
type setting struct {
	level slog.Level
	until time.Time   // zero is until it is reset
	timer *time.Timer // nil without until
}

// Where a level comes from.
const (
	SourceGeneral    = "general"    // it is the general one
	SourceConfigured = "configured" // the program's own choice, or its configuration's
	SourceSet        = "set"        // Set
)

// A Level is the level of a package.
type Level struct {
	Package string // General is what the others follow
	Level   slog.Level
	Source  string    // SourceGeneral, SourceConfigured or SourceSet
	Until   time.Time // when it goes back by itself; zero is never
}

// An Error is a package or a level that does not exist.
type Error struct{ text string }

func (e *Error) Error() string { return e.text }

// New returns levels for the packages of those names, which all follow the general one.
func New(general *slog.LevelVar, packages ...string) *Levels {
	l := &Levels{
		general: general, names: slices.Compact(slices.Sorted(slices.Values(packages))), changed: make(chan struct{}, 1), set: map[string]*setting{},
	}
	l.now.Store(&map[string]slog.Level{})
	return l
}

// Parse returns the level of a name. The error names those that there are.
func Parse(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "debug":
		return slog.LevelDebug, nil
	case "info", "information", "notice":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error", "critical":
		return slog.LevelError, nil
	}
	return 0, &Error{fmt.Sprintf("unknown level %q, want debug, info, warn or error", name)}
}

// Name returns the name of a level that Parse knows: debug, info, warn or error, the highest that is not above it.
func Name(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "error"
	case level >= slog.LevelWarn:
		return "warn"
	case level >= slog.LevelInfo:
		return "info"
	}
	return "debug"
}

// Check returns an *[Error] that names all packages when name is neither one of them nor General.
func (l *Levels) Check(name string) error {
	if name == General || slices.Contains(l.names, name) {
		return nil
	}
	if len(l.names) == 0 {
		return &Error{fmt.Sprintf("unknown package %q: there is one level for all, %s", name, General)}
	}
	return &Error{fmt.Sprintf("unknown package %q, want %s or one of %s", name, General, strings.Join(l.names, ", "))}
}

// Configure sets the level that packages follow, and those of packages that do not; names that New was not given are left out. What Set has set is over.
func (l *Levels) Configure(general slog.Level, packages map[string]slog.Level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.set {
		l.resetLocked(name)
	}
	l.general.Set(general)
	l.configured = maps.Clone(packages)
	maps.DeleteFunc(l.configured, func(name string, _ slog.Level) bool { return !slices.Contains(l.names, name) })
	l.applyLocked()
}

// Set sets the level of a package, or of General, until Reset or Configure, or for a time (0 is no such limit) after which it is what it was configured to be. An
// unknown package, or a time below 0 or above MaxTime, is an *[Error].
func (l *Levels) Set(name string, level slog.Level, limit time.Duration) error {
	if err := l.Check(name); err != nil {
		return err
	}
	if limit < 0 || limit > MaxTime {
		return &Error{fmt.Sprintf("a level cannot be set for %s: want more than 0, at most %d days", limit, MaxTime/(24*time.Hour))}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.set[name]
	if old != nil && old.timer != nil {
		old.timer.Stop()
	}
	s := &setting{level: level}
	if limit > 0 {
		s.until = time.Now().Add(limit)
		s.timer = time.AfterFunc(limit, func() { l.expire(name, s) })
	}
	if name == General {
		if old == nil {
			l.before = l.general.Level()
		}
		l.general.Set(level)
	}
	l.set[name] = s
	l.applyLocked()
	return nil
}

// expire ends a setting, unless another has taken its place.
func (l *Levels) expire(name string, s *setting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set[name] == s {
		l.resetLocked(name)
		l.applyLocked()
	}
}

// Reset takes back what Set has set for a package, for General, or with "" for all. An unknown package is an *[Error].
func (l *Levels) Reset(name string) error {
	if name != "" {
		if err := l.Check(name); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range l.set {
		if name == "" || n == name {
			l.resetLocked(n)
		}
	}
	l.applyLocked()
	return nil
}

// resetLocked forgets a setting. l.mu is held.
func (l *Levels) resetLocked(name string) {
	s := l.set[name]
	if s.timer != nil {
		s.timer.Stop()
	}
	delete(l.set, name)
	if name == General {
		l.general.Set(l.before)
	}
}

// applyLocked has handlers use what is configured and set. l.mu is held.
func (l *Levels) applyLocked() {
	now := maps.Clone(l.configured)
	if now == nil {
		now = map[string]slog.Level{}
	}
	for name, s := range l.set {
		if name != General {
			now[name] = s.level
		}
	}
	l.now.Store(&now)
	select {
	case l.changed <- struct{}{}:
	default: // there is a token already
	}
}

// Changed holds one token when levels have changed since the last one was taken. It is for one receiver.
func (l *Levels) Changed() <-chan struct{} { return l.changed }

// All returns all levels: the general one, then those of the packages by name.
func (l *Levels) All() []Level {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Level, 0, len(l.names)+1)
	for _, name := range append([]string{General}, l.names...) {
		v := Level{Package: name, Level: l.of(name), Source: SourceGeneral}
		if _, own := l.configured[name]; own || name == General {
			v.Source = SourceConfigured
		}
		if s := l.set[name]; s != nil {
			v.Source, v.Until = SourceSet, s.until
		}
		all = append(all, v)
	}
	return all
}

// of returns the level of a package; "" and unknown ones have the general one.
func (l *Levels) of(name string) slog.Level {
	if level, own := (*l.now.Load())[name]; own {
		return level
	}
	return l.general.Level()
}
