package mosquitto

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/message"
)

func rawMessage(text string) message.Message { return message.NewRaw([]byte(text)) }

// script is a program that behaves as its text says; $MOSQUITTO is the real one.
func script(t testing.TB, body string) string {
	t.Helper()
	real, err := look("")
	check(t, err)
	path := filepath.Join(t.TempDir(), "mosquitto")
	check(t, os.WriteFile(path, []byte("#!/bin/sh\nMOSQUITTO='"+real+"'\n"+body+"\n"), 0o700))
	return path
}

// A program that cannot be used is refused with what to do about it.
func TestBinary(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, binary, want string }{
		{"missing", filepath.Join(t.TempDir(), "none"), "cannot be run"},
		{"too old", script(t, "echo 'mosquitto version 1.6.9'"), "is Mosquitto 1.6.9, and version 2 is needed"},
		{"something else", script(t, "echo hello"), "does not say that it is Mosquitto"},
		{"fails", script(t, "exit 7"), "does not say that it is Mosquitto"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := tryStart(t, Options{Binary: tt.binary})
			var wrong *BinaryError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "broker.mosquitto.binary") ||
				!strings.Contains(err.Error(), "broker.engine to embedded") {
				t.Errorf("got %v", err)
			}
		})
	}
	if text := (&BinaryError{}).Error(); !strings.Contains(text, "apt-get install mosquitto") {
		t.Error(text)
	}
	for said, want := range map[string]string{"mosquitto version 2.0.11\n\nmosquitto is": "2.0.11", "mosquitto version 2.1.0": "2.1.0"} {
		path := script(t, "printf '"+strings.ReplaceAll(said, "\n", `\n`)+"'; exit 3")
		if _, version, err := find(testContext(t), path); err != nil || version != want {
			t.Errorf("%q: %q, %v", said, version, err)
		}
	}
}

// The program is found without its name where it usually is.
func TestFind(t *testing.T) {
	path := script(t, `exec "$MOSQUITTO" "$@"`)
	t.Setenv("PATH", filepath.Dir(path))
	if got, err := look(""); err != nil || got != path {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv("PATH", t.TempDir())
	if got, err := look(""); err == nil && !strings.Contains(got, "sbin/") {
		t.Errorf("%q", got)
	}
}

// What Mosquitto does not take is said in its words, with what to do, and leaves nothing behind.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	check(t, os.WriteFile(empty, nil, 0o600))
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"certificate", Options{Listeners: []Listener{{Network: "tcp", Address: "127.0.0.1:0", TLS: &TLS{CertFile: empty, KeyFile: empty}}}}, "look at the files of broker.tls"},
		{"ends at once", Options{Binary: script(t, `[ "$1" = -c ] && exit 9; exec "$MOSQUITTO" "$@"`), Listeners: local()}, "it says nothing (exit status 9)"},
		{"says why", Options{Binary: script(t, `[ "$1" = -c ] && { echo 'Error: no room' >&2; exit 9; }; exec "$MOSQUITTO" "$@"`), Listeners: local()}, "Error: no room (exit status 9)"},
		{"never answers", Options{Binary: script(t, `[ "$1" = -c ] && exec sleep 1000; exec "$MOSQUITTO" "$@"`), Listeners: local(),
			tune: func(s *times) { s.start = 200 * time.Millisecond }}, "no answer within 200ms"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := tryStart(t, tt.o)
			var failed *StartError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Nothing that comes from outside becomes a line of Mosquitto's configuration.
func TestNothingBecomesALine(t *testing.T) {
	t.Parallel()
	password := Verifier("a long password")
	for i, o := range []Options{
		{Persist: t.TempDir() + "/a\nallow_anonymous true"},
		{Listeners: []Listener{{Network: "tcp", Address: "127.0.0.1:0", TLS: &TLS{CertFile: "/x\nallow_anonymous true", KeyFile: "/y"}}}},
		{Listeners: []Listener{{Network: "udp", Address: "127.0.0.1:0"}}},
		{Listeners: local(), Logins: Logins{Users: []User{{"ann\nbob", password}}}},
		{Listeners: local(), Logins: Logins{Users: []User{{"ann:x", password}}}},
		{Listeners: local(), Logins: Logins{Users: []User{{" ann", password}}}},
		{Listeners: local(), Logins: Logins{Users: []User{{"ann", password + "\nbob:"}}}},
		{Listeners: local(), Logins: Logins{Users: []User{{"ann", "a long password"}}}},
		{Listeners: local(), Logins: Logins{Grants: []Grant{{"ann", Read, "a\ntopic readwrite #"}}}},
		{Listeners: local(), Logins: Logins{Grants: []Grant{{"ann\nuser bob", Read, "a"}}}},
		{Listeners: local(), Logins: Logins{Grants: []Grant{{"ann", Read, "responses/%c"}}}},
	} {
		if o.Listeners == nil {
			o.Listeners = local()
		}
		if _, err := tryStart(t, o); err == nil {
			t.Errorf("case %d is accepted", i)
		} else if strings.Contains(err.Error(), "a long password") {
			t.Errorf("case %d shows the password: %v", i, err)
		}
	}
	if _, err := Start(testContext(t), Options{Dir: "relative"}); err == nil {
		t.Error("a relative directory is accepted")
	}
}

// The configuration says what ours says.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	b := start(t, Options{
		Dir: dir, MaxConnections: 7, MaxPacketSize: 12345, MaxQueued: 77, MaxQueuedBytes: 8888, Persist: filepath.Join(dir, "kept"), Listeners: local(),
	})
	raw, err := os.ReadFile(filepath.Join(dir, configName))
	check(t, err)
	_, port, _ := strings.Cut(strings.TrimPrefix(b.URL(), "tcp://"), ":")
	for _, want := range []string{
		"max_connections 7", "max_packet_size 12345", "max_queued_messages 77", "max_queued_bytes 8888", "set_tcp_nodelay true",
		"persistence true", "persistence_location " + filepath.Join(dir, "kept") + "/", "autosave_on_changes true", fmt.Sprint("autosave_interval ", saveEvery),
		"listener " + port + " 127.0.0.1", "allow_anonymous false", "password_file passwords",
	} {
		if !strings.Contains(string(raw), "\n"+want+"\n") {
			t.Errorf("%q is missing in\n%s", want, raw)
		}
	}
	if strings.Contains(string(raw), "acl_file") {
		t.Error("there is an acl file without access control")
	}
}
