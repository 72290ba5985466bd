package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/loglevel"
)

const (
	frameEvery = 250 * time.Millisecond // of the live view
	lineEvery  = 2 * time.Second        // where there is no terminal
)

// A showing is the flags of demo.
type showing struct {
	broker string
	span   time.Duration
	seed   uint64
	speed  float64
	alone  bool
}

func (t *tool) demoVerb() *cobra.Command {
	s := &showing{}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run a simulated mower: a broker and seven services that mow a lawn",
		Long: `demo runs a broker and the seven services of a mower that mows a lawn of 20 m by 15 m, and shows what they say to each
other: as a live view on a terminal, else as a line every two seconds. The services connect over TCP, each by itself, as
they would in processes of their own.

The broker listens as the configuration says; when the port is taken, on a free one. With --broker the services use a
broker that runs already. Nothing is kept, unless a data directory is named.

People walk past the mower, and the emergency stop is engaged. On its own broker the demo releases it again, and has the mower go on, when
nothing stands against it any more; on another it leaves that to you, and does not begin before it is released.

It ends when interrupted, or after --for, with a summary (with --json that is all it prints), and with code 1 when a service was
not healthy, a message was lost or a command failed.`,
		Example: `  lawnberry demo
  lawnberry demo --for 10s --json
  lawnberry call navigation dock                 in another terminal
  lawnberry call hardware_interface simulate '{"lifted": true}'`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return s.run(c.Context(), t) },
	}
	f := c.Flags()
	f.StringVarP(&s.broker, "broker", "b", "", "use the broker at `URL`, which runs already, instead of one of its own")
	f.DurationVar(&s.span, "for", 0, "end after this long (default when interrupted)")
	f.Uint64Var(&s.seed, "seed", 0, "repeat the randomness of a run with the same `NUMBER` (default another each time)")
	f.BoolVar(&s.alone, "alone", false, "let nobody walk past the mower")
	f.Float64Var(&s.speed, "speed", 1, "let the mower's time run this many `TIMES` as fast")
	return c
}

// demoLevels returns the levels of what is no service of the demo; those that its services use are quiet.
func (t *tool) demoLevels(c *config.Config, quiet slog.Level) (*loglevel.Levels, error) {
	flag, err := t.levelFlag()
	if err != nil {
		return nil, err
	}
	levels := loglevel.New(new(slog.LevelVar), config.LogPackages()...)
	if flag != nil {
		levels.Configure(*flag, nil)
		return levels, nil
	}
	own := c.LogLevels()
	for _, name := range []string{"broker", "mosquitto", "client", "safety"} {
		if _, named := c.Monitoring.Logging.Levels[name]; !named {
			own[name] = quiet
		}
	}
	levels.Configure(c.LogLevel(), own)
	return levels, nil
}

func (s *showing) run(ctx context.Context, t *tool) error {
	if s.span < 0 || !(s.speed > 0 && s.speed <= 1000) {
		return usagef("want no negative --for, and a --speed over 0, at most 1000")
	}
	loaded, err := t.load()
	if err != nil {
		return err
	}
	// Only the flag: no forgotten LAWNBERRY_BROKER_URL starts a simulated mower on the broker of a real one.
	if s.broker != "" {
		if err := checkURL(s.broker); err != nil {
			return err
		}
		if err := s.checkFree(ctx, t); err != nil {
			return err
		}
	}
	live := !t.json && isTerminal(t.stdout) && t.getenv("TERM") != "dumb"
	tail := &logTail{out: t.stderr}
	level := loaded.Config.LogLevel()
	quiet := max(level, slog.LevelWarn) // eight programs say too much of what goes well
	parts, err := t.logger(tail, quiet)
	if err != nil {
		return err
	}
	levels, err := t.demoLevels(loaded.Config, quiet)
	if err != nil {
		return err
	}
	log := slog.New(levels.Handler(t.logHandler(tail, nil)))
	logProblems(log, loaded)
	if loaded.Origin(bridgeKey) == (config.Origin{}) && s.broker == "" { // unless somebody has said something else
		loaded.Config.Integration.WebSocketBridge.Enabled = true
	}
	a, err := t.startDemo(ctx, app.Options{
		Config: loaded.Config, Version: buildInfo().Version, Logger: log, LogLevels: levels, AnyPort: true, Broker: s.broker,
		Demo: &demo.Options{Seed: s.seed, Speed: s.speed, Alone: s.alone, Logger: parts},
	})
	if err != nil {
		return because(ctx, err)
	}
	for e := range a.Endpoints() {
		log.Info("listening", "network", e.Network, "address", e.Address, "url", e.URL)
	}
	if !t.json && !live {
		fmt.Fprintln(t.stdout, introduction(a))
	}
	err = s.watch(ctx, t, a, live, tail)
	if failed := stop(a.Stop, stopTimeout); err == nil {
		err = failed
	}
	summary := a.Demo().Summary()
	scheme, _, _ := strings.Cut(a.URL(), "://")
	if failed := t.summarise(summary, scheme); err == nil {
		err = failed
	}
	if err == nil && !summary.OK() {
		err = errors.New("demo: " + complaint(summary))
	}
	return err
}

