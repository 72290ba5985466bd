package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
)

// A tmux is a terminal, with a server of its own.
type tmux struct {
	t   *testing.T
	dir string // of the mower's data, and of the server's socket
	env []string
}

func startTmux(t *testing.T, env ...string) *tmux {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatal("tmux is missing: see scripts/test-deps")
	}
	dir, err := os.MkdirTemp("", "lawnberry-top") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &tmux{t: t, dir: dir}
	for _, e := range os.Environ() { // no NO_COLOR, no LAWNBERRY_CONFIG
		if k, _, _ := strings.Cut(e, "="); k == "PATH" || k == "HOME" || k == "TMPDIR" {
			m.env = append(m.env, e)
		}
	}
	m.env = append(m.env, "LANG=C.UTF-8", "TERM=xterm", "PS1=$ ", "USER=anna",
		"GORACE=atexit_sleep_ms=0", "LAWNBERRY_DATA_DIR="+dir+"/data", "LAWNBERRY_BROKER_PORT=0",
		"LAWNBERRY_INTEGRATION_WEBSOCKET_BRIDGE_PORT=0")
	m.env = append(m.env, env...)
	m.run("-f", "/dev/null", "new-session", "-d", "-s", "view", "-x", "120", "-y", "40", "sh")
	t.Cleanup(func() { m.run("kill-server") })
	m.run("new-session", "-d", "-s", "mower", "-x", "120", "-y", "40", "sh")
	return m
}

func (m *tmux) command(name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(context.Background(), name, args...)
	c.Env = m.env
	return c
}

func (m *tmux) run(args ...string) string {
	m.t.Helper()
	out, err := m.command("tmux", append([]string{"-S", m.dir + "/tmux"}, args...)...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("tmux %v: %v: %s", args, err, out)
	}
	return string(out)
}

// types sends a session keys, as tmux names them.
func (m *tmux) types(session string, keys ...string) {
	m.t.Helper()
	m.run(append([]string{"send-keys", "-t", session}, keys...)...)
}

func (m *tmux) screen(session string) string { return m.run("capture-pane", "-p", "-t", session) }

func (m *tmux) eventually(what string, ok func() bool) {
	m.t.Helper()
	deadline := time.After(90 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			m.t.Fatalf("never: %s; the screens are\n%s\n%s", what, m.screen("view"), m.screen("mower"))
		}
	}
}

// shows waits until the screen of a session matches.
func (m *tmux) shows(session string, patterns ...string) {
	m.t.Helper()
	for _, p := range patterns {
		re := regexp.MustCompile("(?m)" + p)
		m.eventually(session+" shows "+p, func() bool { return re.MatchString(m.screen(session)) })
	}
}

// normal waits for a program's exit code, and checks that the terminal is as a shell needs it.
func (m *tmux) normal(session string, code int) {
	m.t.Helper()
	m.shows(session, fmt.Sprintf(`(^|# |\$ )code=%d$`, code))
	m.types(session, "clear; stty -a | tr ' ;' '\\n\\n' | grep -x -e icanon -e echo -e isig -e opost | sort | tr '\\n' ' '; echo end", "Enter")
	m.shows(session, `(^|# |\$ )echo icanon isig opost end$`)
	state := strings.TrimSpace(m.run("display-message", "-p", "-t", session,
		"cursor #{cursor_flag}, other screen #{alternate_on}, mouse #{mouse_any_flag}"))
	if state != "cursor 1, other screen 0, mouse 0" {
		m.t.Errorf("%s is left with %s", session, state)
	}
	m.types(session, "clear", "Enter")
}

// serve runs a broker, and returns what kills it.
func (m *tmux) serve() (kill func()) {
	m.t.Helper()
	c := m.command("lawnberry", "serve")
	if err := c.Start(); err != nil {
		m.t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
	m.t.Cleanup(kill)
	m.eventually("serve answers", func() bool {
		return m.command("lawnberry", "service", "wait", "emergency_stop", "--timeout", "5s").Run() == nil
	})
	return kill
}

// bus connects to the broker, as somebody else.
func (m *tmux) bus() *client.Client {
	m.t.Helper()
	c, err := client.Connect(m.t.Context(), client.Options{URL: "unix://" + m.dir + "/data/lawnberry.sock"})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = disconnect(c) })
	return c
}

