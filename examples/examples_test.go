// Package examples holds one small program per folder, to start from.
package examples

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	estop "github.com/lawnberry/lawnberry/safety"
)

const patience = time.Minute

// TestMain has programs built as "make build" does, also those of the guides: what was compiled for one serves the others.
func TestMain(m *testing.M) {
	if err := os.Setenv("CGO_ENABLED", "0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// build builds examples, such as "./...", and returns where they are.
func build(t *testing.T, packages string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator), packages).CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// program is an example at work.
type program struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	lines  chan string // closed at the end of the output
	out    *io.PipeWriter
	errors bytes.Buffer
}

func run(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	return runCommand(t, name, "", filepath.Join(dir, name), args...)
}

// runCommand runs a program that finds its broker in the environment.
func runCommand(t *testing.T, name, url, path string, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: name, cmd: exec.Command(path, args...), lines: make(chan string, 10_000)}
	p.cmd.Env = append(os.Environ(), "LAWNBERRY_BROKER_URL="+url)
	p.cmd.Stderr = &p.errors
	read, write := io.Pipe()
	p.cmd.Stdout, p.out = write, write
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(read); lines.Scan(); {
			p.lines <- lines.Text()
		}
		close(p.lines)
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		_ = write.Close()
	})
	return p
}

// expect waits for a line that begins like that.
func (p *program) expect(prefix string) {
	p.t.Helper()
	deadline := time.After(patience)
	var seen []string
	for {
		select {
		case line, ok := <-p.lines:
			if ok && strings.HasPrefix(line, prefix) {
				return
			}
			if seen = append(seen, line); ok {
				continue
			}
		case <-deadline:
		}
		p.t.Fatalf("%s never printed %q, but %q", p.name, prefix, seen)
	}
}

// rest returns what a program that has ended had still to say.
func (p *program) rest() (lines []string) {
	_ = p.out.Close()
	for line := range p.lines {
		lines = append(lines, line)
	}
	return lines
}

// end waits for the program, which must exit with that code, and returns what it wrote to standard error.
func (p *program) end(code int) string {
	p.t.Helper()
	killer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer killer.Stop()
	err := p.cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		p.t.Fatal(err)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("%s exits with %d, want %d: %s", p.name, got, code, p.errors.String())
	}
	return p.errors.String()
}

func (p *program) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatal(err)
	}
	if text := p.end(0); text != "" {
		p.t.Errorf("%s complained: %s", p.name, text)
	}
}

func TestExamples(t *testing.T) {
	dir := build(t, "./...")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	b, err := broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Stop(ctx) }()
	hub, err := estop.StartHub(ctx, estop.HubOptions{Client: client.Options{URL: b.URL()}}) // which "lawnberry serve" has
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hub.Stop(ctx) }()
	c, err := client.Connect(ctx, client.Options{URL: b.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()

	t.Run("quickstart", func(t *testing.T) {
		p := run(t, dir, "quickstart")
		p.expect("service blade is healthy")
		p.expect("service mower is healthy")
		p.expect("the front blade spins at 2800 rpm")
		p.expect(`event blade_spinning from blade: {"RPM":2800}`)
		p.expect("refused: blade spin: 9000 rpm is too fast, at most 3000")
		p.end(0)
	})

	t.Run("services", func(t *testing.T) {
		navigation := run(t, dir, "navigation", "-broker", b.URL()) // waits for hardware
		safety := run(t, dir, "safety", "-broker", b.URL())
		safety.expect("safety is healthy")
		hardware := run(t, dir, "hardware", "-broker", b.URL())
		hardware.expect("hardware_interface is healthy")
		navigation.expect("navigation is healthy")
		navigation.expect("position ")

		var reading struct{ Angle float64 }
		if err := c.Call(ctx, "hardware_interface", "read_sensor", map[string]string{"sensor_id": "tilt"}, &reading); err != nil || reading.Angle < 5 || reading.Angle > 35 {
			t.Errorf("%+v, %v", reading, err)
		}
		err := c.Call(ctx, "hardware_interface", "read_sensor", map[string]string{"sensor_id": "nose"}, nil)
		if err == nil || !strings.Contains(err.Error(), `no sensor "nose", there are gps and tilt`) {
			t.Errorf("%v", err)
		}
		err = c.Call(ctx, "navigation", "start_mowing", map[string]int{"stripes": 12}, nil)
		if err == nil || !strings.Contains(err.Error(), "emergency stop: ") {
			t.Errorf("before the emergency stop was released: %v", err)
		}
		start := func() error { // as soon as it stands on level ground
			s, err := estop.ReadStatus(ctx, c)
			if err == nil && s.Engaged {
				err = estop.Release(ctx, c, "", s.Sequence)
			}
			if err != nil {
				return err
			}
			return c.Call(ctx, "navigation", "start_mowing", map[string]int{"stripes": 12}, nil)
		}
		for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			if err := start(); err == nil {
				break
			} else if time.Now().After(end) {
				t.Fatal(err)
			}
		}
		navigation.expect("mowing 12 stripes")
		hardware.expect("motors turn at 60 %")
		err = c.Call(ctx, "navigation", "start_mowing", map[string]int{"stripes": 0}, nil)
		if err == nil || !strings.Contains(err.Error(), "parameters.stripes must be 1 to 100") {
			t.Errorf("%v", err)
		}
		safety.expect("alert tilt (critical) from safety: the mower stands at 3") // at the next slope
		awaitEngaged(t, c, "")                                                    // and nobody releases it
		// For the slope, or on a busy machine because safety was silent before it.
		hardware.expect("motors stand: emergency stop: ")
		navigation.expect("the lease is over: hardware_interface keep_control: the lease is over: emergency stop: ")

		if err := c.Call(ctx, "hardware_interface", "shutdown", nil, nil); err != nil {
			t.Error(err)
		}
		hardware.end(0)
		navigation.expect("service navigation: healthy -> degraded")
		safety.expect("service hardware_interface is offline: stopped")
		navigation.interrupt()
		safety.expect("service navigation is offline: stopped")
		safety.interrupt()
	})

	t.Run("for a while", func(t *testing.T) {
		p := run(t, dir, "hardware", "-broker", b.URL(), "-for", "500ms")
		p.expect("hardware_interface is healthy")
		p.end(0)
	})

	t.Run("alone", func(t *testing.T) {
		p := run(t, dir, "navigation", "-broker", b.URL(), "-for", "500ms")
		if text := p.end(1); !strings.Contains(text, "navigation: dependency not ready after") || !strings.Contains(text, "hardware_interface (offline") {
			t.Errorf("without hardware: %s", text)
		}
	})

	t.Run("without a broker", func(t *testing.T) {
		for _, name := range []string{"hardware", "navigation", "safety"} {
			p := run(t, dir, name, "-broker", "tcp://127.0.0.1:1", "-for", "300ms")
			if text := p.end(1); !strings.Contains(text, "127.0.0.1:1") || !strings.Contains(text, "refused") {
				t.Errorf("%s: %s", name, text)
			}
		}
	})
}