// checkFree refuses a broker on which services run that the demo would push out: they may drive a real mower.
func (s *showing) checkFree(ctx context.Context, t *tool) error {
	found, err := t.discover(ctx, &dialler{broker: s.broker, timeout: connectTimeout}, false)
	if err != nil {
		return err
	}
	var taken []string
	for _, f := range found {
		if !f.gone() && slices.Contains(demo.ServiceIDs(), f.ID) {
			taken = append(taken, f.ID)
		}
	}
	if taken == nil {
		return nil
	}
	return failf(exitRefused, "on %s these services run already, and the demo would take their place: %s; "+
		"stop them, or leave out --broker for a demo with a broker of its own", s.broker, strings.Join(taken, ", "))
}

// startDemo starts a demo, in a data directory of its own unless one was named that is free.
func (t *tool) startDemo(ctx context.Context, o app.Options) (*app.App, error) {
	if t.dataDir != "" || t.getenv("LAWNBERRY_DATA_DIR") != "" {
		dir, err := t.dataDirectory()
		if err != nil {
			return nil, err
		}
		o.DataDir = dir
	}
	a, err := app.Start(ctx, o)
	if busy := (*app.BusyError)(nil); errors.As(err, &busy) {
		o.Logger.Warn("data directory is in use, taking one of its own", "directory", busy.Dir, "holder", busy.Holder)
		o.DataDir = ""
		a, err = app.Start(ctx, o)
	}
	return a, err
}

// introduction says where a demo can be reached.
func introduction(a *app.App) string {
	text := fmt.Sprintf("a mower on %s, as in: lawnberry sub '#' --broker %s", a.URL(), a.URL())
	if page := pageOf(a); page != "" {
		text += "\nand its dashboard: " + page
	}
	return text
}

// bridgeKey switches the dashboard on.
const bridgeKey = "integration.websocket_bridge.enabled"

// pageOf returns where the dashboard is, "" without one.
func pageOf(a *app.App) string {
	if a.Bridge() == nil {
		return ""
	}
	return a.Bridge().URLs()[0]
}

// watch shows the demo until it is over.
func (s *showing) watch(ctx context.Context, t *tool, a *app.App, live bool, tail *logTail) error {
	var over <-chan time.Time
	if s.span > 0 {
		timer := time.NewTimer(s.span)
		defer timer.Stop()
		over = timer.C
	}
	every := lineEvery
	show := func() { fmt.Fprintln(t.stdout, statusLine(a.Demo().Snapshot())) }
	switch {
	case t.json:
		show = func() {}
	case live:
		every = frameEvery
		screen := newScreen(t, strings.TrimSpace(a.URL()+"  "+pageOf(a)), tail)
		defer screen.close()
		show = func() { screen.show(a.Demo().Snapshot()) }
		show()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			show()
		case <-over:
			return nil
		case <-a.Done():
			return errors.New("the broker ended by itself")
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errInterrupted) {
				return cause
			}
			return nil
		}
	}
}

