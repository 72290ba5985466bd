//go:build linux

package mosquitto

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// When the process that runs it is killed, Mosquitto ends too, and the next one starts.
func TestOwnerIsKilled(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	self, err := os.Executable()
	check(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), ownerDir+"="+dir)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	var s Stats
	err = json.NewDecoder(out).Decode(&s)
	check(t, cmd.Process.Kill())
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	check(t, err)
	eventually(t, "Mosquitto ends", func() bool { _, ok := born(s.PID); return !ok })
	b := start(t, Options{Dir: dir, Listeners: local(), Logins: Logins{Anonymous: true}})
	if now := b.Stats(); now.Adopted || now.PID == s.PID {
		t.Errorf("%+v", now)
	}
}

// orphan runs a Mosquitto as an earlier run of b that was killed would have left it behind.
func orphan(t *testing.T, b *Broker) *exec.Cmd {
	t.Helper()
	stop(t, b)
	cmd := exec.Command(b.binary, "-c", configName)
	cmd.Dir = b.o.Dir
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	check(t, b.remember(cmd.Process.Pid))
	inner := filepath.Join(b.o.Dir, socketName)
	eventually(t, "it answers", func() bool {
		s, err := b.greet(testContext(t), inner)
		if err == nil {
			s.close()
		}
		return err == nil
	})
	check(t, b.moveSocket(inner))
	return cmd
}

func impatient(s *times) { s.stale = 600 * time.Millisecond }

// One that was left behind and fits is taken over: it goes on, knows the logins of now, is watched, and is ended in the end.
func TestAdopted(t *testing.T) {
	t.Parallel()
	log, logger := newLog(0)
	o := Options{Dir: shortDir(t), Listeners: local(), Logins: Logins{Users: []User{{"ann", Verifier("her old password")}}}, Logger: logger, tune: impatient}
	first := start(t, o)
	left := orphan(t, first)
	c := connect(t, client.Options{URL: first.URL(), Username: "ann", Password: "her old password", ID: "c"})

	o.Logins = Logins{Users: []User{{"bob", Verifier("another password")}}}
	b := start(t, o)
	if s := b.Stats(); !s.Adopted || s.PID != left.Process.Pid || b.URL() != first.URL() {
		t.Fatalf("%+v at %s", s, b.URL())
	}
	eventually(t, "who is no user any more is put out", func() bool { return !c.Stats().Connected })
	publish(t, connect(t, client.Options{URL: b.URL(), Username: "bob", Password: "another password"}), "x", "there")
	if !log.has("level=WARN", "taken over") {
		t.Errorf("the log does not say it:\n%s", log)
	}

	done := make(chan error, 1)
	go func() { done <- left.Wait() }() // as init would
	check(t, left.Process.Kill())
	eventually(t, "one of ours runs", func() bool { s := b.Stats(); return s.Running && !s.Adopted && s.PID != left.Process.Pid })
	<-done
	publish(t, connect(t, client.Options{URL: b.URL(), Username: "bob", Password: "another password"}), "x", "there")
}

// A clean end ends one that was taken over as well.
func TestAdoptedIsStopped(t *testing.T) {
	t.Parallel()
	o := Options{Dir: shortDir(t), Listeners: local(), Logins: Logins{Anonymous: true}, tune: impatient}
	left := orphan(t, start(t, o))
	done := make(chan error, 1)
	go func() { done <- left.Wait() }()
	stop(t, start(t, o))
	check(t, <-done)
}

// One with another configuration is refused, and so is one that does not answer; both are left alone.
func TestStaleIsRefused(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]bool{"other configuration": false, "hung": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Dir: shortDir(t), Listeners: local(), Logins: Logins{Anonymous: true}, tune: impatient}
			left := orphan(t, start(t, o))
			if hang {
				check(t, left.Process.Signal(syscall.SIGSTOP))
			} else {
				o.MaxQueued = 12
			}
			_, err := tryStart(t, o)
			var stale *StaleError
			if !errors.As(err, &stale) || stale.PID != left.Process.Pid || stale.Hung != hang || !strings.Contains(err.Error(), "end it with \"kill ") {
				t.Fatalf("got %v", err)
			}
			if _, ok := born(left.Process.Pid); !ok {
				t.Fatal("it was killed")
			}
			check(t, left.Process.Kill())
			_ = left.Wait()
			start(t, o)
		})
	}
}

// A number that another process has by now, and a file that cannot be relied on, are nothing.
func TestRecordOfAnother(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{}", "nonsense", `{"pid":1,"born":"x"}`, `{"pid":-5,"born":"x"}`} {
		o := Options{Dir: shortDir(t), Listeners: local(), Logins: Logins{Anonymous: true}}
		check(t, os.MkdirAll(o.Dir, 0o700))
		check(t, os.WriteFile(filepath.Join(o.Dir, stateName), []byte(text), 0o600))
		start(t, o)
	}
	bystander := exec.Command("sleep", "1000")
	check(t, bystander.Start())
	o := Options{Dir: shortDir(t), Listeners: local(), Logins: Logins{Anonymous: true}, tune: impatient}
	b := start(t, o)
	stop(t, b)
	check(t, b.remember(bystander.Process.Pid))
	raw, err := os.ReadFile(filepath.Join(o.Dir, stateName))
	check(t, err)
	var r record
	check(t, json.Unmarshal(raw, &r))
	r.Born += "1"
	raw, err = json.Marshal(r)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(o.Dir, stateName), raw, 0o600))
	stop(t, start(t, o))
	if _, ok := born(bystander.Process.Pid); !ok {
		t.Error("a bystander was killed")
	}
	check(t, bystander.Process.Kill())
	_ = bystander.Wait()
}

// One that cannot be given the logins of now is not taken over with those of before.
func TestAdoptionNeedsLogins(t *testing.T) {
	t.Parallel()
	o := Options{Dir: shortDir(t), Listeners: local(), Logins: Logins{Users: []User{{"ann", Verifier("a long password")}}}, tune: impatient}
	left := orphan(t, start(t, o))
	o.Logins.Users[0].Verifier = "nonsense"
	if _, err := tryStart(t, o); err == nil || !strings.Contains(err.Error(), "taking over process") {
		t.Errorf("got %v", err)
	}
	if _, ok := born(left.Process.Pid); !ok {
		t.Error("it was killed")
	}
}
