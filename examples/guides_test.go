package examples

import (
	"bytes"
	"context"
	"fmt"
	"net"
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
)

// The guides are run as they stand: what a reader would type is typed here, in the order of the page. A block with a language is one of
//
//	sh      commands for bash, in the directory where those before have ended; tried again until they do what the page says
//	text    after sh: lines that the commands must print in this order, with … for anything and spaces as they come
//	others  a file, if a comment before names it
//
// and a comment before the block, or between blocks, says what a reader does without being told in the language:
//
//	<!-- test: file NAME -->        the next block is that file
//	<!-- test: background NAME -->  the next block goes on in a terminal of its own
//	<!-- test: interrupt NAME -->   Ctrl-C there
//	<!-- test: exit CODE -->        the next block ends with that code
//
// The port 1883 is one that is free.

// blockTime is what a block may take until it has done what the page says. Some compile a program with all that it needs, on a busy machine.
const blockTime = 5 * patience

// TestGuides runs the guides.
func TestGuides(t *testing.T) {
	bin := guideTools(t)
	for _, name := range []string{"first-service", "hardware", "troubleshooting", "migration"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runGuide(t, bin, filepath.Join("..", "docs", name+".md"))
		})
	}
}

// guideTools makes a directory with the command, and a Python that has paho-mqtt.
func guideTools(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	built := filepath.Join(t.TempDir(), "lawnberry")
	if out, err := exec.Command("go", "build", "-o", built, "../cmd/lawnberry").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for name, line := range map[string]string{
		"python3": fmt.Sprintf("exec %q \"$@\"", pahoPython(t)),
		// The port of the test is for the services; a reader's command finds the broker by itself.
		"lawnberry": fmt.Sprintf("unset LAWNBERRY_BROKER_URL\nexec %q \"$@\"", built),
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+line+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

// pahoPython returns a Python that has paho-mqtt.
func pahoPython(t *testing.T) string {
	t.Helper()
	for _, p := range []string{os.Getenv("LAWNBERRY_TEST_PYTHON"), "python3", "/usr/bin/python3"} {
		if p == "" || exec.Command(p, "-c", "import paho.mqtt.client").Run() != nil {
			continue
		}
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	t.Fatal("no Python with paho-mqtt found: run make test, or install Debian's package python3-paho-mqtt")
	return ""
}

// A step is a block of a guide, or what is done between blocks.
type step struct {
	line       int // of the page
	lang, body string
	file       string
	background string
	interrupt  string
	code       int
	want       string // that it prints
}

var directive = regexp.MustCompile(`^<!-- test: (\S+) (\S+) -->$`)

// parseGuide returns the steps of a page.
func parseGuide(page string) (steps []step, err error) {
	var next step
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		if m := directive.FindStringSubmatch(lines[i]); m != nil {
			switch m[1] {
			case "file":
				next.file = m[2]
			case "background":
				next.background = m[2]
			case "interrupt":
				steps = append(steps, step{line: i + 1, interrupt: m[2]})
			case "exit":
				if next.code, err = strconv.Atoi(m[2]); err != nil {
					return nil, fmt.Errorf("line %d: %w", i+1, err)
				}
			default:
				return nil, fmt.Errorf("line %d: there is no %s", i+1, m[1])
			}
			continue
		}
		lang, fenced := strings.CutPrefix(lines[i], "```")
		if !fenced {
			continue
		}
		end := slices.Index(lines[i+1:], "```")
		if end < 0 {
			return nil, fmt.Errorf("line %d: a block has no end", i+1)
		}
		body := strings.Join(lines[i+1:i+1+end], "\n") + "\n"
		next.line, next.lang, next.body = i+1, lang, body
		i += end + 1
		switch {
		case lang == "text":
			if len(steps) == 0 || steps[len(steps)-1].lang != "sh" {
				return nil, fmt.Errorf("line %d: nothing prints this", next.line)
			}
			steps[len(steps)-1].want = body
		case lang == "sh", next.file != "":
			steps = append(steps, next)
		default:
			return nil, fmt.Errorf("line %d: a block of %q is neither run nor a file", next.line, lang)
		}
		next = step{}
	}
	return steps, nil
}

// A reader follows a guide.
type reader struct {
	t       *testing.T
	page    string
	dir     string // of everything
	port    string
	env     []string
	running map[string]*terminal
}

// A terminal is one in which something goes on.
type terminal struct {
	cmd   *exec.Cmd
	out   *os.File
	ended chan struct{}
}

func runGuide(t *testing.T, bin, page string) {
	body, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := parseGuide(string(body))
	if err != nil {
		t.Fatalf("%s: %v", page, err)
	}
	r := &reader{t: t, page: page, dir: t.TempDir(), port: freePort(t), running: map[string]*terminal{}}
	r.env = r.environment(bin)
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(r.dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(root, filepath.Join(work, "lawnberry")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.place(), []byte(work), 0o600); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for _, s := range steps {
		switch s.body = strings.ReplaceAll(s.body, "1883", r.port); {
		case s.interrupt != "":
			r.interrupt(s)
		case s.file != "":
			if err := os.WriteFile(filepath.Join(r.where(), s.file), []byte(s.body), 0o600); err != nil {
				t.Fatal(err)
			}
		case s.background != "":
			r.begin(s)
		default:
			r.do(s)
		}
	}
}

// freePort returns a TCP port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// environment is that of a reader whose mower is in a directory of the test. Modules come from the cache, as far as they are there.
func (r *reader) environment(bin string) []string {
	goEnv, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY").Output()
	if err != nil {
		r.t.Fatal(err)
	}
	words := strings.Fields(string(goEnv))
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "LAWNBERRY_") || strings.HasPrefix(e, "MQTT_") })
	return append(env,
		"PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin", "GOPROXY=file://"+words[0]+"/cache/download,"+words[1], "GOSUMDB=off", "GOFLAGS=", "GOWORK=off",
		"LAWNBERRY_DATA_DIR="+filepath.Join(r.dir, "data"), "LAWNBERRY_BROKER_PORT="+r.port, "LAWNBERRY_BROKER_URL=tcp://localhost:"+r.port,
		"LAWNBERRY_INTEGRATION_WEBSOCKET_BRIDGE_PORT=0", "PYTHONUNBUFFERED=1",
	)
}