// summarise prints the account of a demo whose services were connected as a URL's scheme says.
func (t *tool) summarise(s demo.Summary, scheme string) error {
	if t.json {
		return writeJSON(t.stdout, s)
	}
	healthy := 0
	for _, v := range s.Services {
		if v.State == "healthy" {
			healthy++
		}
	}
	quantiles := func(l demo.LatencyMS) string {
		return fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, max %.2f ms", l.P50, l.P99, l.Max)
	}
	colour := t.colour(t.stdout)
	rows := table{}
	row := func(name, value string, good bool) {
		st := plain
		if !good {
			st = red
		}
		rows.add(cell{name, bold}, cell{value, st})
	}
	row("services", fmt.Sprintf("%d of %d healthy", healthy, len(s.Services)), healthy == len(s.Services))
	row("messages", fmt.Sprintf("%d published, %d delivered, %d lost, %.1f a second", s.Published, s.Delivered, s.Lost, s.RatePerSecond), s.Lost == 0)
	row("one way", quantiles(s.Latency)+" over "+scheme, true)
	row("round trip", quantiles(s.RoundTrip), true)
	stops := plural(int(s.EmergencyStops.Engaged), "engagement")
	if s.EmergencyStops.Stopped > 0 {
		stops += fmt.Sprintf(", the wheels stood after %.0f ms at most", s.EmergencyStops.SlowestMS)
	}
	row("emergency stop", stops, true)
	row("commands", fmt.Sprintf("%d done, %d failed", s.Commands.OK, s.Commands.Failed), s.Commands.Failed == 0)
	rows.write(t.stdout, colour)
	return nil
}

// complaint says why a summary is not fine.
func complaint(s demo.Summary) string {
	var why []string
	for _, v := range s.Services {
		if v.State != "healthy" {
			why = append(why, v.ID+" was "+v.State)
		}
	}
	if s.Lost > 0 {
		why = append(why, plural(int(s.Lost), "message")+" lost")
	}
	if s.Commands.Failed > 0 {
		why = append(why, plural(int(s.Commands.Failed), "command")+" failed")
	}
	if len(why) == 0 {
		return "not all services ran"
	}
	return strings.Join(why, ", ")
}

// A logTail hands a log on, except while the view has the terminal: then it keeps the last lines.
type logTail struct {
	out io.Writer

	mu    sync.Mutex // guards what follows
	held  bool
	lines []string
}

// tailLines bounds what is kept.
const tailLines = 50

// Write takes one line, as a log handler writes it.
func (l *logTail) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held {
		return l.out.Write(line)
	}
	if len(l.lines) == tailLines {
		l.lines = l.lines[1:]
	}
	l.lines = append(l.lines, strings.TrimRight(string(line), "\n"))
	return len(line), nil
}

// hold keeps what follows back.
func (l *logTail) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
}

// release hands on what was kept, and what follows.
func (l *logTail) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		fmt.Fprintln(l.out, line)
	}
	l.held, l.lines = false, nil
}

// last returns the newest lines that are kept, at most n.
func (l *logTail) last(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines[max(0, len(l.lines)-n):])
}

// A screen is the terminal while the live view has it.
type screen struct {
	t    *tool
	view *view
	tail *logTail
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[2J" // another screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	homeCursor  = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

func newScreen(t *tool, url string, tail *logTail) *screen {
	if isTerminal(t.stderr) { // the log would write over the view
		tail.hold()
	}
	fmt.Fprint(t.stdout, enterScreen)
	return &screen{t: t, view: newView(url, t.colour(t.stdout)), tail: tail}
}

func (s *screen) close() {
	fmt.Fprint(s.t.stdout, leaveScreen)
	s.tail.release()
}

// show draws one frame.
func (s *screen) show(v demo.View) {
	width, height := s.t.screenSize()
	s.t.draw(s.view.frame(v, s.tail.last(2), width, height))
}

// screenSize returns the columns and lines of the terminal that standard output is.
func (t *tool) screenSize() (width, height int) {
	if fd, ok := terminal(t.stdout); ok {
		if w, h, err := term.GetSize(fd); err == nil && w > 0 && h > 0 {
			return w, h
		}
	}
	return 80, 24
}

// draw shows lines in place of what the screen showed, in one write, so that nobody sees half of them.
func (t *tool) draw(lines []string) {
	var frame strings.Builder
	frame.WriteString(homeCursor)
	for i, line := range lines {
		if i > 0 {
			frame.WriteString("\r\n")
		}
		frame.WriteString(line + clearLine)
	}
	frame.WriteString(clearBelow)
	fmt.Fprint(t.stdout, frame.String())
}