// releases has the emergency stop released.
func (m *tmux) releases(c *client.Client) {
	m.t.Helper()
	m.eventually("it is released", func() bool {
		s, err := safety.ReadStatus(m.t.Context(), c)
		return err == nil && (!s.Engaged || safety.Release(m.t.Context(), c, "tester", s.Sequence) == nil)
	})
}

// top and demo on a real terminal: looked into, stopped, cut off, and left. In the demo people walk past the mower at any time, so that its own
// service may be the first to engage the emergency stop.
func TestTopAndDemoOnATerminal(t *testing.T) {
	t.Parallel()
	m := startTmux(t)
	kill := m.serve()
	bus := m.bus()
	m.releases(bus)
	m.types("mower", "lawnberry demo --broker unix://"+m.dir+"/data/lawnberry.sock; echo code=$?", "Enter")
	m.shows("mower", `^lawnberry demo`, `navigation +healthy`, `^stop +`)
	m.types("view", "lawnberry top; echo code=$?", "Enter")
	m.shows("view", `^STOP (released .*s or space: STOP|ENGAGED .* by safety)`, `msg/s`, `services 8/8`,
		`^> emergency_stop +healthy`, `sensors/imu/data +\d+\.\d\d +\d+`, `^late p50 \d`)

	// Into a service and a topic, and back.
	m.types("view", "j", "Down", "Enter")
	m.shows("view", `^service navigation`, `command dock +Drives back`, `What it counts`)
	m.types("view", "Escape")
	m.shows("view", `^> navigation`)
	m.types("view", "Tab", "/")
	m.types("view", "-l", "imu/d")
	m.types("view", "Enter", "Enter")
	m.shows("view", `^topic sensors/imu/data`, `from +hardware_interface, \d+ messages`, `sensor_data hardware_interface \{"sensor_type":"imu"`)

	// A small terminal still shows the stop, and what is chosen.
	m.types("view", "Escape", "Escape")
	m.run("resize-window", "-t", "view", "-x", "40", "-y", "10")
	m.shows("view", `^STOP `, `^> sensors/`, `^q: quit  s: STOP`)
	m.run("resize-window", "-t", "view", "-x", "120", "-y", "40")
	m.shows("view", `^  emergency_stop +healthy`)

	// STOP, as somebody else sees it.
	m.types("view", "Space")
	m.eventually("it is engaged, and the motors stand", func() bool {
		s, err := safety.ReadStatus(t.Context(), bus)
		anna := slices.ContainsFunc(s.Causes, func(c safety.Cause) bool { return c.By == "anna" && c.Reason == "STOP was pressed in lawnberry top" })
		return err == nil && s.Known && s.Engaged && anna && len(s.Participants) > 0 && len(missing(s)) == 0
	})
	m.shows("view", `^STOP ENGAGED .*by (anna: STOP was pressed in lawnberry top|safety)`,
		`pressed .*, confirmed; stopped: hardware_interface after \d+\.\d ms`)
	m.shows("mower", `^stop +ENGAGED by`)

	// The broker dies, and comes back.
	kill()
	m.shows("view", `^STOP unknown, which is engaged`, `^DISCONNECTED since \d\d:\d\d:\d\d`)
	kill = m.serve()
	m.shows("view", `^STOP ENGAGED`, `connected \d+.*reconnect`)
	m.types("view", "q")
	m.normal("view", 0)
	m.types("mower", "C-c")
	m.shows("mower", `^emergency stop +\d+ engagement`)
	m.shows("mower", `(^|# |\$ )code=[01]$`) // messages may have been lost with the broker
	m.normal("mower", codeOn(m.screen("mower")))

	// Pressed without a broker: said at the end.
	m.types("view", "lawnberry top; echo code=$?", "Enter")
	m.shows("view", `^STOP ENGAGED`)
	kill()
	m.shows("view", `^DISCONNECTED`)
	m.types("view", "s")
	m.shows("view", `NOT SENT YET`)
	m.types("view", "q")
	m.shows("view", `the emergency stop was not sent`)
	m.normal("view", exitNoBroker)
}

// codeOn is the exit code that a screen shows.
func codeOn(screen string) int {
	code, _ := strconv.Atoi(regexp.MustCompile(`code=(\d+)`).FindStringSubmatch(screen)[1])
	return code
}