// place is the file that says in which directory the reader is.
func (r *reader) place() string { return filepath.Join(r.dir, "place") }

func (r *reader) where() string {
	r.t.Helper()
	dir, err := os.ReadFile(r.place())
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(dir))
}

func (r *reader) bash(ctx context.Context, script string) *exec.Cmd {
	c := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	c.Dir, c.Env = r.where(), r.env
	return c
}

// do runs a block until it does what the page says.
func (r *reader) do(s step) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), blockTime)
	defer cancel()
	first := ""
	for {
		var out bytes.Buffer
		c := r.bash(ctx, "trap 'pwd >"+r.place()+"' EXIT\n"+s.body)
		c.Stdout, c.Stderr, c.WaitDelay = &out, &out, time.Second
		err := c.Run()
		text := out.String()
		missing := missingLine(text, s.want)
		if c.ProcessState != nil && c.ProcessState.ExitCode() == s.code && missing == "" {
			return
		}
		if first == "" {
			first = fmt.Sprintf("%v\n%s", err, text)
		}
		select {
		case <-time.After(200 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		r.t.Fatalf("%s:%d:\n%s\n%v, without %q\n%s\nat first: %s\n%s", r.page, s.line, s.body, err, missing, text, first, r.said())
	}
}

// missingLine returns the first line of want that is not in a text, behind the one before.
func missingLine(text, want string) string {
	var lines []string
	for l := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	for l := range strings.Lines(want) {
		l = strings.Join(strings.Fields(l), " ")
		fits := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(l), "…", ".*") + "$")
		i := slices.IndexFunc(lines, fits.MatchString)
		if i < 0 {
			return l
		}
		lines = lines[i+1:]
	}
	return ""
}