// However top ends, the terminal is as it was.
func TestTopLeavesTheTerminal(t *testing.T) {
	t.Parallel()
	m := startTmux(t)
	m.serve()
	for name, end := range map[string]func(pid int){
		"Ctrl-C":  func(int) { m.types("view", "C-c") },
		"SIGTERM": func(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) },
		"SIGINT":  func(pid int) { _ = syscall.Kill(pid, syscall.SIGINT) },
		"SIGHUP":  func(pid int) { _ = syscall.Kill(pid, syscall.SIGHUP) },
	} {
		t.Log(name)
		pid := m.pidOf("lawnberry top")
		m.shows("view", `services 1/1`)
		end(pid)
		m.normal("view", 0)
	}

	// To the background and back.
	m.types("view", "lawnberry top; echo code=$?", "Enter")
	m.shows("view", `services 1/1`)
	m.types("view", "C-z")
	m.shows("view", `(?i)stopped`)
	m.types("view", "clear; fg", "Enter")
	m.shows("view", `services 1/1`)
	m.types("view", "q")
	m.eventually("it has ended", func() bool { return !strings.Contains(m.screen("view"), "services 1/1") })
	m.types("view", "clear; echo code=0", "Enter")
	m.normal("view", 0)

	// A fault of the program's own.
	m.types("view", "testpanic update 2>"+m.dir+"/panic; echo code=$?", "Enter")
	m.normal("view", exitFailed)
	text, err := os.ReadFile(m.dir + "/panic")
	if err != nil || !bytes.Contains(text, []byte("the mower fell into the pond")) || !bytes.Contains(text, []byte("by a fault of its own")) {
		t.Errorf("%v: %s", err, text)
	}
	m.types("view", "testpanic command 2>"+m.dir+"/panic; echo code=$?", "Enter")
	m.normal("view", exitFailed)

	// Terminals that cannot do it.
	for line, want := range map[string]string{
		"TERM=dumb lawnberry top":   `top needs a terminal, and this one \(TERM="dumb"\) cannot place a cursor`,
		"TERM= lawnberry top":       `top needs a terminal, and this one`,
		"lawnberry top </dev/null":  `top needs a terminal, and standard input, where the keys come from, is none`,
		"lawnberry top 2>&1 | cat":  `top needs a terminal, and standard output is none`,
		"lawnberry demo --for 100x": `invalid argument`,
	} {
		m.types("view", line+"; echo code=${PIPESTATUS:-$?}", "Enter")
		m.shows("view", want)
		if !strings.Contains(line, "|") {
			m.normal("view", exitUsage)
		}
		m.types("view", "clear", "Enter")
	}
}

// Without colour there is none.
func TestTopColours(t *testing.T) {
	t.Parallel()
	m := startTmux(t)
	m.serve()
	colours := regexp.MustCompile("\x1b\\[[0-9;]*3[0-9]")
	for line, want := range map[string]bool{"lawnberry top": true, "lawnberry top --no-color": false, "NO_COLOR=1 lawnberry top": false} {
		m.types("view", line, "Enter")
		m.shows("view", `services 1/1`, `^STOP ENGAGED`)
		if got := colours.MatchString(m.run("capture-pane", "-p", "-e", "-t", "view")); got != want {
			t.Errorf("%s: colours %v, want %v", line, got, want)
		}
		m.types("view", "q")
		m.eventually("it has ended", func() bool { return !strings.Contains(m.screen("view"), "services 1/1") })
		m.types("view", "clear", "Enter")
	}
}

// pidOf runs a program in the session view, and returns its process id.
func (m *tmux) pidOf(line string) (pid int) {
	m.t.Helper()
	path := filepath.Join(m.dir, "pid")
	_ = os.Remove(path)
	m.types("view", "sh -c 'echo $$ >"+path+"; exec "+line+"'; echo code=$?", "Enter")
	m.eventually("it runs", func() bool {
		text, err := os.ReadFile(path)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err == nil && pid > 1
	})
	return pid
}

// A panicking is a model that fails in the way that it is named for.
type panicking string

func (p panicking) Init() tea.Cmd { return nil }
func (p panicking) View() tea.View {
	v := tea.NewView("well")
	v.AltScreen = true
	return v
}

func (p panicking) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	if _, ok := msg.(tea.WindowSizeMsg); !ok {
		return p, nil
	}
	if p == "update" {
		panic("the mower fell into the pond")
	}
	return p, func() tea.Msg { panic("the mower fell into the pond") }
}

// testPanic shows a screen that fails as its argument says.
func testPanic() {
	t := &tool{stdin: os.Stdin, stdout: &output{Writer: os.Stdout}, stderr: os.Stderr, environ: os.Environ()}
	if err := t.showScreen(context.Background(), panicking(os.Args[1])); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitCode(err))
	}
}