// begin runs a block in a terminal of its own.
func (r *reader) begin(s step) {
	r.t.Helper()
	out, err := os.Create(filepath.Join(r.dir, s.background+".out"))
	if err != nil {
		r.t.Fatal(err)
	}
	c := r.bash(context.WithoutCancel(r.t.Context()), s.body)
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for all of them
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	term := &terminal{cmd: c, out: out, ended: make(chan struct{})}
	r.running[s.background] = term
	go func() {
		defer close(term.ended)
		_ = c.Wait() // how it ended is of no importance to who has pressed Ctrl-C
	}()
}

func (r *reader) interrupt(s step) {
	r.t.Helper()
	term := r.running[s.interrupt]
	if term == nil {
		r.t.Fatalf("%s:%d: nothing is called %s", r.page, s.line, s.interrupt)
	}
	delete(r.running, s.interrupt)
	if !term.stop() {
		r.t.Errorf("%s:%d: %s did not end", r.page, s.line, s.interrupt)
	}
}

// stop presses Ctrl-C, and reports whether that was enough.
func (term *terminal) stop() bool {
	defer term.out.Close()
	group := -term.cmd.Process.Pid
	select {
	case <-term.ended: // what it started has ended too, or must
		_ = syscall.Kill(group, syscall.SIGKILL)
		return true
	default:
	}
	_ = syscall.Kill(group, syscall.SIGINT)
	select {
	case <-term.ended:
		return true
	case <-time.After(patience):
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-term.ended
	return false
}

// close ends what goes on, services before their broker.
func (r *reader) close() {
	names := make([]string, 0, len(r.running))
	for name := range r.running {
		if name != "serve" {
			names = append(names, name)
		}
	}
	if r.running["serve"] != nil {
		names = append(names, "serve")
	}
	for _, name := range names {
		if !r.running[name].stop() {
			r.t.Errorf("%s: %s did not end\n%s", r.page, name, r.said())
		}
	}
}

// said returns what was printed last in the other terminals.
func (r *reader) said() string {
	var all strings.Builder
	for name, term := range r.running {
		if text, err := os.ReadFile(term.out.Name()); err == nil {
			lines := strings.Split(string(text), "\n")
			fmt.Fprintf(&all, "-- %s\n%s\n", name, strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	}
	return all.String()
}

func TestParseGuide(t *testing.T) {
	page := "# A guide\n<!-- test: background serve -->\n```sh\nlawnberry serve\n```\n<!-- test: file a.go -->\n```go\npackage a\n```\n" +
		"<!-- test: exit 4 -->\n```sh\nfalse\n```\n```text\na … b\n```\n<!-- test: interrupt serve -->\n"
	steps, err := parseGuide(page)
	want := []step{
		{line: 3, lang: "sh", body: "lawnberry serve\n", background: "serve"}, {line: 7, lang: "go", body: "package a\n", file: "a.go"},
		{line: 11, lang: "sh", body: "false\n", code: 4, want: "a … b\n"}, {line: 17, interrupt: "serve"},
	}
	if err != nil || !slices.Equal(steps, want) {
		t.Errorf("%+v, %v\nwant %+v", steps, err, want)
	}
	for _, wrong := range []string{"```sh\nls", "```go\npackage a\n```", "```text\na\n```", "<!-- test: sleep 3 -->", "<!-- test: exit soon -->"} {
		if steps, err := parseGuide(wrong); err == nil {
			t.Errorf("%q is taken as %+v", wrong, steps)
		}
	}
	for _, tt := range []struct{ text, want, missing string }{
		{"x\na  1 b\ny\n", "a … b\ny\n", ""}, {"y\na 1 b\n", "a … b\ny\n", "y"}, {"a 1 bc\n", "a … b\n", "a … b"}, {"", "", ""},
	} {
		if got := missingLine(tt.text, tt.want); got != tt.missing {
			t.Errorf("of %q in %q %q is missing, want %q", tt.want, tt.text, got, tt.missing)
		}
	}
}
